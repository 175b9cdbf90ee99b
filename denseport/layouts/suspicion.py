"""Values that no sound net has, and some that only look odd."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from denseport.checkpoint import Tensor, in_two_threads, pieces
from denseport.layouts.weights import Weights


@dataclass(frozen=True)
class Suspicion:
    """Tensors with values that catch the eye, by canonical name.

    Attributes:
        nonfinite: With NaN or Inf.
        negative_variance: Running variances below zero.
        denormal_variance: Running variances that are not zero but too small for full precision.
        dead: Normalisations with channels that give the same value whatever the image: their scale is zero.
    """

    nonfinite: tuple[str, ...] = ()
    negative_variance: tuple[str, ...] = ()
    denormal_variance: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()


def suspicious(weights: Weights) -> Suspicion:
    """Reads every tensor, two at a time, and names those with suspicious values."""
    found = in_two_threads(weights.tensors, _suspicions)
    kinds = (field.name for field in fields(Suspicion))
    return Suspicion(**{kind: tuple(name for name, own in found.items() if kind in own) for kind in kinds})


@np.errstate(invalid="ignore")  # comparing a signalling NaN
def _suspicions(name: str, tensor: Tensor) -> list[str]:
    """The attributes of `Suspicion` in which a tensor belongs."""
    found = []
    values = tensor.read()
    if not all(np.isfinite(piece).all() for piece in pieces(values)):
        found.append("nonfinite")
    if name.endswith(".running_var"):
        wide = values.astype(np.float64)
        if (wide < 0).any():
            found.append("negative_variance")
        if ((wide > 0) & (wide < np.finfo(np.float32).tiny)).any():
            found.append("denormal_variance")
    if ".norm" in name and name.endswith(".weight") and not values.all():
        found.append("dead")
    return found
