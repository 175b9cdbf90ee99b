"""The graph of a DenseNet as data: one node a layer, from the image to the answer. All else is read off it.

Canonical parameters are named and laid out as PyTorch does it: `weight` and `bias`, for a normalisation
`running_mean` and `running_var` too; kernels are (O, I, *spatial), of dense layers (O, I).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Literal

from denseport.net.config import Activation, DenseNetConfig, HeadLayer

Kind = Literal[
    "input", "inputs", "conv", "norm", "activation", "max-pool", "avg-pool", "blur-pool", "concat",
    "global-mean", "global-max", "average", "flatten", "dense", "unit-norm",
]  # fmt: skip
Padding = Literal["same", "symmetric", "valid"]
Shape = tuple[int, ...]

IMAGES = "images"
INPUTS = "inputs"
FLATTENED = "head.flatten"
POOLED = "head.pool"
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
        name: Canonical. What follows a normalisation of the body is called `relu`, whichever activation it is.
        kind: What it computes.
        inputs: The nodes whose outputs it takes; a concatenation's in the order in which it joins them.
        width: Channels of its output; behind a flattened map, features.
        kernel: Side of its window.
        strides: Of that window, one an axis.
        padding: `same` or `symmetric` as in `Traits`, or `valid` for none.
        activation: Of an activation; `negative_slope` of one that is leaky.
        epsilon: Of a normalisation.
        shapes: The shape of each canonical parameter, in the order of `PARAMETERS`; empty where it has none.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    width: int
    kernel: int
    strides: tuple[int, ...]
    padding: Padding
    shapes: Mapping[str, Shape]
    activation: Activation = "none"
    negative_slope: float = 0.0
    epsilon: float = 0.0


@lru_cache(maxsize=16)
def graph(config: DenseNetConfig) -> tuple[Node, ...]:
    """Every layer, in the order in which data goes through them.

    Source: Huang et al. 2017, section 3 and table 1, with the names of this project; deep stems and blur pool: timm
    `densenet.py`, `DenseNet`.
    """
    net = _Builder(config)
    net.add(IMAGES, "input", config.image_channels)
    if config.inputs:
        net.add(INPUTS, "inputs", config.in_channels)
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
        strides: int | tuple[int, ...] = 1,
        padding: Padding = "same",
        inputs: tuple[str, ...] = (),
        bias: bool = True,
        **own: Any,
    ) -> str:
        """Adds a layer behind the last one, or behind `inputs`; without a width it keeps the channels.

        `own` are attributes of the node that few kinds have.
        """
        inputs = inputs or ((self._last,) if self._last else ())
        entering = sum(self.nodes[each].width for each in inputs)
        width = entering if width is None else width
        strides = strides if isinstance(strides, tuple) else (strides,) * self._config.dimensions
        shapes = self._shapes(kind, entering, width, kernel, bias)
        self.nodes[name] = Node(name, kind, inputs, width, kernel, strides, padding, shapes, **own)
        self._last = name
        return name

    def _shapes(self, kind: Kind, entering: int, width: int, kernel: int, bias: bool) -> dict[str, Shape]:
        if kind == "norm":
            return dict.fromkeys(PARAMETERS["norm"], (width,))
        if kind not in ("conv", "dense"):
            return {}
        spatial = [kernel] * self._config.dimensions if kind == "conv" else ()
        return {"weight": (width, entering, *spatial)} | ({"bias": (width,)} if bias else {})

    def _conv(self, name: str, width: int, kernel: int = 1, **window: Any) -> str:
        return self.add(name, "conv", width, kernel, bias=self._config.conv_bias, **window)

    def _norm(self, name: str) -> None:
        self.add(name, "norm", epsilon=self._config.traits.epsilon)

    def _activation(self, name: str) -> None:
        traits = self._config.traits
        if traits.activation != "none":
            self.add(name, "activation", activation=traits.activation, negative_slope=traits.negative_slope)

    def _norm_and_activation(self, name: str, number: str = "") -> None:
        self._norm(f"{name}.norm{number}")
        self._activation(f"{name}.relu{number}")

    def stem(self) -> None:
        """One convolution or several, and the pool."""
        config, padding = self._config, self._config.traits.padding
        strides: int | tuple[int, ...] = config.stem_strides
        for number, width in zip(config.stem_numbers, config.stem_widths, strict=True):
            self._conv(f"stem.conv{number}", width, config.stem_kernel, strides=strides, padding=padding)
            if config.stem_norm:
                self._norm_and_activation("stem", number)
            strides = 1
        match config.traits.stem_pool:
            case "max":
                self.add("stem.pool", "max-pool", kernel=3, strides=2, padding=padding)
            case "max-2":
                self.add("stem.pool", "max-pool", kernel=2, strides=2, padding="valid")
            case "max-blur":
                self.add("stem.max", "max-pool", kernel=3, padding=padding)
                self.add("stem.pool", "blur-pool", kernel=3, strides=2, padding="symmetric")

    def dense_layer(self, name: str) -> None:
        """A layer that adds k channels to what it sees."""
        config, old = self._config, self._last
        self._norm_and_activation(name, "1")
        if config.bottleneck_width is not None:
            self._conv(f"{name}.conv1", config.bottleneck_width)
            if config.bottleneck_norm:
                self._norm_and_activation(name, "2")
        last = "conv1" if config.bottleneck_width is None else "conv2"
        new = self._conv(f"{name}.{last}", config.growth_rate, 3)
        both = (new, old) if config.traits.concatenation == "new-first" else (old, new)
        self.add(name, "concat", inputs=both)

    def transition(self, name: str, width: int) -> None:
        """What compresses the channels and halves the map between two blocks."""
        self._norm(f"{name}.norm")
        if self._config.traits.transition_activation == "same":
            self._activation(f"{name}.relu")
        self._conv(f"{name}.conv", width)
        self.add(f"{name}.pool", "avg-pool", kernel=2, strides=2, padding="valid")

    def head(self) -> None:
        """From the last block's features to logits, or to pooled features."""
        config = self._config
        if config.final_norm:
            self._norm("head.norm")
        if config.traits.final_activation == "relu":
            self._activation("head.relu")
        if config.head_shape:
            self.add(FLATTENED, "flatten", self.nodes[self._last].width * math.prod(config.head_shape))
        else:
            self._global_pool()
        if config.num_classes is not None and not config.head_layers:
            self.add(CLASSIFIER, "dense", config.num_classes, bias=config.classifier_bias)
        for n, layer in enumerate(config.head_layers):
            self._head_layer(n, layer)

    def _global_pool(self) -> None:
        """The mean of the last map, its maximum, or both, joined or averaged."""
        pool, last = self._config.traits.head_pool, self._last
        if pool in ("mean", "max"):
            self.add(POOLED, "global-mean" if pool == "mean" else "global-max")
            return
        mean = self.add(f"{POOLED}.mean", "global-mean", inputs=(last,))
        greatest = self.add(f"{POOLED}.max", "global-max", inputs=(last,))
        if pool == "average-of-both":
            self.add(POOLED, "average", self.nodes[last].width, inputs=(mean, greatest))
        else:
            self.add(POOLED, "concat", inputs=(mean, greatest) if pool == "mean-max" else (greatest, mean))

    def _head_layer(self, n: int, layer: HeadLayer) -> None:
        name = f"head.{layer.kind}{n}"
        match layer.kind:
            case "dense":
                self.add(name, "dense", layer.width, bias=layer.bias)
            case "norm":
                self.add(name, "norm", epsilon=layer.epsilon)
            case "activation" if layer.activation != "none":
                self.add(name, "activation", activation=layer.activation, negative_slope=layer.negative_slope)
            case "unit-norm":
                self.add(name, "unit-norm")


