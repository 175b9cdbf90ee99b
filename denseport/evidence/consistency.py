"""Which normalisation or kernel contradicts what feeds it, and which mistake would explain that.

An error alone proves nothing: where parts of a net were frozen it is large. Only where undoing one of the mistakes that
conversions make brings the prediction back is a net called damaged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from denseport.evidence.order import neighbours, shared
from denseport.evidence.prediction import LEAST_VARIANCE, Net, Norm, middle

# In standard deviations: what calls for a repair, what may be left after it, and how many times less that must be.
WRONG = 0.2
LEFT = 0.25
GAIN = 3.0
# What a repair changes by a smaller share says nothing of it.
CHANGED = 0.1
EXCHANGED, STATISTICS_EXCHANGED = "the two are exchanged", "the statistics of the two are exchanged"
# By how much the exchange of two layers' statistics alone must fit better than that of both layers.
BETTER = 1.5
# Where more contradict each other, no single mistake explains it.
MOST_SUSPECTS = 24


@dataclass(frozen=True)
class Damage:
    """A mistake in a file's weights.

    Attributes:
        layers: What is wrong, by canonical name.
        mistake: What was done to it, in words.
        error: How far the recorded means are from what they should be, in standard deviations.
        left: The same once the mistake is undone.
    """

    layers: tuple[str, ...]
    mistake: str
    error: float
    left: float

    @property
    def why(self) -> str:
        """The figures by which it shows."""
        return (
            f"running means are {self.error:.2g} standard deviations from what the layers before them make, and "
            f"{self.left:.2g} once that is undone"
        )


@dataclass(frozen=True)
class _Repair:
    """One mistake undone: the normalisations and kernels as they would be without it."""

    mistake: str
    norms: Mapping[str, Norm]
    turned: tuple[str, ...] = ()

    @property
    def unlikely(self) -> float:
        """What its error counts for beside another's: one layer goes wrong more often than two, and two as a whole."""
        return len(self.layers) * (BETTER if self.mistake == STATISTICS_EXCHANGED else 1.0)

    @property
    def layers(self) -> tuple[str, ...]:
        return (*self.norms, *self.turned)


@dataclass(frozen=True)
class _Contradictions:
    """The normalisations that contradict what feeds them, and the layers that contradict what is recorded of them."""

    norms: list[str]
    makers: list[str]

    def __len__(self) -> int:
        return len(self.norms) + len(self.makers)

    @classmethod
    def of(cls, net: Net, norms: Iterable[str], makers: Iterable[str]) -> _Contradictions:
        """Those among some of a net's normalisations and layers."""
        return cls(
            [norm for norm in norms if _own(net, norm) > WRONG],
            [maker for maker in makers if net.sources[maker] and _made(net, maker) > WRONG],
        )


def damages(net: Net) -> tuple[Damage, ...]:
    """The mistakes that explain what contradicts itself; the net's other predictions must be known to hold.

    They are undone one after the other, first that after which the fewest contradictions are left.
    """
    found: list[Damage] = []
    left = _Contradictions.of(net, net.norms, net.sources)
    while 0 < len(left) <= MOST_SUSPECTS and (fitting := list(_fitting(net, left))):
        best = min(fitting, key=lambda each: (len(each.left), each.effect.mean * each.repair.unlikely))
        found.append(Damage(best.repair.layers, best.repair.mistake, best.effect.before, best.effect.after))
        net, left = best.net, best.left
    return tuple(found)


class _Fitting(NamedTuple):
    """A repair that makes predictions fit, what it does, and the net and the contradictions that it leaves."""

    repair: _Repair
    effect: _Effect
    net: Net
    left: _Contradictions


def _fitting(net: Net, contradictions: _Contradictions) -> Iterator[_Fitting]:
    """The repairs that make predictions fit."""
    for repair in _repairs(net, contradictions):
        mended = net.repaired(repair.norms, repair.turned)
        effect = _effect(net, mended, repair)
        if effect.fits:
            left = _Contradictions.of(mended, contradictions.norms, contradictions.makers)
            yield _Fitting(repair, effect, mended, left)


