"""Roles by order: for layers that carry no names of their own, only a class and a place in the graph.

Keras builds its layers in graph order and counts each class by itself, so the n-th convolution of the file is the
n-th of the network, and the same holds for normalisations.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, quoted
from denseport.layouts.frameworks import Framework, Groups
from denseport.layouts.inference import RANKS, infer_config
from denseport.net.graph import CLASSIFIER, Kind, layers

# What Keras calls the layers of a DenseNet that were given no names, in its versions 1 to 3.
CLASSES: Mapping[Kind, tuple[str, ...]] = {
    "conv": ("conv1d", "conv2d", "conv3d", "convolution2d"),
    "norm": ("batch_normalization", "batch_normalization_v1", "batchnormalization"),
    "dense": ("dense",),
}
# Parts of the names of normalisations that some DenseNets do without.
OPTIONAL_NORMS = ("stem.norm", ".norm2", "head.norm")
NUMBERED = re.compile(r"(?:.*/)?(\w+?)(?:_(\d{1,9}))?")

Shape = tuple[int, ...]


def in_order(checkpoint: Checkpoint, groups: Groups, framework: Framework, stem: str) -> dict[Kind, dict[str, Shape]]:
    """The layers of each kind in the order of the graph, with the canonical shape of their kernel or scale.

    `stem` is the name of the first convolution where it has one.

    Raises:
        LayoutError: A layer has a name that Keras does not give by itself, or no square kernel.
    """
    if stem and stem not in groups:
        raise LayoutError(f"there is no {stem}")
    found: dict[Kind, list[tuple[int, str, Shape]]] = {"conv": [], "norm": [], "dense": []}
    for layer, parameters in groups.items():
        divided = NUMBERED.fullmatch(layer)
        of = next((of for of, classes in CLASSES.items() if divided and divided[1] in classes), None)
        of = "conv" if layer == stem else of
        if of is None or divided is None:
            raise LayoutError(f"{quoted(layer)} is none of Keras' own names for convolutions, norms and dense layers")
        canonical = {framework.canonical_parameter(of, parameter): name for parameter, name in parameters.items()}
        if "weight" not in canonical:
            raise LayoutError(f"{quoted(layer)} has no {framework.parameters[of][0]}")
        shape = framework.canonical_shape(of, checkpoint.tensors[canonical["weight"]].shape)
        if len(shape) not in RANKS[of] or not all(shape):
            raise LayoutError(f"{quoted(layer)} has a {framework.parameters[of][0]} of shape {shape}")
        if len(set(shape[2:])) > 1:
            raise LayoutError(f"{quoted(layer)} has a kernel that is not square, {shape[2:]}")
        found[of].append((-1 if layer == stem else int(divided[2] or 0), layer, shape))
    if checkpoint.format != "h5":  # other formats keep no order: the numbers do
        for layers in found.values():
            layers.sort()
    return {of: {layer: shape for _, layer, shape in own} for of, own in found.items()}


def canonical_by_order(found: Mapping[Kind, Mapping[str, Shape]]) -> dict[str, str | None]:
    """The canonical name of each layer.

    Args:
        found: For each kind, the layers in graph order with the shape of their kernel, canonical (O, I, *spatial), or
            of their scale. Of the layers of a head, only a single dense one is given a name.

    Raises:
        LayoutError: The layers in this order are no DenseNet.
    """
    named: dict[str, str | None] = dict.fromkeys(layer for of_kind in found.values() for layer in of_kind)
    convs = dict(zip(_convolutions([shape[-1] for shape in found["conv"].values()]), found["conv"], strict=True))
    named |= {layer: name for name, layer in convs.items()}
    kernels = {f"{name}.weight": found["conv"][layer] for name, layer in convs.items()}
    config = infer_config(kernels, {"stem_norm": True, "bottleneck_norm": True, "final_norm": True})
    norms = {layer.name: layer.shapes["weight"][0] for layer in layers(config) if layer.kind == "norm"}
    widths = [shape[0] for shape in found["norm"].values()]
    names = _names_of_norms(norms, widths, spare=False) or _names_of_norms(norms, widths, spare=bool(found["dense"]))
    if names:
        named |= dict(zip(found["norm"], names, strict=False))
    else:
        raise LayoutError(
            f"its convolutions are those of blocks {'-'.join(map(str, config.block_config))} with growth rate "
            f"{config.growth_rate}, but its {len(widths)} normalisations are not where a DenseNet has them"
        )
    if len(found["dense"]) == 1 and len(names) == len(widths):
        named |= dict.fromkeys(found["dense"], CLASSIFIER)
    return named


def _names_of_norms(norms: Mapping[str, int], widths: list[int], *, spare: bool) -> list[str]:
    """The names of the first normalisations, by their widths; `spare` ones behind the last may belong to a head."""
    for absent in itertools.chain.from_iterable(itertools.combinations(OPTIONAL_NORMS, n) for n in range(4)):
        names = [name for name in norms if not any(part in name for part in absent)]
        if [norms[name] for name in names] == (widths[: len(names)] if spare else widths):
            return names
    return []


def _convolutions(sides: list[int]) -> Iterator[str]:
    """The canonical names of convolutions, by the sides of their kernels in graph order.

    Where the second one has side 1, dense layers have a bottleneck; any other of side 1 is a transition's.
    """
    kernels = "".join("1" if side == 1 else "3" for side in sides[1:])
    yield from ("stem.conv" for _ in sides[:1])
    b, l = 1, 0  # noqa: E741 - the paper's letter for a layer
    for convs in re.findall("13|1|3" if kernels.startswith("1") else "1|3", kernels):
        if convs == "1":
            yield f"transition{b}.conv"
            b, l = b + 1, 0  # noqa: E741
        else:
            l += 1  # noqa: E741
            yield from (f"block{b}.layer{l}.conv{n}" for n in range(1, len(convs) + 1))
