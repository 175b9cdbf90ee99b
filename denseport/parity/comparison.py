"""How far two runs are apart: their outputs, what was seen on the way, and what training did to their tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from denseport.net.config import DenseNetConfig
from denseport.net.graph import taps
from denseport.net.weights import new_first_order
from denseport.parity.report import Comparison, Disagreement, Prediction, Tap, TrainedTensor, TrainingReport
from denseport.parity.sides import Side
from denseport.running.images import ImageSet
from denseport.running.request import OUTPUTS, REFERENCE, ROUNDED_REFERENCE, Request
from denseport.running.training import LEARNING_RATE

TOP = 5
TRAINING_TOLERANCE = 1e-9
# Beside a tensor that trains, one whose gradient is zero but for rounding (a bias before a normalisation) is noise.
NEGLIGIBLE = 1e-6


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    """max|reference - other| / max|reference|, or zero where both are all zero.

    It is infinite where either holds NaN or Inf, or where the shapes differ, as they do behind another stride or pool.
    """
    if reference.shape != other.shape or not (np.isfinite(reference).all() and np.isfinite(other).all()):
        return math.inf
    largest, apart = float(np.abs(reference).max()), float(np.abs(reference - other).max())
    return apart / largest if largest else (math.inf if apart else 0.0)


def compare(
    images: ImageSet,
    a: np.ndarray,
    b: np.ndarray,
    reference: np.ndarray | None = None,
    rounded_reference: np.ndarray | None = None,
    with_file_traits: np.ndarray | None = None,
) -> Comparison:
    """Compares two frameworks' outputs for the same images.

    Args:
        images: The images.
        a: The first file's outputs (N, C).
        b: The second file's.
        reference: The first file's outputs in float64, for the first images alone.
        rounded_reference: The same with its weights rounded as the second file's are.
        with_file_traits: The second file's outputs under the traits that it has.
    """
    top1, labels = (a.argmax(1), b.argmax(1)), images.labels
    errors = None
    if reference is not None:
        seen = rounded_reference if rounded_reference is not None else reference
        errors = relative_error(seen, a[: len(seen)]), relative_error(seen, b[: len(seen)])
    rounding = source = None
    if reference is not None and rounded_reference is not None:
        rounding = relative_error(reference, rounded_reference)
        source = relative_error(reference, b[: len(reference)])
    return Comparison(
        name=images.name,
        input_shape=images.shape,
        relative_error=relative_error(a, b),
        absolute_error=float(np.abs(a - b).max()) if np.isfinite(a).all() and np.isfinite(b).all() else math.inf,
        top1_agreement=float((top1[0] == top1[1]).mean()),
        accuracy=None if labels is None else (float((top1[0] == labels).mean()), float((top1[1] == labels).mean())),
        reference_errors=errors,
        rounding_error=rounding,
        source_error=source,
        trait_error=None if with_file_traits is None else relative_error(a, with_file_traits),
    )


def disagreements(images: ImageSet, a: np.ndarray, b: np.ndarray) -> list[Disagreement]:
    """The images whose largest outputs (N, C) differ."""
    top1 = a.argmax(1), b.argmax(1)
    return [
        Disagreement(
            images.names[n] if images.names else f"{images.name}[{n}]",
            int(top1[0][n]),
            int(top1[1][n]),
            None if images.labels is None else int(images.labels[n]),
        )
        for n in np.flatnonzero(top1[0] != top1[1])
    ]


def predictions(images: ImageSet, a: np.ndarray, b: np.ndarray, limit: int) -> list[Prediction]:
    """The largest outputs of the first `limit` images as shares of a softmax; noise has no names, and gets none."""
    return [Prediction(name, _top(a[n]), _top(b[n])) for n, name in enumerate(images.names[:limit])]


def _top(logits: np.ndarray) -> tuple[tuple[int, float], ...]:
    if not np.isfinite(logits).all():
        return ()
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return tuple((int(n), float(shares[n])) for n in np.argsort(-logits, kind="stable")[:TOP])


def outputs(request: Request) -> dict[str, list[np.ndarray]]:
    """The outputs (N, C) of each pass, one array for each array of images."""
    return {each.name: list(_arrays(request.outputs(each.name)).values()) for each in request.passes}


def tap_errors(requests: Sequence[Request], sides: Sequence[Side]) -> tuple[Tap, ...]:
    """The errors of the activations along the net, in graph order; none where a library ran its model.

    A model that a file holds shows those alone that layers with weights give. The request to torch has the passes in
    float64, of the first file.
    """
    if not requests[0].taps(OUTPUTS).exists():
        return ()
    first, second = (side.config for side in sides)
    found = []
    with ExitStack() as stack:
        a, b = (stack.enter_context(np.load(request.taps(OUTPUTS), allow_pickle=False)) for request in requests)
        references = [request.taps(name) for name in (ROUNDED_REFERENCE, REFERENCE) for request in requests]
        file = next((file for file in references if file.exists()), None)
        reference = stack.enter_context(np.load(file, allow_pickle=False)) if file else None
        for tap in (*taps(first), "head"):
            ours, theirs = activations(a, tap, first), activations(b, tap, second)
            if not ours or not theirs:
                continue
            errors = None
            if reference is not None:
                exact = activations(reference, tap, first)
                errors = _largest_error(exact, ours), _largest_error(exact, theirs)
            found.append(Tap(tap, _largest_error(ours, theirs), errors))
    return tuple(found)


def activations(seen: Mapping[str, np.ndarray], tap: str, config: DenseNetConfig) -> list[np.ndarray]:
    """What one side saw at a tap, (N, *spatial, C) for each image array, channels as nets have them that append."""
    found = [seen[name] for name in seen if name.rpartition("/")[0] == tap]
    layer = taps(config).get(tap, "")
    order = new_first_order(config).get(layer) if config.traits.concatenation == "new-first" else None
    return found if order is None else [array.take(np.argsort(order), -1) for array in found]


def _largest_error(reference: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return max(relative_error(a, b) for a, b in zip(reference, other, strict=True))


def training(requests: Sequence[Request]) -> TrainingReport | None:
    """What training both files showed, or None where it was not asked for."""
    steps = requests[0].train_steps
    if not steps:
        return None
    a, b = (_arrays(request.trained) for request in requests)
    gradients = [name for name in a if name.startswith("gradient/")]
    least = NEGLIGIBLE * max(float(np.abs(a[name]).max()) for name in gradients)
    tensors = []
    for name in (gradient.removeprefix("gradient/") for gradient in gradients):
        ours, theirs = a[f"gradient/{name}"], b[f"gradient/{name}"]
        gradient_error = relative_error(ours, theirs)
        if np.abs(ours).max() < least and np.isfinite(theirs).all():
            gradient_error = float(np.abs(ours - theirs).max()) / least
        statistic = name.rpartition(".")[2].startswith("running_")
        updated_error = relative_error(a[f"updated/{name}"], b[f"updated/{name}"])
        tensors.append(TrainedTensor(name, None if statistic else gradient_error, updated_error))
    losses = tuple((float(ours), float(theirs)) for ours, theirs in zip(a["losses"], b["losses"], strict=True))
    return TrainingReport(steps, LEARNING_RATE, losses, tuple(tensors), TRAINING_TOLERANCE)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
