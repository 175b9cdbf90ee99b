"""Which sizes of images a net can take, and which ones a parity check gives it."""

from __future__ import annotations

import math
from pathlib import Path

from denseport.errors import UsageError
from denseport.net.config import DenseNetConfig
from denseport.net.graph import reduction, sizes

# Two images of a size are made at once; a net that needs larger ones than this has more pools than any that is trained.
MAX_NOISE_VALUES = 1 << 26


def noise_shapes(config: DenseNetConfig) -> tuple[tuple[int, ...], ...]:
    """The shapes (N, *spatial, C) of noise: two images with even sides, two with odd ones, and one of unequal sides.

    `same` and symmetric padding differ at even sides alone, and mixed-up axes show where sides are unequal. A flattened
    head takes those alone that leave it its map.

    Raises:
        UsageError: The net needs larger images than can be made up.
    """
    even = usual_size(config)
    if math.prod(even) * config.in_channels > MAX_NOISE_VALUES:
        raise UsageError(
            f"images of {shown(even)} pixels and {config.in_channels} channels, that this net needs are too large for "
            "noise; give --inputs, or --no-verify"
        )
    odd = tuple(side + 1 for side in even)
    shares = (0.75, 0.875, 0.75)  # of which the second becomes odd
    unequal = tuple(int(side * shares[axis]) // 2 * 2 + axis % 2 for axis, side in enumerate(even))
    counts = {even: 2, odd: 2} | ({unequal: 1} if config.dimensions > 1 else {})
    return tuple((count, *size, config.in_channels) for size, count in counts.items() if _takes(config, size))


def usual_size(config: DenseNetConfig) -> tuple[int, ...]:
    """The even sides that a net of this kind usually takes; where the head is flattened, the ones that fit it."""
    if _flattened(config):
        return tuple(side * _least(config) for side in config.head_shape)
    usual = 32 if config.traits.stem_stride == 1 else 64 if config.dimensions == 3 else 224
    return (max(usual, 2 * _least(config)),) * config.dimensions


def training_size(config: DenseNetConfig) -> tuple[int, ...]:
    """Even sides, small since each step of training costs three times a run, that leave a map of several positions."""
    if _flattened(config):
        return usual_size(config)
    return (max(32, 2 * _least(config)),) * config.dimensions


def require_size(config: DenseNetConfig, size: tuple[int, ...], file: Path) -> None:
    """Raises UsageError where a net cannot take images of a spatial shape; the message names `file`."""
    if not _takes(config, size):
        wanted = shown(usual_size(config)) if _flattened(config) else f"sides of {_least(config)} or more"
        raise UsageError(f"{file}: images of {shown(size)} do not fit; the net takes {wanted}")


def shown(size: tuple[int, ...]) -> str:
    """A spatial shape as people write it: `224x224`."""
    return "x".join(map(str, size))


def _takes(config: DenseNetConfig, size: tuple[int, ...]) -> bool:
    last_map = [positions for positions in sizes(config, size).values() if positions][-1]
    return last_map == config.head_shape if _flattened(config) else min(last_map) > 0


def _flattened(config: DenseNetConfig) -> bool:
    return bool(config.head_shape) and config.num_classes is not None


def _least(config: DenseNetConfig) -> int:
    """The side of which one position is left in the map; beyond 2^40 it is of no use to say how much larger it is."""
    return min(reduction(config), 1 << 40)
