"""The graph of a DenseNet as data: one node a layer, from the image to the answer. All else is read off it.

Canonical parameters are named and laid out as PyTorch does it: `weight` and `bias`, for a normalisation
`running_mean` and `running_var` too; kernels are (O, I, *spatial), of dense layers (O, I).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from denseport.net.config import DenseNetConfig

Kind = Literal[
    "input", "conv", "norm", "relu", "max-pool", "avg-pool", "blur-pool", "concat", "global-pool", "flatten", "dense"
]
Padding = Literal["same", "symmetric", "valid"]
Shape = tuple[int, ...]

IMAGES = "images"
CLASSIFIER = "head.classifier"

PARAMETERS: Mapping[Kind, tuple[str, ...]] = {
    "conv": ("weight", "bias"),
    "norm": ("weight", "bias", "running_mean", "running_var"),
    "dense": ("weight", "bias"),
}


@dataclass(frozen=True, slots=True)
class Node:
    """One layer.

    Attributes:
        name: Canonical.
        kind: What it computes.
        inputs: The nodes whose outputs it takes; a concatenation's in the order in which it joins them.
        width: Channels of its output; behind a flattened map, features.
        kernel: Side of its window.
        stride: Of that window.
        padding: `same` or `symmetric` as in `Traits`, or `valid` for none.
        shapes: The shape of each canonical parameter, in the order of `PARAMETERS`; empty where it has none.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    width: int
    kernel: int
    stride: int
    padding: Padding
    shapes: Mapping[str, Shape]


@lru_cache(maxsize=16)
def graph(config: DenseNetConfig) -> tuple[Node, ...]:
    """Every layer, in the order in which data goes through them.

    Source: Huang et al. 2017, section 3 and table 1, with the names of this project; deep stems and blur pool: timm
    `densenet.py`, `DenseNet`.
    """
    net = _Builder(config)
    net.add(IMAGES, "input", config.in_channels)
    net.stem()
    for b, count in enumerate(config.block_config, 1):
        for l in range(1, count + 1):  # noqa: E741 - the paper's letter for a layer
            net.dense_layer(f"block{b}.layer{l}")
        if b < config.blocks:
            net.transition(f"transition{b}", config.transition_widths[b - 1])
    net.head()
    return tuple(net.nodes.values())


class _Builder:
    """The nodes of a net, as far as they have been added."""

    def __init__(self, config: DenseNetConfig) -> None:
        self._config = config
        self.nodes: dict[str, Node] = {}
        self._last = ""

    def add(
        self,
        name: str,
        kind: Kind,
        width: int | None = None,
        kernel: int = 1,
        stride: int = 1,
        padding: Padding = "same",
        inputs: tuple[str, ...] = (),
    ) -> str:
        """Adds a layer behind the last one, or behind `inputs`; without a width it keeps the channels."""
        inputs = inputs or ((self._last,) if self._last else ())
        entering = sum(self.nodes[each].width for each in inputs)
        width = entering if width is None else width
        shapes = self._shapes(kind, entering, width, kernel)
        self.nodes[name] = Node(name, kind, inputs, width, kernel, stride, padding, shapes)
        self._last = name
        return name

    def _shapes(self, kind: Kind, entering: int, width: int, kernel: int) -> dict[str, Shape]:
        if kind == "norm":
            return dict.fromkeys(PARAMETERS["norm"], (width,))
        if kind == "dense":
            return {"weight": (width, entering), "bias": (width,)}
        if kind == "conv":
            weight = {"weight": (width, entering, *[kernel] * self._config.dimensions)}
            return {**weight, "bias": (width,)} if self._config.conv_bias else weight
        return {}

    def _norm_relu(self, name: str, number: str = "") -> None:
        self.add(f"{name}.norm{number}", "norm")
        self.add(f"{name}.relu{number}", "relu")

    def stem(self) -> None:
        """One convolution or several, and the pool."""
        config, stride, padding = self._config, self._config.traits.stem_stride, self._config.traits.padding
        for number, width in zip(config.stem_numbers, config.stem_widths, strict=True):
            self.add(f"stem.conv{number}", "conv", width, config.stem_kernel, stride, padding)
            if config.stem_norm:
                self._norm_relu("stem", number)
            stride = 1
        if config.traits.stem_pool == "max":
            self.add("stem.pool", "max-pool", kernel=3, stride=2, padding=padding)
        elif config.traits.stem_pool == "max-blur":
            self.add("stem.max", "max-pool", kernel=3, padding=padding)
            self.add("stem.pool", "blur-pool", kernel=3, stride=2, padding="symmetric")

    def dense_layer(self, name: str) -> None:
        """A layer that adds k channels to what it sees."""
        config, old = self._config, self._last
        self._norm_relu(name, "1")
        if config.bottleneck_width is not None:
            self.add(f"{name}.conv1", "conv", config.bottleneck_width)
            if config.bottleneck_norm:
                self._norm_relu(name, "2")
        last = "conv1" if config.bottleneck_width is None else "conv2"
        new = self.add(f"{name}.{last}", "conv", config.growth_rate, kernel=3)
        both = (new, old) if config.traits.concatenation == "new-first" else (old, new)
        self.add(name, "concat", inputs=both)

    def transition(self, name: str, width: int) -> None:
        """What compresses the channels and halves the map between two blocks."""
        self._norm_relu(name)
        self.add(f"{name}.conv", "conv", width)
        self.add(f"{name}.pool", "avg-pool", kernel=2, stride=2, padding="valid")

    def head(self) -> None:
        """From the last block's features to logits, or to pooled features."""
        config = self._config
        if config.final_norm:
            self.add("head.norm", "norm")
        if config.traits.final_activation == "relu":
            self.add("head.relu", "relu")
        if config.head_shape:
            self.add("head.flatten", "flatten", self.nodes[self._last].width * math.prod(config.head_shape))
        else:
            self.add("head.pool", "global-pool")
        if config.num_classes is not None:
            self.add(CLASSIFIER, "dense", config.num_classes)


