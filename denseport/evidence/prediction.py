"""What the running means of normalisations should be, by the layers that feed them.

With z ~ N(shift, scale^2) behind a normalisation, the expected output of norm, ReLU, convolution and mean pool is the
kernel, summed over its window, times E[relu(z)]. The next normalisation's running mean agrees, in standard deviations
to some hundredths, wherever statistics are those of the net itself.

Source: measured on trained nets of nine authors; E[relu(z)]: Frey and Hinton 1999, "Variational learning in nonlinear
Gaussian belief networks", rectification.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from denseport.checkpoint import Tensor
from denseport.net.config import DenseNetConfig
from denseport.net.graph import Node, channels, graph

# Below this a channel is dead: its mean is known to more digits than it has deviations.
LEAST_VARIANCE = 1e-9
# Sides of the first block's map that are tried; the border of zeros around smaller ones tells.
SIDES = (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 112, 1 << 20)
# What share of negative values an activation lets through.
SLOPES = {"relu": 0.0, "none": 1.0}
# Fewer channels have no median that says anything.
LEAST_CHANNELS = 4
# What counts for a channel whose variance is negative, in standard deviations.
IMPOSSIBLE = 10.0
# The maker of the channels behind a stem that does not pool.
STEM = "stem"


def middle(values: np.ndarray) -> float:
    """The upper median; NaN of fewer than `LEAST_CHANNELS` values. numpy's own takes five times as long."""
    half = values.size // 2
    return float(np.partition(values, half)[half]) if values.size >= LEAST_CHANNELS else math.nan


def _normal(x: np.ndarray) -> np.ndarray:
    """The share of a standard normal distribution below x, to within 1e-7; numpy has none.

    Source: Abramowitz and Stegun 1964, 26.2.17.
    """
    t = 1 / (1 + 0.2316419 * np.abs(x))
    tail = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail *= _density(x)
    below: np.ndarray = np.where(x < 0, tail, 1 - tail)
    return below


def _density(x: np.ndarray) -> np.ndarray:
    density: np.ndarray = np.exp(-0.5 * np.minimum(x * x, 1e3)) / math.sqrt(2 * math.pi)
    return density


@dataclass(frozen=True)
class Norm:
    """A normalisation's four parameters, float64, of shape (C,)."""

    scale: np.ndarray
    shift: np.ndarray
    mean: np.ndarray
    var: np.ndarray

    @cached_property
    def deviation(self) -> np.ndarray:
        """The standard deviation of what comes in, NaN for a dead channel."""
        return np.sqrt(np.where(self.var > LEAST_VARIANCE, self.var, np.nan))

    def rectified(self, slope: float, epsilon: float) -> np.ndarray:
        """The expectation of what a ReLU makes of the output, which lets negative values through by `slope`."""
        if slope == 1:
            return self.shift
        var = np.abs(self.var)
        sigma = np.abs(self.scale) * np.sqrt(var / (var + epsilon))
        ratio = self.shift / np.maximum(sigma, 1e-30)
        positive = self.shift * _normal(ratio) + sigma * _density(ratio)
        rectified: np.ndarray = positive + slope * (self.shift - positive)
        return rectified


