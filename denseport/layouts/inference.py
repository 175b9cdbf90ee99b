"""The configuration of a DenseNet from the shapes of its tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from denseport.errors import LayoutError
from denseport.net.config import DenseNetConfig
from denseport.net.graph import Kind, kind

Shape = tuple[int, ...]
LAYER = re.compile(r"block(\d+)\.layer(\d+)\.")
MAX_LAYERS = 4096
# How many axes the first parameter of each kind of layer has.
RANKS: Mapping[Kind, tuple[int, ...]] = {"conv": (3, 4, 5), "norm": (1,), "dense": (2,)}
MAX_BLOCKS = 64


def infer_config(shapes: Mapping[str, Shape], architecture: Mapping[str, Any]) -> DenseNetConfig:
    """The configuration that canonical names and shapes come from, with default traits.

    Where tensors disagree, the value that most of them have is taken, so that comparing with
    `graph.shapes` afterwards names the few that are wrong. `architecture` holds what the layout knows;
    it overrides what presence would suggest, so that a tensor the layout must have is missed and not explained away.

    Raises:
        LayoutError: There is no stem convolution or no dense layer, or the numbers are beyond any DenseNet. Of each
            kernel and scale, `is_possible` must hold.
    """
    stems = sorted((name, shape) for name, shape in shapes.items() if re.fullmatch(r"stem\.conv\d*\.weight", name))
    if not stems:
        raise LayoutError("there is no stem convolution")
    block_config = _block_config(shapes)
    bottleneck = bool(list(_of_layers(shapes, "conv2")))
    growth_rate = _usual(_of_layers(shapes, "conv2" if bottleneck else "conv1"))
    if growth_rate is None:
        raise LayoutError("no dense layer has its 3x3 convolution")
    transition_widths = []
    for t in range(1, len(block_config)):
        width = _width(shapes, f"transition{t}.conv", f"block{t + 1}.layer1.norm1", f"block{t + 1}.layer1.conv1")
        if width is None:
            raise LayoutError(f"transition {t} has no convolution")
        transition_widths.append(width)
    classifier = shapes.get("head.classifier.weight")
    present: dict[str, Any] = {
        "dimensions": _dimensions(shapes),
        "stem_kernel": stems[0][1][-1],
        "stem_norm": any(name.startswith("stem.norm") for name in shapes),
        "bottleneck_norm": not bottleneck or any(LAYER.match(name) and ".norm2." in name for name in shapes),
        "final_norm": any(name.startswith("head.norm.") for name in shapes),
        "conv_bias": "stem.conv.bias" in shapes or "stem.conv1.bias" in shapes,
    }
    config = DenseNetConfig(
        growth_rate=growth_rate,
        block_config=block_config,
        stem_widths=_stem_widths(shapes, [name.removesuffix(".weight") for name, _ in stems]),
        bottleneck_width=_usual(_of_layers(shapes, "conv1")) if bottleneck else None,
        transition_widths=tuple(transition_widths),
        in_channels=stems[0][1][1],
        num_classes=classifier[0] if classifier else None,
        classifier_bias=classifier is None or "head.classifier.bias" in shapes,
        **{**present, **{fact: own for fact, own in architecture.items() if fact in present}},
    )
    return config if classifier is None else config.replace(head_shape=head_shape(classifier[-1], config))


def _block_config(shapes: Mapping[str, Shape]) -> tuple[int, ...]:
    """The number of layers of each block, by the highest number that each has."""
    counts: dict[int, int] = {}
    for name in shapes:
        if found := LAYER.match(name):
            block, layer = int(found[1]), int(found[2])
            counts[block] = max(layer, counts.get(block, 0))
    blocks = max(counts, default=0)
    if not 0 < blocks <= MAX_BLOCKS or sum(counts.values()) > MAX_LAYERS:
        raise LayoutError("there is no dense layer" if not blocks else "there are more blocks or layers than nets have")
    if empty := [block for block in range(1, blocks + 1) if block not in counts]:
        raise LayoutError(f"dense block {empty[0]} has no layer, though block {blocks} has")
    return tuple(counts[block] for block in range(1, blocks + 1))


def is_possible(name: str, shape: Shape) -> bool:
    """Whether a canonical kernel or scale may have this shape in any net: it has as many axes, and none is empty."""
    owner, _, parameter = name.rpartition(".")
    return parameter != "weight" or (len(shape) in RANKS[kind(owner)] and all(shape))


def _dimensions(shapes: Mapping[str, Shape]) -> int:
    """The spatial axes that most kernels have."""
    kernels = [shape for name, shape in shapes.items() if name.endswith(".weight") and len(shape) > 2]
    return (_usual(len(shape) for shape in kernels) or 2) - 2


def _stem_widths(shapes: Mapping[str, Shape], stems: list[str]) -> tuple[int, ...]:
    following = [*((stem,) for stem in stems[1:]), ("block1.layer1.norm1", "block1.layer1.conv1")]
    norms = [stem.replace("conv", "norm") for stem in stems]
    read_by = zip(stems, norms, following, strict=True)
    return tuple(_width(shapes, stem, norm, *others) or 0 for stem, norm, others in read_by)


def _width(shapes: Mapping[str, Shape], conv: str, *readers: str) -> int | None:
    """The channels that a convolution gives, as most say: itself, and the layers that read them."""
    stated = {name: shapes[f"{name}.weight"] for name in (conv, *readers) if f"{name}.weight" in shapes}
    return _usual(shape[name != conv and kind(name) == "conv"] for name, shape in stated.items())


def head_shape(entering: int, config: DenseNetConfig) -> tuple[int, ...]:
    """The square map that a flattened head has seen, or () where it sees pooled features, or anything else."""
    positions, rest = divmod(entering, config.features)
    side = round(positions ** (1 / config.dimensions))
    return (side,) * config.dimensions if not rest and side > 1 and side**config.dimensions == positions else ()


def _of_layers(shapes: Mapping[str, Shape], conv: str) -> Iterator[int]:
    """The channels that this convolution gives in each dense layer."""
    return (shape[0] for name, shape in shapes.items() if name.endswith(f".{conv}.weight") and LAYER.match(name))


def _usual(values: Iterable[int]) -> int | None:
    """The most common value, the first of those where several are, or None where there is none."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None
