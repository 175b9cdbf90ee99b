"""In which order dense layers join features: all normalisations that see a channel have the same statistics of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from denseport.evidence.prediction import Norm, middle
from denseport.net.config import DenseNetConfig

Order = Literal["old-first", "new-first"]

# Relative differences: below the first two normalisations share channels, above the second they do not.
SAME = 1e-3
OTHER = 0.1
# Where a recomputation updated one of the two once more, they are equal to within the momentum.
SHARE = 0.2


@dataclass(frozen=True)
class Pair:
    """Two successive normalisations of a block, and how far the channels that both see are apart in either order.

    Attributes:
        first, second: Their names.
        old: Median relative difference if new features come last, and `new` if they come first.
    """

    first: str
    second: str
    old: float
    new: float

    @property
    def verdict(self) -> Order | None:
        """The order in which both agree, where they do in one and not in the other; else None."""
        least, most = sorted((self.old, self.new))
        if not (most > OTHER and (least < SAME or least < SHARE * most)):
            return None
        return "old-first" if self.old == least else "new-first"


def pairs(config: DenseNetConfig, norms: Mapping[str, Norm]) -> list[Pair]:
    """Each two normalisations that follow each other in a block, and what their statistics have in common."""
    return [_pair(a, b, norms) for block in _blocks(config) for a, b in itertools.pairwise(block)]


def neighbours(config: DenseNetConfig, norm: str) -> list[str]:
    """The normalisations of the same block before and behind one that sees the block's features; else none."""
    for block in _blocks(config):
        if norm in block:
            place = block.index(norm)
            return block[max(place - 1, 0) : place] + block[place + 1 : place + 2]
    return []


def shared(config: DenseNetConfig, count: int) -> slice:
    """Where a later normalisation of a block has the channels of an earlier one, which has `count`."""
    return slice(count) if config.traits.concatenation == "old-first" else slice(-count, None)


@lru_cache(maxsize=16)
def _blocks(config: DenseNetConfig) -> list[list[str]]:
    """The normalisations that see the features of each block, in the order in which those grow."""
    blocks = []
    for block, count in enumerate(config.block_config, 1):
        names = [f"block{block}.layer{layer}.norm1" for layer in range(1, count + 1)]
        last = [f"transition{block}.norm"] if block < config.blocks else ["head.norm"] * config.final_norm
        blocks.append(names + last)
    return blocks


def _pair(first: str, second: str, norms: Mapping[str, Norm]) -> Pair:
    one, other = norms[first], norms[second]
    count = len(one.mean)
    return Pair(first, second, _apart(one, other, slice(count)), _apart(one, other, slice(-count, None)))


def _apart(one: Norm, other: Norm, shared: slice) -> float:
    """Median relative difference of means and variances, whichever is larger; 0 where none differs from a fresh one."""
    differences = []
    for a, b, fresh in ((one.mean, other.mean[shared], 0.0), (one.var, other.var[shared], 1.0)):
        says = ((a != fresh) | (b != fresh)) & (np.maximum(np.abs(a), np.abs(b)) > 1e-12)
        largest = np.maximum(np.abs(a[says]), np.abs(b[says]))
        differences.append(apart if (apart := middle(np.abs(a[says] - b[says]) / largest)) > 0 else 0.0)
    return max(differences)


def order(found: Sequence[Pair]) -> Order | None:
    """The order in which features are joined, where most pairs say so and none says the opposite; else None."""
    votes = [pair.verdict for pair in found]
    old, new = votes.count("old-first"), votes.count("new-first")
    if (old and new) or (old + new) * 2 <= len(votes):
        return None
    return "old-first" if old else "new-first"
