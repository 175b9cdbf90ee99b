"""The range of the images that a net was trained on, as its first normalisation recorded it.

The running means behind the stem's convolution are its kernel, summed over its window, times the mean of each input
channel: least squares over the filters. The running variances give the spread, where neighbouring pixels are taken to
be correlated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from denseport.evidence.prediction import LEAST_VARIANCE

# Correlation of two pixels a position apart, and of two channels of one pixel, in photographs.
NEIGHBOURS = 0.95
CHANNELS = 0.9
LEAST_FIT = 0.97
# Sides of images that are tried.
SIDES = (8, 16, 32, 64, 128, 256, 1 << 20)
# Estimated spreads are this far off at most: estimated over true, least and most.
SPREAD = (0.75, 1.6)
# Images of which the spread is this many times another's, or the mean as many spreads away, are of another range.
APART, FAR = 4.0, 3.0


@dataclass(frozen=True)
class Scale:
    """A usual range of inputs: which means and spreads (standard deviations of all pixels) it may have."""

    name: str
    means: tuple[float, float]
    spreads: tuple[float, float]


SCALES = (
    Scale("0 to 255", (12, 243), (12, 120)),
    Scale("0 to 1", (0.05, 0.95), (0.04, 0.48)),
    Scale("-1 to 1", (-0.9, 0.9), (0.08, 0.85)),
    Scale("normalised by mean and deviation", (-1, 1), (0.5, 1.6)),
    Scale("0 to 255, less a mean", (-100, 100), (12, 120)),
)


@dataclass(frozen=True)
class Inputs:
    """What the first normalisation recorded of the images.

    Attributes:
        mean: Of each channel, and `error` its standard error.
        spread: The standard deviation of pixels, to within `SPREAD`.
        fit: R^2 of the means.
        possible: The names of the usual ranges of which such images may be.
    """

    mean: tuple[float, ...]
    error: tuple[float, ...]
    spread: float
    fit: float
    possible: tuple[str, ...]

    def __str__(self) -> str:
        means = ", ".join(f"{mean:.3g}" for mean in self.mean)
        return f"mean {means}, spread about {self.spread:.2g}: {' or '.join(self.possible) or 'no usual range'}"

    @property
    def are_pixels(self) -> bool:
        """Whether the net was trained on pixels as images have them, which are nothing else than 0 to 255."""
        return self.possible == (SCALES[0].name,)

    def may_be_of(self, mean: float, spread: float) -> bool:
        """Whether photographs of such a mean and spread may have been what the net saw, as far as that can be told."""
        likeness = self.spread / spread
        near = all(abs(own - mean) < FAR * max(self.spread, spread) for own in self.mean)
        return near and 1 / APART < likeness < APART


def inputs(kernel: np.ndarray, mean: np.ndarray, var: np.ndarray) -> Inputs | None:
    """The range of inputs by the stem's kernel (O, I, *spatial), or None where its filters do not agree upon one.

    Args:
        kernel: Of the first convolution.
        mean: What the first normalisation recorded behind it, less the convolution's bias; and `var` likewise.
    """
    places = np.moveaxis(np.indices(kernel.shape[2:]), 0, -1).reshape(-1, kernel.ndim - 2)
    flat = kernel.astype(np.float64).reshape(*kernel.shape[:2], -1)
    usable = (var > LEAST_VARIANCE) & np.isfinite(mean)
    flat, mean, var = flat[usable], mean[usable], var[usable]
    if len(mean) < 2 * flat.shape[1] + 2:
        return None
    fits = [_means(flat, mean, np.abs(places - places.max(0) // 2), side) for side in SIDES]
    fit, found, error = max(fits, key=lambda each: each[0])
    if not fit > LEAST_FIT:
        return None
    spread = _spread(flat, places, var)
    return Inputs(tuple(found.tolist()), tuple(error.tolist()), spread, fit, _possible(found, error, spread))


def _means(flat: np.ndarray, mean: np.ndarray, off: np.ndarray, side: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Least squares for images of a side, whose border of zeros takes its share: R^2, means, standard errors."""
    system = flat @ np.clip(1 - off / side, 0, 1).prod(1)
    found, _, rank, _ = np.linalg.lstsq(system, mean, rcond=None)
    left = mean - system @ found
    fit = 1 - float(left @ left) / max(float(mean @ mean), 1e-30)
    if rank < flat.shape[1]:
        return -math.inf, found, found
    noise = float(left @ left) / (len(mean) - len(found))
    return fit, found, np.sqrt(noise * np.diag(np.linalg.inv(system.T @ system)))


def _spread(flat: np.ndarray, places: np.ndarray, var: np.ndarray) -> float:
    """The standard deviation of pixels that would give filters (O, I, taps) such variances."""
    distance = np.sqrt(((places[:, np.newaxis] - places) ** 2).sum(-1))
    correlation = NEIGHBOURS**distance
    total = flat.sum(1)
    apart = np.einsum("oct,tu,ocu->o", flat, correlation, flat, optimize=True)
    together = np.einsum("ot,tu,ou->o", total, correlation, total, optimize=True)
    return math.sqrt(float(np.median(var / ((1 - CHANNELS) * apart + CHANNELS * together))))


def _possible(mean: np.ndarray, error: np.ndarray, spread: float) -> tuple[str, ...]:
    names = []
    for scale in SCALES:
        (least, most), (narrow, wide) = scale.means, scale.spreads
        in_range = bool(((mean + 2 * error >= least) & (mean - 2 * error <= most)).all())
        if in_range and narrow * SPREAD[0] <= spread <= wide * SPREAD[1]:
            names.append(scale.name)
    return tuple(names)
