"""The layers of a DenseNet by canonical name and shape, in the order in which data goes through them.

Canonical parameters are named and laid out as PyTorch does it: `weight` and `bias`, for a normalisation
`running_mean` and `running_var` too; kernels are (O, I, *spatial), the classifier (O, I).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from denseport.net.config import DenseNetConfig

Kind = Literal["conv", "norm", "dense"]

CLASSIFIER = "head.classifier"

PARAMETERS: dict[Kind, tuple[str, ...]] = {
    "conv": ("weight", "bias"),
    "norm": ("weight", "bias", "running_mean", "running_var"),
    "dense": ("weight", "bias"),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with parameters: canonical name, kind, and the shape of each canonical parameter."""

    name: str
    kind: Kind
    shapes: dict[str, tuple[int, ...]]


def layers(config: DenseNetConfig) -> Iterator[Layer]:
    """Each layer that has parameters, in graph order.

    Source: Huang et al. 2017, table 1, with the names of this project.
    """

    def conv(name: str, inputs: int, outputs: int, side: int) -> Layer:
        shapes: dict[str, tuple[int, ...]] = {"weight": (outputs, inputs, *[side] * config.dimensions)}
        return Layer(name, "conv", shapes | ({"bias": (outputs,)} if config.conv_bias else {}))

    def norm(name: str, width: int) -> Layer:
        return Layer(name, "norm", dict.fromkeys(PARAMETERS["norm"], (width,)))

    width = config.in_channels
    for name, outputs in zip(stem_names(config), config.stem_widths, strict=True):
        yield conv(f"stem.conv{name}", width, outputs, config.stem_kernel)
        if config.stem_norm:
            yield norm(f"stem.norm{name}", outputs)
        width = outputs
    for b, count in enumerate(config.block_config, 1):
        for l in range(1, count + 1):  # noqa: E741 - the paper's letter for a layer
            layer = f"block{b}.layer{l}"
            yield norm(f"{layer}.norm1", width)
            if config.bottleneck_width is None:
                yield conv(f"{layer}.conv1", width, config.growth_rate, 3)
            else:
                yield conv(f"{layer}.conv1", width, config.bottleneck_width, 1)
                if config.bottleneck_norm:
                    yield norm(f"{layer}.norm2", config.bottleneck_width)
                yield conv(f"{layer}.conv2", config.bottleneck_width, config.growth_rate, 3)
            width += config.growth_rate
        if b < len(config.block_config):
            yield norm(f"transition{b}.norm", width)
            yield conv(f"transition{b}.conv", width, config.transition_widths[b - 1], 1)
            width = config.transition_widths[b - 1]
    if config.final_norm:
        yield norm("head.norm", width)
    if config.num_classes is not None:
        inputs = width * math.prod(config.head_shape)
        yield Layer(CLASSIFIER, "dense", {"weight": (config.num_classes, inputs), "bias": (config.num_classes,)})


def stem_names(config: DenseNetConfig) -> list[str]:
    """What follows `stem.conv` and `stem.norm`: nothing for the paper's stem, 1, 2, 3 for a deep one."""
    return [""] if len(config.stem_widths) == 1 else [str(n) for n in range(1, len(config.stem_widths) + 1)]


def taps(config: DenseNetConfig) -> dict[str, str]:
    """Where both twins can be looked into, in graph order: each tap's name, and the layer whose output it is.

    A dense layer's tap is the features that it adds, which are the same whatever the order of concatenation. The twins
    have all these layers, whether or not those have parameters. Outputs are the tap `head`, of no layer's name, since
    the two frameworks may end in different ones.
    """
    last = stem_names(config)[-1]
    without_pool = f"stem.relu{last}" if config.stem_norm else f"stem.conv{last}"
    places = {"stem": without_pool if config.traits.stem_pool == "none" else "stem.pool"}
    new_features = "conv1" if config.bottleneck_width is None else "conv2"
    for b, count in enumerate(config.block_config, 1):
        for l in range(1, count + 1):  # noqa: E741 - the paper's letter for a layer
            places[f"block{b}.layer{l}"] = f"block{b}.layer{l}.{new_features}"
        if b < config.blocks:
            places[f"transition{b}"] = f"transition{b}.pool"
    return places | ({"head.norm": "head.norm"} if config.final_norm else {})


def feeding(tap: str, config: DenseNetConfig) -> list[str]:
    """The canonical tensors between a tap, `head` among them, and the one before it, in graph order."""
    others = () if tap != "head" or not config.final_norm else ("head.norm.",)
    return [name for name in shapes(config) if name.startswith(f"{tap}.") and not name.startswith(others)]


@lru_cache(maxsize=16)
def shapes(config: DenseNetConfig) -> Mapping[str, tuple[int, ...]]:
    """Every canonical tensor's shape by its full name, in graph order."""
    return MappingProxyType(
        {f"{layer.name}.{name}": shape for layer in layers(config) for name, shape in layer.shapes.items()}
    )


@lru_cache(maxsize=8192)
def kind(layer: str) -> Kind:
    """The kind of a canonical layer, by its name."""
    last = layer.rpartition(".")[2]
    return "conv" if last.startswith("conv") else "norm" if last.startswith("norm") else "dense"


def parameters(config: DenseNetConfig) -> int:
    """The number of trainable parameters: kernels, biases, and the scale and shift of normalisations."""
    return sum(
        math.prod(shape)
        for layer in layers(config)
        for name, shape in layer.shapes.items()
        if not name.startswith("running_")
    )
