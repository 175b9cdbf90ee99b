"""What may be said of a net by its weights, and what may not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from denseport.checkpoint import Tensor
from denseport.evidence.consistency import Damage, damages
from denseport.evidence.inputs import Inputs, inputs
from denseport.evidence.order import order, pairs
from denseport.evidence.prediction import LEAST_CHANNELS, SIDES, STEM, Net, middle
from denseport.net.config import DenseNetConfig

# Median error of the predictions within dense layers, in standard deviations, and their correlation. Beyond these the
# statistics are not the net's own (fresh, random, of few batches, of other kernels), and say nothing but the order.
# Sound nets reach 0.077 and 0.9895; nets that were frozen halfway come to 0.092 at 0.968 or 0.112 at 0.981.
INFORMATIVE_ERROR = 0.09
INFORMATIVE_CORRELATION = 0.985
# Median shift of the running means behind a pool, in standard deviations: a maximum lifts all of them.
LIFTED = 0.25
LEVEL = 0.06
# By how many layers the side of the maps is found.
LAYERS = 12


class Shown(NamedTuple):
    """A trait's value as the weights show it, and the figures by which they do."""

    value: Any
    why: str


class Fit(NamedTuple):
    """How well running means are predicted: median error in standard deviations, and median correlation."""

    error: float
    correlation: float

    @property
    def holds(self) -> bool:
        """Whether statistics are the net's own."""
        return self.error < INFORMATIVE_ERROR and self.correlation > INFORMATIVE_CORRELATION


@dataclass(frozen=True)
class Evidence:
    """What a net's weights say of it.

    Attributes:
        shown: The traits that they show, by name.
        pooled: The figures by which transitions take maxima instead of means, or "" where nothing says so.
        inputs: The range of the images that it was trained on, or None where they do not say.
        damages: What contradicts itself, and the mistake that explains it.
        fit: How well running means are predicted within dense layers; where `fit.holds` is false, the statistics say
            nothing but the order of concatenation.
    """

    shown: Mapping[str, Shown]
    pooled: str
    inputs: Inputs | None
    damages: tuple[Damage, ...]
    fit: Fit

    @property
    def figures(self) -> dict[str, str]:
        """What is shown, each with the figures by which it is, by what they are of."""
        if not self.fit.holds and not self.shown:
            return {"statistics": "are fresh, of few images or of other weights: they show nothing"}
        lines = {trait: f"{shown.value}: {shown.why}" for trait, shown in self.shown.items()}
        if self.inputs:
            lines["inputs"] = str(self.inputs)
        if self.fit.holds:
            lines["running means"] = (
                f"are {self.fit.error:.2g} standard deviations from what the layers before them make, correlation "
                f"{self.fit.correlation:.4f}"
            )
        return lines


@np.errstate(all="ignore")
def examine(config: DenseNetConfig, tensors: Mapping[str, Tensor]) -> Evidence:
    """Says of a net what its statistics, kernels and stem show beyond doubt; kernels are read one at a time.

    Args:
        config: The architecture; its traits are those that are thought to hold.
        tensors: Every canonical tensor, with channels in the file's own order.
    """
    shown: dict[str, Shown] = {}
    net = Net(config, tensors)
    found = pairs(config, net.norms)
    if joined := order(found):
        agree = sum(pair.verdict == joined for pair in found)
        why = f"the statistics of {agree} of {len(found)} pairs of normalisations agree in this order alone"
        shown["concatenation"] = Shown(joined, why)
        if joined != config.traits.concatenation:
            net = Net(config.replace(concatenation=joined), tensors)
    net.on_maps_of(_side(net))
    fit = _fit(net, _inner(net))
    if not fit.holds:
        return Evidence(shown, "", None, (), fit)
    shown |= _stem_pool(net)
    transitions, pooled = _transitions(net)
    return Evidence(shown | transitions, pooled, _inputs(net, tensors), damages(net), fit)


def _inner(net: Net) -> list[str]:
    """The layers within dense layers that one normalisation feeds and the next records: 1x1 ones where there are."""
    makers = [maker for maker in net.sources if maker.startswith("block") and net.sources[maker]]
    makers = [maker for maker in makers if net.consumers[maker]]
    return [maker for maker in makers if maker.endswith(".conv1")] or makers


