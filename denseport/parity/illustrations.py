"""What a document shows beyond the figures: distributions where it matters, predictions, and the whole mapping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from denseport.net.config import DenseNetConfig
from denseport.net.graph import feeding
from denseport.parity.comparison import predictions
from denseport.parity.findings import activations, outputs
from denseport.parity.report import Correspondence, Divergence, Histogram, Illustrations, Tap
from denseport.parity.sides import Stored
from denseport.running.images import ImageSet
from denseport.running.request import OUTPUTS, Request

WORST = 3
BINS = 48
WIDEST = 1e300
PREDICTED_IMAGES = 8


def illustrate(
    requests: Sequence[Request],
    configs: Sequence[DenseNetConfig],
    stored: Sequence[Stored],
    images: Sequence[ImageSet],
    taps: Sequence[Tap],
    divergence: Divergence | None,
) -> Illustrations:
    """Everything but the predictions for noise, which mean nothing.

    Args:
        requests: Both sides' requests, with the workers' results.
        configs: Both nets under the traits with which they ran.
        stored: What each file holds.
        images: What both saw.
        taps: The errors along the net.
        divergence: Where the two part.
    """
    ranked = sorted((tap for tap in taps if tap.name != "head"), key=lambda tap: -tap.relative_error)
    worst = [tap.name for tap in ranked]
    if divergence is not None and divergence.tap in worst:
        worst.sort(key=lambda tap: tap != divergence.tap)
    worst = worst[:WORST]
    a, b = (outputs(request, OUTPUTS) for request in requests)
    return Illustrations(
        histograms=(*_activations(requests, configs, worst), *_tensors(stored, configs[0], worst, divergence)),
        predictions=tuple(
            prediction
            for n, each in enumerate(images)
            if each.names
            for prediction in predictions(a[str(n)], b[str(n)], each.names, PREDICTED_IMAGES)
        )[:PREDICTED_IMAGES],
        mapping=tuple(
            Correspondence(name, *stored[0].entry(name), *stored[1].entry(name)) for name in stored[0].weights.tensors
        ),
    )


def _activations(requests: Sequence[Request], configs: Sequence[DenseNetConfig], worst: list[str]) -> list[Histogram]:
    if not worst:
        return []
    with (
        np.load(requests[0].taps(OUTPUTS), allow_pickle=False) as a,
        np.load(requests[1].taps(OUTPUTS), allow_pickle=False) as b,
    ):
        return [
            histogram(f"activations at {tap}", activations(a, tap, configs[0]), activations(b, tap, configs[1]))
            for tap in worst
        ]


def _tensors(
    stored: Sequence[Stored], config: DenseNetConfig, worst: list[str], divergence: Divergence | None
) -> list[Histogram]:
    """The weights that are to blame, or else the last kernel that feeds each of the worst taps."""
    names = [tensor.name for tensor in divergence.tensors if not tensor.equal] if divergence else []
    if not names:
        fed = (feeding(tap, config) for tap in worst)
        names = [[name for name in each if name.endswith(".weight")][-1] for each in fed]
    return [histogram(name, *([each.weights.tensors[name].read()] for each in stored)) for name in names[:WORST]]


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
