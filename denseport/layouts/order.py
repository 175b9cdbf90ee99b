"""Roles by order: for layers that carry no names of their own, only a class and a place in the graph.

Keras builds its layers in graph order and counts each class by itself, so the n-th convolution of the file is the
n-th of the network, and the same holds for normalisations.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, quoted
from denseport.layouts.frameworks import Framework, Groups
from denseport.layouts.inference import RANKS
from denseport.net.config import DenseNetConfig
from denseport.net.graph import Kind, layers

# What Keras calls the layers of a DenseNet that were given no names, in its versions 1 to 3.
CLASSES: Mapping[Kind, tuple[str, ...]] = {
    "conv": ("conv1d", "conv2d", "conv3d", "convolution2d"),
    "norm": ("batch_normalization", "batch_normalization_v1", "batchnormalization"),
    "dense": ("dense",),
}
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
            of their scale. One dense layer at the most is given a name.

    Raises:
        LayoutError: The layers in this order are no DenseNet; the message names the first that breaks the pattern.
    """
    config = _config(list(found["conv"].items()), list(found["norm"].items()))
    named: dict[str, str | None] = dict.fromkeys(layer for own in found.values() for layer in own)
    for of in ("conv", "norm"):
        expected = [layer.name for layer in layers(config) if layer.kind == of]
        named |= dict(zip(found[of], expected, strict=True))
    if len(found["dense"]) == 1:
        named |= dict.fromkeys(found["dense"], "head.classifier")
    return named


def _config(convs: list[tuple[str, Shape]], norms: list[tuple[str, Shape]]) -> DenseNetConfig:
    """The configuration that has these convolutions and normalisations in this order."""
    if len(convs) < 2:
        raise LayoutError("there are fewer than two convolutions")
    (_, stem), rest = convs[0], convs[1:]
    plain = rest[0][1][-1] > 1
    growth_rate, bottleneck_width = (
        rest[0 if plain else 1][1][0] if len(rest) > 1 else 0,
        None if plain else rest[0][1][0],
    )
    block_config, transition_widths = [0], list[int]()
    at = 0
    while at < len(rest):
        layer, kernel = rest[at]
        own = [kernel] if plain else [shape for _, shape in rest[at : at + 2]]
        if len(own) == (1 if plain else 2) and own[-1][-1] > 1:
            if own[-1][0] != growth_rate or (not plain and own[0][0] != bottleneck_width):
                raise LayoutError(f"{quoted(layer)} {kernel} is no dense layer of growth rate {growth_rate}")
            block_config[-1] += 1
            at += len(own)
        else:
            transition_widths.append(kernel[0])
            block_config.append(0)
            at += 1
    if not all(block_config):
        raise LayoutError("the convolutions in their order form no dense blocks")
    widths = [shape[0] for _, shape in norms]
    for stem_norm, bottleneck_norm, final_norm in itertools.product((True, False), repeat=3):
        config = DenseNetConfig(
            growth_rate=growth_rate,
            block_config=tuple(block_config),
            stem_widths=(stem[0],),
            bottleneck_width=bottleneck_width,
            transition_widths=tuple(transition_widths),
            in_channels=stem[1],
            num_classes=None,
            dimensions=len(stem) - 2,
            stem_kernel=stem[-1],
            stem_norm=stem_norm,
            bottleneck_norm=bottleneck_norm,
            final_norm=final_norm,
        )
        if [layer.shapes["weight"][0] for layer in layers(config) if layer.kind == "norm"] == widths:
            return config
    raise LayoutError(
        f"its convolutions are those of blocks {'-'.join(map(str, block_config))} with growth rate {growth_rate}, but "
        f"its {len(widths)} normalisations do not stand where a DenseNet has them"
    )
