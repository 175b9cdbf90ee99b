"""Where two nets part, and which of the tensors that feed that place are to blame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from denseport.net.config import DenseNetConfig
from denseport.net.graph import feeding
from denseport.parity.report import EQUAL, Divergence, FeedingTensor, Tap
from denseport.parity.sides import Stored

# A jump is an error of ten times what was there before; and before there is always some rounding, of some thirty units
# in the last place at most in a first tap of either framework.
JUMP = 10
ROUNDING = 32


def first_divergence(taps: Sequence[Tap], tolerance: float, dtype: str) -> tuple[Tap, float] | None:
    """The first tap whose error jumps above the noise of those before it, and that noise.

    Where errors grow without a jump, it is the first one beyond the tolerance; None where there is none either.
    """
    noise = ROUNDING * float(np.finfo(dtype).eps)
    for tap in taps:
        if tap.reference_errors and math.isfinite(tap.reference_errors[0]):
            noise = max(noise, tap.reference_errors[0])  # what rounding does to the reference itself, up to here
        if tap.relative_error > JUMP * noise:
            return tap, noise
        noise = max(noise, tap.relative_error)
    before = ROUNDING * float(np.finfo(dtype).eps)
    for tap in taps:
        if tap.relative_error > tolerance:
            return tap, before
        before = max(before, tap.relative_error)
    return None


def explain(tap: Tap, noise: float, a: Stored, b: Stored) -> Divergence:
    """What stands behind a divergence at a tap, where `noise` was the error before it: tensors, else traits."""
    fed = feeding(tap.name, a.weights.config)
    first, second = ({name: file.weights.tensors[name].read() for name in fed} for file in (a, b))
    tensors = tuple(
        FeedingTensor(
            name,
            a.roles[name],
            b.roles[name],
            _largest(first[name], second[name]),
            _finding(name, first, second),
        )
        for name in fed
    )
    found = [f"{tensor.name} {tensor.finding}" for tensor in tensors if not tensor.equal]
    traits = _different_traits(a.weights.config, b.weights.config)
    if found:
        reason = "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")
    elif traits:
        reason = f"its tensors are equal, but {traits}"
    else:
        reason = "its tensors and the traits are equal, so the two compute it otherwise: see with --exact"
    return Divergence(tap.name, tap.relative_error, noise, tensors, f"they part at {tap.name}: {reason}")


def _finding(name: str, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> str:
    """In words, what the second file has in place of the first one's tensor."""
    ours, theirs = a[name], b[name]
    if _same(ours, theirs):
        return EQUAL
    for axes in itertools.permutations(range(ours.ndim)):
        if axes != tuple(range(ours.ndim)) and _same(ours.transpose(axes), theirs):
            return f"is transposed, its axes in the order {axes}"
    if ours.ndim > 2 and _same(np.flip(ours, tuple(range(2, ours.ndim))), theirs):
        return "is turned by 180 degrees, as Theano has it"
    for other, values in a.items():
        if other != name and _same(values, theirs):
            return f"holds the values of {other}"
    if _same(np.sort(ours, axis=None), np.sort(theirs, axis=None)):
        return "holds the same values in another order, as where channels are concatenated otherwise"
    return "holds other values"


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=True)


def _largest(a: np.ndarray, b: np.ndarray) -> float | None:
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0))
    return largest if math.isfinite(largest) else None


def _different_traits(a: DenseNetConfig, b: DenseNetConfig) -> str:
    ours, theirs = asdict(a.traits), asdict(b.traits)
    different = [
        f"{trait} is {ours[trait]} in the first and {theirs[trait]} in the second"
        for trait in ours
        if ours[trait] != theirs[trait] and trait not in ("head_activation", "concatenation")
    ]
    return ", ".join(different)
