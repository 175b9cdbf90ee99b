"""Keras layers that pool three spatial axes in every dtype: TensorFlow's own kernels know no float64 on the CPU."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("denseport")
class MaxPooling3D(layers.MaxPooling3D):  # type: ignore[misc]
    """`keras.layers.MaxPooling3D`, channels last."""

    def call(self, inputs: Any) -> Any:
        """(N, D, H, W, C) to (N, D', H', W', C)."""
        return _pool_plane_then_depth(ops.max_pool, inputs, self)


@keras.saving.register_keras_serializable("denseport")
class AveragePooling3D(layers.AveragePooling3D):  # type: ignore[misc]
    """`keras.layers.AveragePooling3D`, channels last and padding `valid` only."""

    def call(self, inputs: Any) -> Any:
        """(N, D, H, W, C) to (N, D', H', W', C)."""
        return _pool_plane_then_depth(ops.average_pool, inputs, self)


def _pool_plane_then_depth(pool: Any, x: Any, layer: Any) -> Any:
    # A maximum of maxima is the maximum, a mean of means over windows of one size the mean.
    (side, *plane_side), (stride, *plane_stride) = layer.pool_size, layer.strides
    n, depth, height, width, channels = ops.shape(x)
    x = ops.reshape(x, (n * depth, height, width, channels))
    x = pool(x, tuple(plane_side), tuple(plane_stride), layer.padding, "channels_last")
    _, height, width, _ = ops.shape(x)
    x = ops.reshape(x, (n, depth, height * width, channels))
    x = pool(x, (side, 1), (stride, 1), layer.padding, "channels_last")
    return ops.reshape(x, (n, -1, height, width, channels))