def layers(config: DenseNetConfig) -> list[Node]:
    """Each layer that has parameters, in graph order."""
    return [node for node in graph(config) if node.shapes]


@lru_cache(maxsize=16)
def shapes(config: DenseNetConfig) -> Mapping[str, Shape]:
    """Every canonical tensor's shape by its full name, in graph order."""
    return MappingProxyType(
        {f"{layer.name}.{name}": shape for layer in layers(config) for name, shape in layer.shapes.items()}
    )


@lru_cache(maxsize=8192)
def kind(layer: str) -> Kind:
    """The kind of a canonical layer that has parameters, by its name."""
    last = layer.rpartition(".")[2]
    return "conv" if last.startswith("conv") else "norm" if last.startswith("norm") else "dense"


def parameters(config: DenseNetConfig) -> int:
    """The number of trainable parameters: kernels, biases, and the scale and shift of normalisations."""
    return sum(math.prod(shape) for name, shape in shapes(config).items() if not _is_statistic(name))


def statistics(config: DenseNetConfig) -> int:
    """The number of running means and variances."""
    return sum(math.prod(shape) for name, shape in shapes(config).items() if _is_statistic(name))


def _is_statistic(tensor: str) -> bool:
    return tensor.rpartition(".")[2].startswith("running_")


def taps(config: DenseNetConfig) -> dict[str, str]:
    """Where both twins can be looked into, in graph order: each tap's name, and the layer whose output it is.

    A dense layer's tap is the features that it adds, which are the same whatever the order of concatenation. Outputs
    are the tap `head`, of no layer's name, since the two frameworks may end in different ones.
    """
    places = {}
    for before, node in itertools.pairwise(graph(config)):
        stage = node.name.partition(".")[0]
        if node.kind == "concat":
            places[node.name] = before.name
        elif stage == "stem" or stage.startswith("transition"):
            places[stage] = node.name  # of which the last one stays
        elif node.name == "head.norm":
            places["head.norm"] = node.name
    return places


def feeding(tap: str, config: DenseNetConfig) -> list[str]:
    """The canonical tensors between a tap, `head` among them, and the one before it, in graph order."""
    others = () if tap != "head" or not config.final_norm else ("head.norm.",)
    return [name for name in shapes(config) if name.startswith(f"{tap}.") and not name.startswith(others)]


def sizes(config: DenseNetConfig, size: Shape) -> dict[str, Shape]:
    """The spatial shape of each node's output for images of a spatial shape; () where a map has been pooled whole."""
    found: dict[str, Shape] = {}
    for node in graph(config):
        before = found[node.inputs[0]] if node.inputs else size
        whole = node.kind in ("global-pool", "flatten")
        found[node.name] = () if whole else tuple(_side(node, side) for side in before)
    return found


def _side(node: Node, side: int) -> int:
    """How many positions a window has along a side."""
    if node.padding == "same":
        return -(-side // node.stride)
    padded = side + (2 * (node.kernel // 2) if node.padding == "symmetric" else 0)
    return (padded - node.kernel) // node.stride + 1


def reduction(config: DenseNetConfig, until: str = "") -> int:
    """How many pixels of the image a side of one position stands for in a node's output, or in the last map."""
    pixels = 1
    for node in graph(config):
        pixels *= node.stride
        if node.name == until:
            break
    return pixels


def multiply_adds(config: DenseNetConfig, size: Shape) -> int:
    """The multiply-adds of one image of a spatial shape (*spatial): those of convolutions and dense layers.

    What has no kernel that is learned is left out, as is usual: normalisations, pools, biases, the filter of a blur
    pool.

    Source: torchvision's `_ops` and torch/utils/flop_counter.py: conv_flop_count, addmm_flop, which count each as two.
    """
    positions = sizes(config, size)
    kernels = (layer for layer in layers(config) if layer.kind != "norm")
    return sum(math.prod(layer.shapes["weight"]) * math.prod(positions[layer.name]) for layer in kernels)


def channels(config: DenseNetConfig) -> Mapping[str, tuple[tuple[str, int], ...]]:
    """Who made the channels that each node gives, in their order: names of nodes, each with how many it made.

    A flattened map's features count as the channels that they come from.
    """
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for node in graph(config):
        made = node.kind in ("input", "conv", "dense")
        found[node.name] = ((node.name, node.width),) if made else sum((found[each] for each in node.inputs), ())
    return MappingProxyType(found)
