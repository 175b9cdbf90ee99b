"""Values that no sound net has, and some that only look odd."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from denseport.checkpoint import pieces
from denseport.net.weights import Weights


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


@np.errstate(invalid="ignore")  # comparing a signalling NaN
def suspicious(weights: Weights) -> Suspicion:
    """Reads every tensor, one at a time, and names those with suspicious values."""
    found: dict[str, list[str]] = {"nonfinite": [], "negative_variance": [], "denormal_variance": [], "dead": []}
    for name, tensor in weights.tensors.items():
        values = tensor.read()
        if not all(np.isfinite(piece).all() for piece in pieces(values)):
            found["nonfinite"].append(name)
        if name.endswith(".running_var"):
            wide = values.astype(np.float64)
            if (wide < 0).any():
                found["negative_variance"].append(name)
            if ((wide > 0) & (wide < np.finfo(np.float32).tiny)).any():
                found["denormal_variance"].append(name)
        if ".norm" in name and name.endswith(".weight") and not values.all():
            found["dead"].append(name)
    return Suspicion(**{kind: tuple(names) for kind, names in found.items()})
