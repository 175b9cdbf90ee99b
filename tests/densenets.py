"""DenseNets to test with: configurations, and weights that no mistake can hide in."""

from __future__ import annotations

import numpy as np

from denseport.architecture import shapes
from denseport.config import VARIANTS, DenseNetConfig

SMALL = {
    "three blocks": DenseNetConfig.bc(8, (2, 3, 2), 18, num_classes=10),
    "two classes, one channel": DenseNetConfig.bc(6, (2, 2, 2, 2), 10, 2, num_classes=2, in_channels=1),
    "no classifier": DenseNetConfig.bc(4, (1, 2), 8, num_classes=None),
    "one block": DenseNetConfig.bc(12, (3,), 24, num_classes=5),
    "square kernels": DenseNetConfig.bc(8, (4, 2), 16, num_classes=28),
    "keras.applications' own": DenseNetConfig.bc(32, (1, 1, 1, 1), 64, num_classes=7),
}
ALL = {**SMALL, "densenet121": VARIANTS["densenet121"]}


def canonical_weights(config: DenseNetConfig, seed: int = 0, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Random weights in which every tensor differs from every other; statistics are far from fresh ones.

    Kernels are scaled as He et al. do, so that the signal neither vanishes nor grows through the layers.
    """
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes(config).items():
        if name.endswith(".running_var"):
            values = random.uniform(0.3, 3.0, shape)
        elif len(shape) > 1:
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif ".norm" in name and name.endswith(".weight"):
            values = random.uniform(0.5, 1.5, shape)
        else:
            values = random.standard_normal(shape) * 0.2
        weights[name] = values.astype(dtype)
    return weights


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two sets of arrays have the same names, dtypes, shapes and values."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a
    )
