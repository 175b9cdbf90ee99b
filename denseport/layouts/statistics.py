"""The roles of layers by their statistics alone, whatever their names and order: who sees what another made.

A channel's statistics are the same in every normalisation of a block, so that those of a block form a chain, each k
channels wider than the one before. What feeds what is told by running means: see `denseport.evidence.prediction`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from denseport.errors import LayoutError
from denseport.evidence import Norm, middle

EPSILON = 1e-5  # of any usual size; it hardly matters to a mean
# Relative difference up to which statistics are the same.
SAME = 1e-3
# Median error in standard deviations up to which one layer may feed another; the border of zeros is left out of it.
FED = 0.5
# More normalisations than nets have are not compared one by one.
MOST_NORMS = 512
# How many times larger the errors must be if two layers' partners are exchanged.
CLEAR = 1.5
# Shares of a small map's positions at which a tap beside the centre is not on the border of zeros.
INSIDE = (0.0, 0.5, 0.75, 0.875, 1.0)

Kernels = Mapping[str, np.ndarray]


def by_statistics(norms: Mapping[str, Norm], narrow: Kernels, wide: Kernels) -> dict[str, str]:
    """The canonical name of each layer but the classifier's, by its name in the file.

    Args:
        norms: The normalisations.
        narrow: The kernels of 1x1 convolutions, as `evidence.grouped` sums them, (taps, O, I).
        wide: Those of wider ones.

    Raises:
        LayoutError: They do not say it.
    """
    if len(norms) > MOST_NORMS or not wide:
        raise LayoutError(f"it has {len(norms):,} normalisations and {len(wide):,} convolutions wider than 1")
    growth, count = Counter(kernel.shape[1] for kernel in wide.values()).most_common(1)[0]
    squeezed = Counter(kernel.shape[2] for kernel in wide.values() if kernel.shape[1] == growth).most_common(1)[0]
    has_bottleneck = squeezed[1] > 1
    grow = {name: kernel for name, kernel in wide.items() if kernel.shape[1] == growth}
    if has_bottleneck:
        grow = {name: kernel for name, kernel in grow.items() if kernel.shape[2] == squeezed[0]}
    elif len(grow) == len(wide):
        grow.pop(min(grow, key=lambda name: grow[name].shape[2]))
    stems = [name for name in wide if name not in grow]
    if len(stems) != 1 or count < 2:
        raise LayoutError("it has more than one convolution that may be the stem")
    chains, is_new_first = _chains(norms, growth)
    return _Wiring(norms, narrow, wide, grow, chains, is_new_first).roles(stems[0], has_bottleneck)


def _chains(norms: Mapping[str, Norm], growth: int) -> tuple[list[list[str]], bool]:
    """The normalisations of each block in the order of its layers, and whether new features come first."""
    for is_new_first in (False, True):
        follows = {}
        for one, other in itertools.permutations(norms, 2):
            if len(norms[other].mean) - len(norms[one].mean) == growth and _shares(
                norms[one], norms[other], is_new_first
            ):
                follows[one] = other
        if follows:
            chains = []
            for first in norms.keys() - set(follows.values()):
                chain = [first]
                while chain[-1] in follows:
                    chain.append(follows[chain[-1]])
                if len(chain) > 1:
                    chains.append(chain)
            return chains, is_new_first
    raise LayoutError("no normalisations have the statistics of the same channels")


def _shares(one: Norm, other: Norm, is_new_first: bool) -> bool:
    """Whether a normalisation sees all that another sees."""
    shared = slice(-len(one.mean), None) if is_new_first else slice(len(one.mean))
    apart = []
    for a, b in ((one.mean, other.mean[shared]), (one.var, other.var[shared])):
        apart.append(np.abs(a - b) <= SAME * np.maximum(np.abs(a), np.abs(b)))
    fresh = (one.mean == 0) & (one.var == 1)
    return bool((apart[0] & apart[1]).mean() > 0.9 and fresh.mean() < 0.5)


class _Wiring:
    """Layers on their way to roles; what has one is taken out."""

    def __init__(
        self,
        norms: Mapping[str, Norm],
        narrow: Kernels,
        wide: Kernels,
        grow: Kernels,
        chains: list[list[str]],
        is_new_first: bool,
    ) -> None:
        self.norms, self.kernels = norms, {**narrow, **wide}
        self.narrow, self.grow, self.chains, self.is_new_first = set(narrow), set(grow), chains, is_new_first
        self.rectified = {name: norm.rectified(0.0, EPSILON) for name, norm in norms.items()}
        self.found: dict[str, str] = {}

    def roles(self, stem: str, has_bottleneck: bool) -> dict[str, str]:
        """The canonical name of each layer."""
        self.found[stem] = "stem.conv"
        blocks = self.in_order(self.kernels[stem].shape[1])
        dense = [
            (f"block{b}.layer{n}", pair)
            for b, c in enumerate(blocks, 1)
            for n, pair in enumerate(itertools.pairwise(c), 1)
        ]
        for name, (norm, _) in dense:
            self.found[norm] = f"{name}.norm1"
        for block, chain in enumerate(blocks, 1):
            self.found[chain[-1]] = "head.norm" if block == len(blocks) else f"transition{block}.norm"
        if has_bottleneck:
            self.bottlenecks(dense)
        else:
            self.pair({name: [(norm, self.new(after))] for name, (norm, after) in dense}, self.grow, "conv1")
        left = [norm for norm in self.norms if norm not in self.found]
        if len(left) == 1 and len(self.norms[left[0]].mean) == self.kernels[stem].shape[1]:
            self.found[left[0]] = "stem.norm"
        elif left:
            raise LayoutError(f"statistics do not say where {len(left)} normalisations stand")
        return self.found

    def in_order(self, width: int) -> list[list[str]]:
        """The chains in the order of the blocks, by the transitions that lead from one to the next."""
        chains, ordered = list(self.chains), list[list[str]]()
        while chains:
            last = ordered[-1][-1] if ordered else ""
            found = []
            for chain in chains:
                first = self.norms[chain[0]]
                for name in self.narrow if last else [""]:
                    if not last:
                        found += [(0.0, name, chain)] if len(first.mean) == width else []
                    elif self.kernels[name].shape[1:] == (len(first.mean), len(self.norms[last].mean)):
                        found.append((self.error(name, last, first), name, chain))
            if not ordered:  # the first is the one that no transition leads to
                found = [each for each in found if not self.is_led_to(each[2])] or found
            if not found or (ordered and min(found)[0] > FED) or (not ordered and len(found) > 1):
                raise LayoutError("statistics do not say which block follows which")
            _, name, chain = min(found)
            if ordered:
                self.found[name] = f"transition{len(ordered)}.conv"
                self.narrow.remove(name)
            ordered.append(chain)
            chains.remove(chain)
        return ordered

    def is_led_to(self, chain: list[str]) -> bool:
        """Whether a transition behind another chain makes what a chain begins with."""
        first = self.norms[chain[0]]
        shapes = ((name, other[-1]) for name in self.narrow for other in self.chains if other is not chain)
        fitting = [(a, b) for a, b in shapes if self.kernels[a].shape[1:] == (len(first.mean), len(self.norms[b].mean))]
        return any(self.error(name, last, first) < FED for name, last in fitting)

    def bottlenecks(self, dense: Sequence[tuple[str, tuple[str, str]]]) -> None:
        """Places the two convolutions of each dense layer, and the normalisation between them."""
        between = [norm for norm in self.norms if norm not in self.found]
        targets = {name: [(norm, self.norms[each]) for each in between] for name, (norm, _) in dense}
        errors = [
            (self.error(conv, norm, target), name, conv, between[n])
            for name, pairs in targets.items()
            for n, (norm, target) in enumerate(pairs)
            for conv in self.narrow
            if self.kernels[conv].shape[1:] == (len(target.mean), len(self.norms[norm].mean))
        ]
        placed: dict[str, tuple[str, str]] = {}
        for error, name, conv, norm in sorted(errors):
            if error < FED and name not in placed and conv not in self.found and norm not in self.found:
                placed[name] = conv, norm
                self.found |= {conv: f"{name}.conv1", norm: f"{name}.norm2"}
        if len(placed) < len(dense):
            raise LayoutError("statistics do not say which bottleneck belongs to which layer")
        refuse_doubt(placed, {(name, (conv, norm)): error for error, name, conv, norm in errors})
        self.pair({name: [(placed[name][1], self.new(after))] for name, (_, after) in dense}, self.grow, "conv2")

    def pair(self, targets: Mapping[str, list[tuple[str, Norm]]], convs: Iterable[str], role: str) -> None:
        """Gives each layer the convolution that makes what it adds of what its normalisation lets through."""
        errors = [
            (self.error(conv, norm, target), name, conv)
            for name, ((norm, target),) in targets.items()
            for conv in convs
            if self.kernels[conv].shape[1:] == (len(target.mean), len(self.norms[norm].mean))
        ]
        placed: dict[str, str] = {}
        for error, name, conv in sorted(errors):
            if error < FED and name not in placed and conv not in self.found:
                placed[name] = conv
                self.found[conv] = f"{name}.{role}"
        if len(placed) < len(targets):
            raise LayoutError("statistics do not say which convolution belongs to which layer")
        refuse_doubt(placed, {(name, conv): error for error, name, conv in errors})

    def new(self, norm: str) -> Norm:
        """A normalisation of a block, of the channels alone that the layer before it added."""
        whole, growth = self.norms[norm], self.kernels[next(iter(self.grow))].shape[1]
        added = slice(growth) if self.is_new_first else slice(-growth, None)
        return Norm(whole.scale[added], whole.shift[added], whole.mean[added], whole.var[added])

    def error(self, conv: str, norm: str, target: Norm) -> float:
        """How far the running means of a normalisation are from what a convolution would make behind another one."""
        made = self.kernels[conv] @ self.rectified[norm]
        shares = INSIDE if len(made) > 1 else (1.0,)
        return min(self._apart(share ** np.arange(len(made)) @ made, target) for share in shares)

    def _apart(self, made: np.ndarray, target: Norm) -> float:
        away = np.abs(made - target.mean) / target.deviation
        return middle(away[~np.isnan(away)])


def refuse_doubt(chosen: Mapping[str, Hashable], errors: Mapping[tuple[str, Hashable], float]) -> None:
    """Refuses a choice of partners where two layers could as well exchange theirs.

    Args:
        chosen: The partner of each layer.
        errors: Of each layer with each partner that it may have.
    """
    for one, other in itertools.combinations(chosen, 2):
        crossed = (one, chosen[other]), (other, chosen[one])
        if all(pair in errors for pair in crossed):
            own = errors[one, chosen[one]] + errors[other, chosen[other]]
            if not sum(errors[pair] for pair in crossed) > CLEAR * own:
                raise LayoutError(f"statistics do not say which of two layers is {one}, and which {other}")
