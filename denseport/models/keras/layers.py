"""Keras layers of the Keras twin, where Keras' own do not compute as PyTorch's do, or not in every dtype."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("denseport")
class BatchNormalization(layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation whose running variance takes up the unbiased variance of each batch.

    Keras takes up the biased one, n positions in each channel weighing n / (n - 1) too little; PyTorch and the paper
    take the unbiased one. Inference, and what a batch is normalised by in training, are the same in both.

    Source: Ioffe and Szegedy 2015, algorithm 2; torch `nn.BatchNorm2d`; keras `BatchNormalization.call`.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """(N, *spatial, C) to the same shape."""
        kept = self.momentum * ops.convert_to_tensor(self.moving_variance)
        outputs = super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            positions = ops.cast(ops.prod(ops.shape(inputs)[:-1]), self.moving_variance.dtype)
            biased = ops.convert_to_tensor(self.moving_variance) - kept
            self.moving_variance.assign(kept + biased * positions / ops.maximum(positions - 1, 1))
        return outputs


@keras.saving.register_keras_serializable("denseport")
class LeakyReLU(layers.LeakyReLU):  # type: ignore[misc]
    """`keras.layers.LeakyReLU`, whose slope is not rounded to float32, as TensorFlow's is."""

    def call(self, inputs: Any) -> Any:
        """Any shape to the same."""
        return ops.maximum(inputs, 0) + ops.minimum(inputs, 0) * self.negative_slope


@keras.saving.register_keras_serializable("denseport")  # type: ignore[untyped-decorator]
def gelu(x: Any) -> Any:
    """x times the normal distribution's cumulative function of x, whose constants TensorFlow rounds to float32."""
    return x * (ops.erf(x * math.sqrt(0.5)) + 1) * 0.5


@keras.saving.register_keras_serializable("denseport")  # type: ignore[untyped-decorator]
def gelu_tanh(x: Any) -> Any:
    """The same by a hyperbolic tangent.

    Source: Hendrycks and Gimpel 2016, section 2.
    """
    return x * (ops.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1) * 0.5


@keras.saving.register_keras_serializable("denseport")
class MaxPooling3D(layers.MaxPooling3D):  # type: ignore[misc]
    """`keras.layers.MaxPooling3D`, channels last; in float64 too, which TensorFlow's kernel for the CPU lacks."""

    def call(self, inputs: Any) -> Any:
        """(N, D, H, W, C) to (N, D', H', W', C)."""
        return _pool_plane_then_depth(ops.max_pool, inputs, self)


@keras.saving.register_keras_serializable("denseport")
class AveragePooling3D(layers.AveragePooling3D):  # type: ignore[misc]
    """`keras.layers.AveragePooling3D`, channels last and padding `valid` only; in float64 too."""

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
