"""Which normalisation or kernel contradicts what feeds it, and which mistake would explain that.

An error alone proves nothing: where parts of a net were frozen it is large. Only where undoing one of the mistakes that
conversions make brings the prediction back is a net called damaged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from denseport.evidence.order import neighbours, shared
from denseport.evidence.prediction import LEAST_VARIANCE, Net, Norm, middle

# In standard deviations: what calls for a repair, what may be left after it, and how many times less that must be.
WRONG = 0.2
LEFT = 0.25
GAIN = 3.0
# What a repair changes by a smaller share says nothing of it.
CHANGED = 0.1
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
        damage, net, left = min(fitting, key=lambda each: (len(each[2]), each[0].left * len(each[0].layers)))
        found.append(damage)
    return tuple(found)


def _fitting(net: Net, contradictions: _Contradictions) -> Iterator[tuple[Damage, Net, _Contradictions]]:
    """The repairs that make predictions fit, each with the net and the contradictions that it leaves."""
    for repair in _repairs(net, contradictions):
        mended = net.repaired(repair.norms, repair.turned)
        error, left = _effect(net, mended, repair)
        if left < LEFT and error > max(WRONG, GAIN * left):
            damage = Damage(repair.layers, repair.mistake, error, left)
            yield damage, mended, _Contradictions.of(mended, contradictions.norms, contradictions.makers)


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
            yield _Repair("the two are exchanged", {one: b, other: a})
            yield _Repair(
                "the statistics of the two are exchanged",
                {one: replace(a, mean=b.mean, var=b.var), other: replace(b, mean=a.mean, var=a.var)},
            )


def _effect(net: Net, mended: Net, repair: _Repair) -> tuple[float, float]:
    """The largest error of all that a repair changes, without it and with it."""
    makers = [maker for maker, source in net.sources.items() if source in repair.norms or maker in repair.turned]
    both = [(_own(net, norm), _own(mended, norm)) for norm in repair.norms]
    both += [(_made(net, maker), _made(mended, maker)) for maker in makers]
    changed = [(before, after) for before, after in both if not abs(after - before) <= CHANGED * before]
    known = [(before, after) for before, after in changed if not math.isnan(before)]
    if not known or any(math.isnan(after) for _, after in known):
        return math.nan, math.nan
    return max(before for before, _ in known), max(after for _, after in known)


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
