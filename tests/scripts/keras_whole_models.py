"""`FOLDER`: saves small whole models as people build them, with `NAME.npz` of `images` and `NAME.npy` of outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers
from keras.src.applications.densenet import DenseNet

folder = Path(sys.argv[1])
random = np.random.default_rng(0)


def body(shape=(64, 64, 3), **arguments):
    return DenseNet([1, 2, 1, 1], include_top=False, weights=None, input_shape=shape, **arguments)


def nested(head, shape=(64, 64, 3)):
    images = keras.Input(shape)
    return keras.Model(images, head(body(shape)(images)))


def classified(**arguments):
    return lambda maps: layers.Dense(5, name="predictions", **arguments)(layers.GlobalAveragePooling2D()(maps))


def with_a_softmax_layer(maps):
    return layers.Softmax()(classified()(maps))


def save(name, model, scale=1.0, suffixes=(".keras", ".h5")):
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            values = [random.uniform(0.5, 1.5, layer.gamma.shape[0]) for _ in range(4)]
            layer.set_weights([values[0], values[1] - 1, values[2] - 1, values[3]])
        if isinstance(layer, layers.Dense):
            layer.set_weights([values * scale for values in layer.get_weights()])
    images = random.normal(0, 1, (2, *(side or 64 for side in model.input_shape[1:3]), 3)).astype("float32")
    np.savez(folder / f"{name}.npz", images=images)
    np.save(folder / f"{name}.npy", np.asarray(model(images, training=False)))
    for suffix in suffixes:
        model.save(folder / f"{name}{suffix}")


save("nested", nested(classified()))
save("free", nested(classified(activation="softmax"), (None, None, 3)), suffixes=(".keras",))
save("saturated", nested(classified(activation="softmax"), (48, 64, 3)), scale=1e4, suffixes=(".keras",))
save("softmax-layer", nested(with_a_softmax_layer), suffixes=(".keras",))
keras.config.set_dtype_policy("mixed_float16")
save("mixed", nested(classified()), suffixes=(".keras",))
keras.config.set_dtype_policy("float32")
save("features", body(), suffixes=(".keras",))