class Net:
    """A net's normalisations, and what they predict of each other; kernels are read one at a time and not kept.

    Attributes:
        config: The architecture.
        norms: By canonical name, in graph order.
        fed: By normalisation, the makers of the channels that it sees, in their order, with how many each made:
            convolutions, and `STEM` behind the stem.
        sources: By maker, the normalisation whose rectified output it sees, or "".
        consumers: By maker, the normalisations that see what it made.
        slopes: By maker, what share of negative values comes through before it, where that is not the activation's.
        side: Of the first block's map, as the border of zeros around it tells.
    """

    def __init__(self, config: DenseNetConfig, tensors: Mapping[str, Tensor]) -> None:
        self.config = config
        self.side = SIDES[-1]
        slope = {**SLOPES, "leaky-relu": config.traits.negative_slope}.get(config.traits.activation, math.nan)
        self.slopes: dict[str, float] = {}
        self._slope = slope
        self._tensors = tensors
        self._turned: frozenset[str] = frozenset()
        self._parts: dict[str, np.ndarray] = {}
        self._made: dict[str, np.ndarray] = {}
        nodes = {node.name: node for node in graph(config)}
        self.norms = {
            node.name: Norm(*(self.values(f"{node.name}.{parameter}") for parameter in node.shapes))
            for node in nodes.values()
            if node.kind == "norm"
        }
        self.sources = {name: _source(node, nodes) for name, node in nodes.items() if node.kind == "conv"}
        self._widths = {name: nodes[name].width for name in self.sources}
        made = channels(config)
        # Dense layers feed norms of the head alone, which are held against nothing.
        self.norms = {name: norm for name, norm in self.norms.items() if all(m in self.sources for m, _ in made[name])}
        self.fed = {norm: [(_maker(each, norm, config), width) for each, width in made[norm]] for norm in self.norms}
        if config.stem_norm:
            self.sources[STEM], self._widths[STEM] = f"stem.norm{config.stem_numbers[-1]}", config.stem_widths[-1]
        self.consumers: dict[str, list[str]] = {maker: [] for maker in self.sources}
        for norm, makers in self.fed.items():
            for maker, _ in makers:
                self.consumers[maker].append(norm)

    def repaired(self, norms: Mapping[str, Norm], turned: Iterable[str] = ()) -> Net:
        """The same net with other normalisations, and with the axes of some kernels exchanged."""
        net = copy.copy(self)
        net.norms = {**self.norms, **norms}
        net._turned = self._turned | set(turned)
        touched = {maker for maker, source in self.sources.items() if source in norms} | net._turned
        net._parts = {maker: parts for maker, parts in self._parts.items() if maker not in touched}
        net._made = {maker: made for maker, made in self._made.items() if maker not in touched}
        return net

    def predict(self, maker: str, slope: float | None) -> None:
        """Takes another share of negative values to come through before a layer; None where nothing predicts it."""
        self.slopes[maker] = math.nan if slope is None else slope
        self._parts.pop(maker, None)
        self._made.pop(maker, None)

    def is_square(self, maker: str) -> bool:
        """Whether a layer is a 1x1 convolution with as many outputs as inputs."""
        shape = () if maker == STEM else self._tensors[f"{maker}.weight"].shape
        return shape[:1] == shape[1:2] and math.prod(shape[2:]) == 1

    def values(self, name: str) -> np.ndarray:
        """A tensor's values in float64."""
        return self._tensors[name].read().astype(np.float64)

    def expected(self, norm: str) -> np.ndarray:
        """What a normalisation's running mean should be, (C,); NaN where nothing predicts it."""
        return np.concatenate([self.made(maker) for maker, _ in self.fed[norm]])

    def error(self, norm: str, maker: str = "") -> float:
        """The median distance of a normalisation's running mean from what it should be, in standard deviations.

        Args:
            norm: The normalisation.
            maker: The layer whose channels alone count, or "" for all.
        """
        at = self.at(maker, norm) if maker else slice(None)
        seen, expected = self.norms[norm], self.made(maker) if maker else self.expected(norm)
        away = np.abs(seen.mean[at] - expected) / seen.deviation[at]
        away[seen.var[at] < 0] = IMPOSSIBLE
        return middle(away[~np.isnan(away)])

    def at(self, maker: str, norm: str) -> slice:
        """Where what a layer made stands among the channels that a normalisation sees."""
        start = 0
        for each, width in self.fed[norm]:
            if each == maker:
                return slice(start, start + width)
            start += width
        raise KeyError(maker)

    def link(self, maker: str, norm: str, slope: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What a normalisation recorded of what a layer made, and what it should have, in standard deviations.

        Args:
            maker: The layer.
            norm: The normalisation.
            slope: What share of negative values comes through before the layer, if not that of the net.
        """
        at, norm_ = self.at(maker, norm), self.norms[norm]
        made = self.made(maker) if slope is None else self._joined(maker, self._taps(maker, slope))
        recorded, expected = norm_.mean[at] / norm_.deviation[at], made / norm_.deviation[at]
        known = ~np.isnan(recorded + expected)
        return recorded[known], expected[known]

    def made(self, maker: str) -> np.ndarray:
        """The expected output of a layer, (O,); NaN where nothing predicts it."""
        if maker not in self._made:
            if not self.sources[maker] or math.isnan(self.slopes.get(maker, self._slope)):
                self._made[maker] = np.full(self._widths[maker], np.nan)
            else:
                if maker not in self._parts:
                    self._parts[maker] = self._taps(maker)
                self._made[maker] = self._joined(maker, self._parts[maker])
        return self._made[maker]

    def on_maps_of(self, side: int) -> None:
        """Takes the first block's map to have another side."""
        self.side = side
        self._made.clear()

    def _taps(self, maker: str, slope: float | None = None) -> np.ndarray:
        """What a layer makes of each group of taps, (axes off the centre, O)."""
        source = self.norms[self.sources[maker]]
        slope = self.slopes.get(maker, self._slope) if slope is None else slope
        expected = source.rectified(slope, self.config.traits.epsilon)
        if maker == STEM:
            return expected[np.newaxis]
        kernel = grouped(self._tensors[f"{maker}.weight"].read())
        kernel = kernel.swapaxes(1, 2) if maker in self._turned else kernel
        made = (kernel.astype(np.float32, copy=False) @ expected.astype(np.float32)).astype(np.float64)
        if self.config.conv_bias:
            made[0] += self._tensors[f"{maker}.bias"].read()
        return made

    def _joined(self, maker: str, taps: np.ndarray) -> np.ndarray:
        """The groups weighed by the share of positions at which their taps are not on the border of zeros."""
        block = maker.partition(".")[0].removeprefix("block")
        halved = int(block) - 1 if block.isdigit() else 0
        inside = 1 - 1 / max(self.side >> halved, 1)
        joined: np.ndarray = inside ** np.arange(len(taps)) @ taps
        return joined


def _source(node: Node, nodes: Mapping[str, Node]) -> str:
    """The normalisation whose rectified output a convolution sees, or "" where there is none."""
    before = nodes[node.inputs[0]]
    while before.kind not in ("norm", "conv", "input", "concat"):
        before = nodes[before.inputs[0]]
    return before.name if before.kind == "norm" else ""


def _maker(maker: str, norm: str, config: DenseNetConfig) -> str:
    """The layer that made what a normalisation sees; behind the stem's own normalisation, that is the stem."""
    last = f"stem.conv{config.stem_numbers[-1]}"
    return STEM if config.stem_norm and maker == last and not norm.startswith("stem.") else maker


def grouped(kernel: np.ndarray) -> np.ndarray:
    """A kernel (O, I, *spatial) summed over the taps that are off the centre along as many axes: (axes, O, I)."""
    side, dimensions = kernel.shape[-1], kernel.ndim - 2
    if side == 1:
        return kernel.reshape(1, *kernel.shape[:2])
    off = np.abs(np.indices(kernel.shape[2:]) - side // 2).astype(bool).sum(0).reshape(-1)
    flat = kernel.reshape(*kernel.shape[:2], -1)
    return np.stack([flat[..., off == count].sum(-1) for count in range(dimensions + 1)])
