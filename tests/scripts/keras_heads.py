"""`FOLDER`: saves a small whole model for each kind of head that people put behind keras.applications' DenseNet."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers
from keras.src.applications.densenet import DenseNet

folder = Path(sys.argv[1])
random = np.random.default_rng(0)
HEADS = {
    "two-dense": [layers.Dense(6, activation="gelu"), layers.Dropout(0.3), layers.Dense(5, activation="softmax")],
    "norms": [
        layers.BatchNormalization(),
        layers.Dense(6, use_bias=False),
        layers.BatchNormalization(),
        layers.Dense(5),
    ],
    "relu-at-the-end": [layers.Dense(5, activation="relu")],
    "no-bias": [layers.Dense(5, use_bias=False)],
}
for name, head in HEADS.items():
    images = keras.Input((64, 64, 3))
    maps = DenseNet([1, 2, 1, 1], include_top=False, weights=None, input_shape=(64, 64, 3))(images)
    features = layers.GlobalMaxPooling2D()(maps) if name == "no-bias" else layers.GlobalAveragePooling2D()(maps)
    for layer in head:
        features = layer(features)
    model = keras.Model(images, features)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            values = [random.uniform(0.5, 1.5, layer.gamma.shape[0]) for _ in range(4)]
            layer.set_weights([values[0], values[1] - 1, values[2] - 1, values[3]])
    model.save(folder / f"{name}.keras")
