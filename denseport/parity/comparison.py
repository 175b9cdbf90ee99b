"""The one measure of how far two arrays are apart, and its use on the outputs of two frameworks."""

from __future__ import annotations

import math

import numpy as np

from denseport.parity.report import Comparison, Disagreement, Prediction

TOP = 5


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    """max|reference - other| / max|reference|, or zero where both are all zero.

    It is infinite where either holds NaN or Inf, or where the shapes differ, as they do behind another stride or pool.
    """
    if reference.shape != other.shape or not (np.isfinite(reference).all() and np.isfinite(other).all()):
        return math.inf
    largest, apart = float(np.abs(reference).max()), float(np.abs(reference - other).max())
    return apart / largest if largest else (math.inf if apart else 0.0)


def compare(
    name: str,
    a: np.ndarray,
    b: np.ndarray,
    input_shape: tuple[int, ...],
    labels: np.ndarray | None = None,
    *,
    reference: np.ndarray | None = None,
    rounded_reference: np.ndarray | None = None,
    own_traits: np.ndarray | None = None,
) -> Comparison:
    """Compares two frameworks' outputs for the same images.

    Args:
        name: What the images are called.
        a: The first file's outputs (N, C).
        b: The second file's.
        input_shape: The images', (N, *spatial, C).
        labels: The true classes (N,) where they are known.
        reference: The first file's outputs in float64, for the first images alone.
        rounded_reference: The same with its weights rounded as the second file's are.
        own_traits: The second file's outputs under its own traits.
    """
    top1 = a.argmax(1), b.argmax(1)
    errors = None
    if reference is not None:
        seen = rounded_reference if rounded_reference is not None else reference
        errors = relative_error(seen, a[: len(seen)]), relative_error(seen, b[: len(seen)])
    rounding = source = None
    if reference is not None and rounded_reference is not None:
        rounding = relative_error(reference, rounded_reference)
        source = relative_error(reference, b[: len(reference)])
    return Comparison(
        name=name,
        input_shape=input_shape,
        relative_error=relative_error(a, b),
        absolute_error=float(np.abs(a - b).max()) if np.isfinite(a).all() and np.isfinite(b).all() else math.inf,
        top1_agreement=float((top1[0] == top1[1]).mean()),
        accuracy=None if labels is None else (float((top1[0] == labels).mean()), float((top1[1] == labels).mean())),
        reference_errors=errors,
        rounding_error=rounding,
        source_error=source,
        trait_error=None if own_traits is None else relative_error(a, own_traits),
    )


def disagreements(
    name: str, a: np.ndarray, b: np.ndarray, names: tuple[str, ...], labels: np.ndarray | None
) -> list[Disagreement]:
    """The images whose largest outputs (N, C) differ; `names` are the images', `name` that of them all."""
    top1 = a.argmax(1), b.argmax(1)
    return [
        Disagreement(
            names[n] if names else f"{name}[{n}]",
            int(top1[0][n]),
            int(top1[1][n]),
            None if labels is None else int(labels[n]),
        )
        for n in np.flatnonzero(top1[0] != top1[1])
    ]


def predictions(a: np.ndarray, b: np.ndarray, names: tuple[str, ...], limit: int) -> list[Prediction]:
    """The largest outputs of the first `limit` images, one name each, as shares of a softmax."""
    return [Prediction(name, _top(a[n]), _top(b[n])) for n, name in enumerate(names[:limit])]


def _top(logits: np.ndarray) -> tuple[tuple[int, float], ...]:
    if not np.isfinite(logits).all():
        return ()
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return tuple((int(n), float(shares[n])) for n in np.argsort(-logits, kind="stable")[:TOP])
