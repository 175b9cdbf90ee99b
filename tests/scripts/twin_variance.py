"""The running variance of either twin's normalisation after one batch of four positions, and what the paper says."""

from __future__ import annotations

import json

import numpy as np
import torch

from denseport.models import keras as keras_twin
from denseport.models import pytorch as torch_twin
from denseport.net.config import DenseNetConfig

config = DenseNetConfig.bc(4, (1,), 3)
values = np.random.default_rng(0).standard_normal((4, 1, 1, 3)).astype(np.float32)

normalisation = torch_twin.norm(config, 3).train()
normalisation(torch.from_numpy(values.transpose(0, 3, 1, 2).copy()))

keras_normalisation = keras_twin.BatchNormalization(momentum=0.9, epsilon=1e-5)
keras_normalisation(values, training=False)
assert (keras_normalisation.moving_variance.numpy() == 1).all(), "inference leaves it as it is"
keras_normalisation(values, training=True)

print(
    json.dumps(
        {
            "torch": normalisation.running_var.tolist(),
            "keras": keras_normalisation.moving_variance.numpy().tolist(),
            "expected": (0.9 + 0.1 * values.reshape(4, 3).var(0, ddof=1)).tolist(),
        }
    )
)
