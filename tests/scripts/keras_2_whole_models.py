"""`FOLDER`: saves whole models of Keras 2, whose layers' names have slashes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tf_keras import Input, Model, Sequential, layers
from tf_keras.src.applications.densenet import DenseNet

folder = Path(sys.argv[1])
random = np.random.default_rng(0)


def save(name, model):
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            values = [random.uniform(0.5, 1.5, layer.gamma.shape[0]) for _ in range(4)]
            layer.set_weights([values[0], values[1] - 1, values[2] - 1, values[3]])
    model.save(folder / f"{name}.h5")
    model.save(folder / f"{name}.keras")


save("classifier", DenseNet([1, 2, 1, 1], weights=None, input_shape=(64, 64, 3), classes=5))
body = DenseNet([1, 2, 1, 1], include_top=False, weights=None, input_shape=(64, 64, 3))
save("nested", Sequential([body, layers.GlobalAveragePooling2D(), layers.Dense(5, activation="sigmoid")]))
images = Input((64, 64, 3))
scaled = body(images / 255.0)
save("arithmetic", Model(images, layers.Dense(5)(layers.GlobalAveragePooling2D()(scaled))))
