"""DenseNets to test with: configurations, and weights that no mistake can hide in."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from denseport.checkpoint import Checkpoint, Tensor
from denseport.net.config import DenseNetConfig, Traits
from denseport.net.graph import shapes

CIFAR = {"stem_kernel": 3, "stem_norm": False, "stem_stride": 1, "stem_pool": "none"}
IMAGENET_LAYOUTS = (
    "torchvision",
    "torchvision-0.2",
    "keras-applications",
    "keras-applications-2",
    "keras-cv",
    "keras-hub",
    "titu1994",
    "keras-contrib",
    "flyyufelix",
    "monai",
    "gpleiss",
    "kvmm",
    "denseport",
)
CIFAR_LAYOUTS = (
    "andreasveit",
    "kuangliu",
    "bearpaw",
    "titu1994",
    "titu1994-2017",
    "keras-contrib",
    "gpleiss",
    "denseport",
)
TUTORIAL = DenseNetConfig(
    growth_rate=6,
    block_config=(2, 3),
    stem_widths=(10,),
    bottleneck_width=6,
    transition_widths=(14,),
    num_classes=5,
    bottleneck_norm=False,
    final_norm=False,
    conv_bias=True,
    traits=Traits(epsilon=1e-3, padding="same", stem_pool="none", final_activation="none"),
)

# Small nets of every kind, and the layouts that have names for them.
SMALL: dict[str, tuple[DenseNetConfig, tuple[str, ...]]] = {
    "four blocks": (DenseNetConfig.bc(8, (2, 3, 1, 2), 18, num_classes=10), IMAGENET_LAYOUTS),
    "one channel": (DenseNetConfig.bc(6, (2, 2, 2, 2), 10, 2, num_classes=2, in_channels=1), IMAGENET_LAYOUTS),
    "no classifier": (DenseNetConfig.bc(4, (1, 2, 1, 1), 8, num_classes=None), IMAGENET_LAYOUTS),
    "square kernels": (DenseNetConfig.bc(8, (3, 1, 1, 1), 16, num_classes=23), IMAGENET_LAYOUTS),
    "flattened head": (
        DenseNetConfig.bc(8, (2, 3, 1, 2), 18, num_classes=10, head_shape=(3, 3)),
        tuple(layout for layout in IMAGENET_LAYOUTS if layout not in ("keras-cv", "keras-hub")),
    ),
    "CIFAR": (DenseNetConfig.bc(6, (2, 3, 2), 12, num_classes=10, **CIFAR), CIFAR_LAYOUTS),
    "CIFAR without bottleneck": (
        DenseNetConfig.bc(6, (2, 3, 2), 16, num_classes=10, **CIFAR).replace(bottleneck_width=None),
        ("andreasveit", "bearpaw", "titu1994", "keras-contrib", "denseport"),
    ),
    "transitions without ReLU": (
        DenseNetConfig.bc(6, (2, 3, 2), 12, num_classes=10, **CIFAR, transition_activation="none"),
        ("weiaicunzai", "denseport"),
    ),
    "deep stem": (
        DenseNetConfig.bc(8, (2, 2, 1, 1), 16, num_classes=7, stem_kernel=3).replace(stem_widths=(6, 10, 16)),
        ("timm-deep", "denseport"),
    ),
    "3-D": (DenseNetConfig.bc(6, (2, 1), 10, num_classes=3, dimensions=3), ("monai", "denseport")),
    "1-D": (DenseNetConfig.bc(6, (2, 1), 10, num_classes=3, dimensions=1), ("monai", "denseport")),
    "tutorial": (TUTORIAL, ("tutorial", "denseport")),
}


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


def checkpoint(arrays: dict[str, np.ndarray], **traits: Any) -> Checkpoint:
    """Arrays under canonical names as a checkpoint that says so, and its traits."""
    metadata = {"layout": "denseport", "traits": json.dumps(dataclasses.asdict(Traits(**traits)))}
    return Checkpoint({name: Tensor.of(np.ascontiguousarray(array)) for name, array in arrays.items()}, metadata)