def _side(net: Net) -> int:
    """The side of the first block's map, by which predictions of 3x3 kernels fit best."""
    last = "conv1" if net.config.bottleneck_width is None else "conv2"
    wide = [maker for maker in net.sources if maker.endswith(last) and maker.startswith("block") and net.sources[maker]]
    wide = [maker for maker in wide if net.consumers[maker]]
    errors = {}
    for side in SIDES:
        net.on_maps_of(side)
        errors[side] = _fit(net, wide[:: max(1, len(wide) // LAYERS)]).error
    return min(errors, key=errors.__getitem__)


def _fit(net: Net, makers: Sequence[str]) -> Fit:
    """How well the first normalisation behind each of these layers is predicted."""
    links = [net.link(maker, net.consumers[maker][0]) for maker in makers]
    links = [link for link in links if link[0].size >= LEAST_CHANNELS]
    if not links:
        return Fit(math.nan, math.nan)
    errors = [middle(np.abs(recorded - expected)) for recorded, expected in links]
    correlations = [float(np.corrcoef(recorded, expected)[0, 1]) for recorded, expected in links]
    half = (len(links) - 1) // 2  # of four of which two are damaged, the better half speaks for the net
    return Fit(sorted(errors)[half], sorted(correlations, reverse=True)[half])


def _stem_pool(net: Net) -> dict[str, Shown]:
    """Whether a maximum was taken behind the stem's normalisation."""
    if STEM not in net.sources:
        return {}
    recorded, expected = net.link(STEM, net.consumers[STEM][0])
    shift, apart = middle(recorded - expected), middle(np.abs(recorded - expected))
    why = f"running means behind the stem are {shift:+.2f} standard deviations from those without a pool"
    if abs(shift) < LEVEL and apart < LEVEL:
        return {"stem_pool": Shown("none", why)}
    net.predict(STEM, None)
    if shift > LIFTED and (recorded > expected).mean() > 0.9:
        blurred = net.config.traits.stem_pool == "max-blur"
        return {"stem_pool": Shown("max-blur" if blurred else "max", why)}
    return {}


def _transitions(net: Net) -> tuple[dict[str, Shown], str]:
    """Whether transitions rectify, and the figures by which they pool maxima, if they do."""
    makers = [f"transition{block}.conv" for block in range(1, net.config.blocks)]
    rectified, straight = ([_closest(net, maker, slope) for maker in makers] for slope in (0.0, 1.0))
    for one, other, slope, value in ((rectified, straight, 0.0, "same"), (straight, rectified, 1.0, "none")):
        clear = [_is_clear(a, b) for a, b in zip(one, other, strict=True)]
        if sum(clear) * 2 > len(clear):
            for maker in makers:
                net.predict(maker, slope)
        if clear and all(clear):
            error, otherwise = max(each.error for each in one), min(each.error for each in other)
            why = (
                f"running means behind transitions are off by {error:.2f} standard deviations, else by {otherwise:.2f}"
            )
            return {"transition_activation": Shown(value, why)}, ""
    least = min((each.shift for each in rectified), default=math.nan)
    if least > LIFTED:
        for maker in makers:
            net.predict(maker, None)
        return {}, f"running means behind transitions are {least:+.2f} standard deviations and more from those of means"
    return {}, ""


class _Link(NamedTuple):
    """What is recorded of a layer, less what it should make: median distance and median, in standard deviations."""

    error: float
    shift: float


def _is_clear(one: _Link, other: _Link) -> bool:
    """Whether one reading of a layer fits and the other does not."""
    return one.error < INFORMATIVE_ERROR and other.error > max(1.5 * INFORMATIVE_ERROR, 3 * one.error)


def _closest(net: Net, maker: str, slope: float) -> _Link:
    """How well a layer is predicted in the first or second place that sees it, whichever agrees better."""
    links = [net.link(maker, norm, slope) for norm in net.consumers[maker][:2]]
    found = [_Link(middle(np.abs(a - b)), middle(a - b)) for a, b in links if a.size >= LEAST_CHANNELS]
    return min(found, default=_Link(math.nan, math.nan))


def _inputs(net: Net, tensors: Mapping[str, Tensor]) -> Inputs | None:
    """What the normalisation behind the stem's first convolution recorded of the images."""
    conv = f"stem.conv{net.config.stem_numbers[0]}"
    pooled = not net.config.stem_norm and net.config.traits.stem_pool != "none"
    if pooled or not net.consumers[conv]:
        return None
    norm, at = net.norms[net.consumers[conv][0]], net.at(conv, net.consumers[conv][0])
    bias = net.values(f"{conv}.bias") if net.config.conv_bias else 0.0
    return inputs(tensors[f"{conv}.weight"].read(), norm.mean[at] - bias, norm.var[at])