def layers(config: DenseNetConfig) -> list[Node]:
    """Each layer that has parameters, in graph order."""
    return [node for node in graph(config) if node.shapes]


def head_layers(config: DenseNetConfig) -> frozenset[str]:
    """The layers of a head of several that have parameters."""
    numbered = enumerate(config.head_layers)
    return frozenset(f"head.{layer.kind}{n}" for n, layer in numbered if layer.kind in ("dense", "norm"))


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


def flattened(config: DenseNetConfig) -> frozenset[str]:
    """The layers with parameters that see a flattened map's features, up to the first dense one."""
    if not config.head_shape:
        return frozenset()
    behind = itertools.dropwhile(lambda node: node.name != FLATTENED, graph(config))
    found = list[str]()
    for node in behind:
        found += [node.name] if node.shapes else []
        if node.kind == "dense":
            break
    return frozenset(found)


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
    are the tap `head`, of no layer's name, since the two frameworks may end in different ones; what has parameters
    before them in the head is a tap of its own.
    """
    places = {}
    nodes = graph(config)
    # Each framework flattens a map in an order of its own.
    unordered = {node.name for node in nodes if node.kind == "norm" and node.name in flattened(config)}
    for before, node in itertools.pairwise(nodes):
        stage = node.name.partition(".")[0]
        if node.kind == "concat" and stage.startswith("block"):
            places[node.name] = before.name
        elif stage == "stem" or stage.startswith("transition"):
            places[stage] = node.name  # of which the last one stays
        elif stage == "head" and node.shapes and node is not nodes[-1] and node.name not in unordered:
            places[node.name] = node.name
    return places


def feeding(tap: str, config: DenseNetConfig, seen: Collection[str] | None = None) -> list[str]:
    """The canonical tensors between a tap, `head` among them, and the one before it, in graph order.

    Where not all taps were `seen`, it is the one before it that was.
    """
    ends = {layer: name for name, layer in taps(config).items() if seen is None or name in seen}
    found = list[str]()
    for node in graph(config):
        found += (f"{node.name}.{parameter}" for parameter in node.shapes)
        if node.name in ends:
            if ends[node.name] == tap:
                return found
            found = []
    return found


def sizes(config: DenseNetConfig, size: Shape) -> dict[str, Shape]:
    """The spatial shape of each node's output for images of a spatial shape; () where a map has been pooled whole."""
    found: dict[str, Shape] = {}
    for node in graph(config):
        before = found[node.inputs[0]] if node.inputs else size
        whole = node.kind in ("global-mean", "global-max", "flatten")
        found[node.name] = () if whole else tuple(map(partial(_side, node), before, node.strides))
    return found


def _side(node: Node, side: int, stride: int) -> int:
    """How many positions a window has along a side."""
    if node.padding == "same":
        return -(-side // stride)
    padded = side + (2 * (node.kernel // 2) if node.padding == "symmetric" else 0)
    return (padded - node.kernel) // stride + 1


def reduction(config: DenseNetConfig, until: str = "") -> tuple[int, ...]:
    """How many pixels of the image one position stands for on each axis of a node's output, or of the last map."""
    pixels = (1,) * config.dimensions
    for node in graph(config):
        pixels = tuple(map(operator.mul, pixels, node.strides))
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

    A flattened map's features count as the channels that they come from, which joined pools give twice.
    """
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for node in graph(config):
        if node.kind in ("input", "inputs", "conv", "dense"):
            found[node.name] = ((node.name, node.width),)
        elif node.kind == "average":
            found[node.name] = found[node.inputs[0]]
        else:
            found[node.name] = sum((found[each] for each in node.inputs), ())
    return MappingProxyType(found)
