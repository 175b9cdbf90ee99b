"""Keras' batch normalisation with the running variance of the paper, for the Keras twin."""

from __future__ import annotations

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
