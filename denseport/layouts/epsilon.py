"""The epsilon of Keras nets without names, which may be Keras' default or that of a code base: no file shows which."""

from __future__ import annotations

import numpy as np

from denseport.layouts.detection import Detection
from denseport.net.weights import Weights

# What two epsilons may do to the outputs, relative, where it does not matter which of them it is.
IMMATERIAL = 1e-6


def in_question(found: Detection) -> tuple[float, ...]:
    """The epsilons that a net may have where nothing states one: none, or the layout's and Keras' default.

    Layers that Keras has numbered are those of any code. Where the stem has a name, that tells the code base.
    """
    numbered = found.layout.numbered and "stem" not in found.layout.numbered
    own, default = found.config.traits.epsilon, found.framework.epsilon
    if not numbered or found.origins["epsilon"] not in ("layout", "usual") or own == default:
        return ()
    return own, default


def effect(weights: Weights, one: float, other: float) -> float:
    """How far two epsilons may move the outputs, relative: a bound from the running variances.

    Each normalisation divides a channel by sqrt(variance + epsilon). The largest change of that in each is added up;
    channels whose scale is zero anyway take no part.
    """
    moved = 0.0
    for name, tensor in weights.tensors.items():
        if name.endswith(".running_var"):
            scales = weights.tensors[name.replace(".running_var", ".weight")].read()
            variances = np.maximum(tensor.read().astype(np.float64)[scales != 0], 0)
            moved += float(np.abs(np.sqrt((variances + one) / (variances + other)) - 1).max(initial=0))
    return moved
