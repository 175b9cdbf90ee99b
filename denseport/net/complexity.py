"""What one image costs a net."""

from __future__ import annotations

import math

from denseport.net.architecture import layers, stem_names
from denseport.net.config import DenseNetConfig


def multiply_adds(config: DenseNetConfig, size: tuple[int, ...]) -> int:
    """The multiply-adds of one image of a spatial shape (*spatial): those of convolutions and of the classifier.

    What has no kernel that is learned is left out, as is usual: normalisations, pools, biases, the filter of a blur
    pool.

    Source: torchvision's `_ops` and torch/utils/flop_counter.py: conv_flop_count, addmm_flop, which count each as two.
    """
    positions = _positions(config, size)
    return sum(
        math.prod(layer.shapes["weight"]) * (positions.get(layer.name) or positions[layer.name.partition(".")[0]])
        for layer in layers(config)
        if layer.kind != "norm"
    )


def _positions(config: DenseNetConfig, size: tuple[int, ...]) -> dict[str, int]:
    """How often a kernel is applied: by name for the stem's convolutions, by stage for all other layers."""
    positions = {"head": 1}
    stride = config.traits.stem_stride
    # A kernel of an even side, padded by half of it on both sides, has one position more.
    more = config.traits.padding == "symmetric" and config.stem_kernel % 2 == 0
    for name in stem_names(config):
        size = tuple((side if more else side - 1) // stride + 1 for side in size)
        positions[f"stem.conv{name}"] = math.prod(size)
        stride = 1
    if config.traits.stem_pool != "none":
        size = tuple(-(-side // 2) for side in size)
    for b in range(1, config.blocks + 1):
        # A transition pools after its convolution, and drops an odd last position.
        positions[f"block{b}"] = positions[f"transition{b}"] = math.prod(side >> b - 1 for side in size)
    return positions
