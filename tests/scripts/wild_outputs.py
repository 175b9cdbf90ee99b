"""Twins of files whose outputs are known: `FRAMEWORK NAME=FILE=REFERENCE=ACTIVATION...` prints the errors by name.

REFERENCE is an npz with `x`, channels last or first as its own framework has them, and `y`, what the net that was saved
makes of it. An error is max|a - b| / max|b| once ACTIVATION has been applied, or where it is empty that of the head.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from twin_logits import outputs

from denseport.source import Source


def activated(logits: np.ndarray, activation: str) -> np.ndarray:
    logits = logits.astype(np.float64)
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    normalised = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return {"softmax": np.exp(normalised), "log-softmax": normalised}.get(activation, logits)


def error(framework: str, file: str, reference: str, activation: str) -> float:
    known = np.load(reference)
    images = known["x"] if known["x"].shape[-1] == 3 else np.moveaxis(known["x"], 1, -1)
    with Source.named(file) as source:
        activation = activation or source.detection.config.traits.head_activation
    found = activated(outputs(framework, file, images), activation)
    return float(np.abs(found - known["y"]).max() / np.abs(known["y"]).max())


if __name__ == "__main__":
    errors = {}
    for each in sys.argv[2:]:
        name, *file = each.split("=")
        errors[name] = error(sys.argv[1], *file)
    print(json.dumps(errors))
