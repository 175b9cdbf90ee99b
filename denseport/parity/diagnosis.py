"""Where two nets part, which of the tensors that feed that place are to blame, and what a document shows of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from denseport.checkpoint import largest_difference
from denseport.layouts.spec import COMPARED, EPSILON_ROUNDING
from denseport.net.config import DenseNetConfig
from denseport.net.graph import feeding
from denseport.parity.comparison import activations
from denseport.parity.report import (
    EQUAL,
    Correspondence,
    Divergence,
    FeedingTensor,
    Histogram,
    Illustrations,
    Prediction,
    Tap,
)
from denseport.parity.sides import Side
from denseport.running.request import OUTPUTS, WHOLE_MODEL, Request

# A jump is an error of ten times what was there before; and before there is always some rounding, of some thirty units
# in the last place at most in a first tap of either framework.
JUMP = 10
ROUNDING = 32
# Inside a net values cancel, so that rounding is larger there than in the outputs. What is this much larger is no
# rounding, and counts even where it does not reach the outputs, behind a dead normalisation say.
INSIDE = 100

WORST = 3
BINS = 48
WIDEST = 1e300


def diagnose(
    taps: Sequence[Tap], sides: Sequence[Side], outputs_agree: bool, tolerance: float, dtype: str
) -> Divergence | None:
    """Where the two nets part, and why; None where they agree."""
    if outputs_agree and all(tap.relative_error <= INSIDE * tolerance for tap in taps):
        return None
    parted = first_divergence(taps, tolerance, dtype)
    return explain(*parted, sides[0], sides[1], [tap.name for tap in taps]) if parted else None


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


def explain(tap: Tap, noise: float, a: Side, b: Side, seen: Sequence[str]) -> Divergence:
    """What stands behind a divergence at a tap, where `noise` was the error before it: tensors, else traits.

    `seen` are the taps that both nets were looked into at.
    """
    fed = feeding(tap.name, a.config, seen)
    first, second = ({name: side.weights.tensors[name].read() for name in fed} for side in (a, b))
    tensors = tuple(
        FeedingTensor(
            name,
            a.entry(name)[0],
            b.entry(name)[0],
            largest_difference(first[name], second[name]),
            _finding(name, first, second),
        )
        for name in fed
    )
    found = [f"{tensor.name} {tensor.finding}" for tensor in tensors if not tensor.equal]
    traits = _different_traits(a.config, b.config)
    if found:
        reason = "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")
    elif traits:
        reason = f"its tensors are equal, but {traits}"
    elif held := next((side for side in (a, b) if side.model == WHOLE_MODEL), None):
        reason = (
            f"its tensors and the traits are equal, so the model in {held.source.shown} computes there what denseport "
            "does not read from it; please report it"
        )
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


def _different_traits(a: DenseNetConfig, b: DenseNetConfig) -> str:
    ours, theirs = asdict(a.traits), asdict(b.traits)
    different = [
        f"{trait} is {ours[trait]} in the first and {theirs[trait]} in the second"
        for trait in COMPARED
        if ours[trait] != theirs[trait]
        and not (trait == "epsilon" and abs(ours[trait] - theirs[trait]) <= EPSILON_ROUNDING)
    ]
    if a.inputs != b.inputs:
        made = [config.inputs.formula if config.inputs else "x" for config in (a, b)]
        different.append(f"the first makes {made[0]} of an image x and the second {made[1]}")
    return ", ".join(different)


def illustrate(
    requests: Sequence[Request],
    sides: Sequence[Side],
    predicted: Sequence[Prediction],
    taps: Sequence[Tap],
    divergence: Divergence | None,
) -> Illustrations:
    """What a document shows beyond the figures.

    Args:
        requests: Both sides' requests, with the workers' results.
        sides: Both files as they were run.
        predicted: The largest outputs of the first images.
        taps: The errors along the net.
        divergence: Where the two part.
    """
    ranked = sorted((tap for tap in taps if tap.name != "head"), key=lambda tap: -tap.relative_error)
    worst = [tap.name for tap in ranked]
    if divergence is not None and divergence.tap in worst:
        worst.sort(key=lambda tap: tap != divergence.tap)
    worst = worst[:WORST]
    return Illustrations(
        histograms=(*_activations(requests, sides, worst), *_tensors(sides, worst, divergence)),
        predictions=tuple(predicted),
        mapping=tuple(
            Correspondence(name, *sides[0].entry(name), *sides[1].entry(name)) for name in sides[0].weights.tensors
        ),
    )


def _activations(requests: Sequence[Request], sides: Sequence[Side], worst: list[str]) -> list[Histogram]:
    if not worst:
        return []
    with (
        np.load(requests[0].taps(OUTPUTS), allow_pickle=False) as a,
        np.load(requests[1].taps(OUTPUTS), allow_pickle=False) as b,
    ):
        return [
            histogram(
                f"activations at {tap}", activations(a, tap, sides[0].config), activations(b, tap, sides[1].config)
            )
            for tap in worst
        ]


def _tensors(sides: Sequence[Side], worst: list[str], divergence: Divergence | None) -> list[Histogram]:
    """The weights that are to blame, or else the last kernel that feeds each of the worst taps."""
    names = [tensor.name for tensor in divergence.tensors if not tensor.equal] if divergence else []
    if not names:
        fed = (feeding(tap, sides[0].config) for tap in worst)
        names = [[name for name in each if name.endswith(".weight")][-1] for each in fed]
    return [histogram(name, *([side.weights.tensors[name].read()] for side in sides)) for name in names[:WORST]]


def histogram(title: str, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> Histogram:
    """How the finite values of both sides are spread, over the same bins."""
    ours, theirs = (np.concatenate([array.ravel().astype(np.float64) for array in arrays]) for arrays in (a, b))
    ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
    both = np.clip(np.concatenate((ours, theirs)), -WIDEST, WIDEST)
    low, high = (float(both.min()), float(both.max())) if both.size else (0.0, 1.0)
    least = max(abs(low), abs(high), 1e-30) * 1e-6  # narrower bins than numbers lie apart are none
    if high - low < least:
        low, high = low - least, high + least
    edges = np.linspace(low, high, BINS + 1)
    counts = [tuple(map(int, np.histogram(values, edges)[0])) for values in (ours, theirs)]
    return Histogram(title, tuple(map(float, edges)), counts[0], counts[1])
