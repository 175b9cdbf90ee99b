"""What the workers of a parity check left behind: outputs, activations and trained tensors, read and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from denseport.net.config import DenseNetConfig
from denseport.net.graph import taps
from denseport.net.weights import new_first_order
from denseport.parity.comparison import relative_error
from denseport.parity.report import Tap, TrainedTensor, TrainingReport
from denseport.running.request import OUTPUTS, REFERENCE, ROUNDED_REFERENCE, Request

TRAINING_TOLERANCE = 1e-9
# Beside a tensor that trains, one whose gradient is zero but for rounding (a bias before a normalisation) is noise.
NEGLIGIBLE = 1e-6


def outputs(request: Request, name: str) -> dict[str, np.ndarray]:
    """The outputs (N, C) of a pass by the number of the image array; empty where there was no such pass."""
    file = request.outputs(name)
    return _arrays(file) if file.exists() else {}


def tap_errors(requests: Sequence[Request], configs: Sequence[DenseNetConfig]) -> tuple[Tap, ...]:
    """The errors of the activations along the net, in graph order; none where a library ran its own model.

    Args:
        requests: Both sides' requests; the torch side's has the passes in float64, of the first file.
        configs: Both nets under the traits with which they ran.
    """
    if not requests[0].taps(OUTPUTS).exists():
        return ()
    found = []
    with ExitStack() as stack:
        a, b = (stack.enter_context(np.load(request.taps(OUTPUTS), allow_pickle=False)) for request in requests)
        references = [request.taps(name) for name in (ROUNDED_REFERENCE, REFERENCE) for request in requests]
        file = next((file for file in references if file.exists()), None)
        reference = stack.enter_context(np.load(file, allow_pickle=False)) if file else None
        for tap in (*taps(configs[0]), "head"):
            ours, theirs = activations(a, tap, configs[0]), activations(b, tap, configs[1])
            errors = None
            if reference is not None:
                exact = activations(reference, tap, configs[0])
                errors = _largest_error(exact, ours), _largest_error(exact, theirs)
            found.append(Tap(tap, _largest_error(ours, theirs), errors))
    return tuple(found)


def activations(source: Mapping[str, np.ndarray], tap: str, config: DenseNetConfig) -> list[np.ndarray]:
    """What one side saw at a tap, (N, *spatial, C) for each image array, channels as nets have them that append."""
    found = [source[name] for name in source if name.rpartition("/")[0] == tap]
    layer = taps(config).get(tap, "")
    order = new_first_order(config).get(layer) if config.traits.concatenation == "new-first" else None
    return found if order is None else [array.take(np.argsort(order), -1) for array in found]


def _largest_error(reference: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return max(relative_error(a, b) for a, b in zip(reference, other, strict=True))


def training(requests: Sequence[Request]) -> TrainingReport | None:
    """What training both files showed, or None where it was not asked for."""
    asked = requests[0].training
    if asked is None:
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
    return TrainingReport(asked.steps, asked.learning_rate, losses, tuple(tensors), TRAINING_TOLERANCE)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