def _repairs(net: Net, contradictions: _Contradictions) -> Iterator[_Repair]:
    """Each known mistake undone, wherever it would explain one of the contradictions."""
    sources = (net.sources[maker] for maker in contradictions.makers)
    suspects = list(dict.fromkeys([*contradictions.norms, *sources]))
    for name in suspects:
        norm = net.norms[name]
        turned = replace(norm, scale=norm.shift, shift=norm.scale)
        yield _Repair("scale and shift are swapped", {name: turned})
        yield _Repair("mean and variance are swapped", {name: replace(norm, mean=norm.var, var=norm.mean)})
        both = replace(turned, mean=norm.var, var=norm.mean)
        yield _Repair("scale and shift are swapped, and so are mean and variance", {name: both})
    for maker in contradictions.makers:
        if net.is_square(maker):
            yield _Repair("the square kernel is transposed", {}, (maker,))
    for one, other in itertools.combinations(suspects, 2):
        a, b = net.norms[one], net.norms[other]
        if len(a.mean) == len(b.mean):
            yield _Repair(EXCHANGED, {one: b, other: a})
            yield _Repair(
                STATISTICS_EXCHANGED,
                {one: replace(a, mean=b.mean, var=b.var), other: replace(b, mean=a.mean, var=a.var)},
            )


@dataclass(frozen=True)
class _Effect:
    """What a repair does to the errors of all that it touches: the largest that it changes, before and after.

    Attributes:
        before: Without the repair.
        after: With it.
        mean: With it, of all, those that it leaves as they are too.
    """

    before: float
    after: float
    mean: float

    @property
    def fits(self) -> bool:
        """Whether the repair explains the error."""
        return self.after < LEFT and self.before > max(WRONG, GAIN * self.after)


def _effect(net: Net, mended: Net, repair: _Repair) -> _Effect:
    """What a repair does; no number where it makes something unknown."""
    makers = [maker for maker, source in net.sources.items() if source in repair.norms or maker in repair.turned]
    both = [(_own(net, norm), _own(mended, norm)) for norm in repair.norms]
    both += [(_made(net, maker), _made(mended, maker)) for maker in makers]
    known = [pair for pair in both if not math.isnan(pair[0])]
    changed = [(before, after) for before, after in known if not abs(after - before) <= CHANGED * before]
    if not changed or any(math.isnan(after) for _, after in known):
        return _Effect(math.nan, math.nan, math.nan)
    before, after = (max(errors) for errors in zip(*changed, strict=True))
    return _Effect(before, after, sum(after for _, after in known) / len(known))


def _own(net: Net, norm: str) -> float:
    """How far a normalisation's statistics are from what feeds it, and from those of its neighbours in the block."""
    apart = min((_apart(net, norm, other) for other in neighbours(net.config, norm)), default=math.nan)
    known = [error for error in (net.error(norm), apart) if not math.isnan(error)]
    return max(known, default=math.nan)


def _apart(net: Net, norm: str, other: str) -> float:
    """How far the statistics are apart of the channels that both see: in deviations, or in shares of the variance."""
    one, two = sorted((net.norms[norm], net.norms[other]), key=lambda each: len(each.mean))
    both = shared(net.config, len(one.mean))
    largest = np.maximum(np.maximum(np.abs(one.var), np.abs(two.var[both])), LEAST_VARIANCE)
    means = np.abs(one.mean - two.mean[both]) / np.sqrt(largest)
    return middle(np.maximum(means, np.abs(one.var - two.var[both]) / largest))


def _made(net: Net, maker: str) -> float:
    """How far what a layer should make is from what is recorded of it, in the normalisation that agrees best."""
    least = math.nan
    for norm in net.consumers[maker]:
        error = net.error(norm, maker)
        least = error if math.isnan(least) else min(least, error)
        if least <= WRONG:
            break
    return least
