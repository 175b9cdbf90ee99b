"""keras.applications' own DenseNets: `save FOLDER NAME...` writes some, `load FOLDER NAME...` loads files.

Works with keras and with tf_keras (KERAS=tf_keras), whose layers have other names. `save` writes FOLDER/NAME.h5 (a
whole model), NAME.weights.h5, NAME-nested.h5 and NAME-nested.weights.h5 (a Sequential over a headless net). `load`
reads NAME.h5 and, in Keras 3, NAME.weights.h5. Both write FOLDER/NAME.npy, the logits for FOLDER/images.npy
(N, H, W, C).
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path

import numpy as np

keras = import_module(os.environ.get("KERAS", "keras"))
KERAS_3 = keras.__version__.startswith("3")
DENSENET = import_module(f"{keras.__name__}.src.applications.densenet").DenseNet
BLOCKS = {
    "small": [2, 1, 1, 2],
    "densenet121": [6, 12, 24, 16],
    "densenet169": [6, 12, 32, 32],
    "densenet201": [6, 12, 48, 32],
}


def net(name: str, side: int, **options: object):
    classes = 10 if name == "small" else 1000
    shape = (side, side, 3)
    return DENSENET(BLOCKS[name], weights=None, input_shape=shape, classes=classes, **options)


def logits(model, images: np.ndarray) -> np.ndarray:
    head = model.layers[-1]
    if getattr(head, "activation", None) is keras.activations.softmax:
        head.activation = keras.activations.linear
    return np.asarray(model(images, training=False))


def randomise(model) -> None:
    """Statistics, scales and shifts far from fresh ones: fresh ones hide every swap."""
    random = np.random.default_rng(2)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            width = layer.gamma.shape[0]
            ranges = ((0.5, 1.5), (-0.3, 0.3), (-0.3, 0.3), (0.3, 3.0))
            layer.set_weights([random.uniform(low, high, width).astype("float32") for low, high in ranges])


def main(action: str, folder: Path, names: list[str]) -> None:
    images = np.load(folder / "images.npy")
    for name in names:
        model = net(name, images.shape[1])
        if action == "save":
            randomise(model)
            model.save(folder / f"{name}.h5")
            model.save_weights(folder / f"{name}.weights.h5")
            body = net(name, images.shape[1], include_top=False)
            randomise(body)
            layers = [keras.Input(images.shape[1:]), body, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(7)]
            nested = keras.Sequential(layers)
            nested.save(folder / f"{name}-nested.h5")
            nested.save_weights(folder / f"{name}-nested.weights.h5")
            np.save(folder / f"{name}-nested.npy", logits(nested, images))
        else:
            model.load_weights(folder / f"{name}.h5")
        np.save(folder / f"{name}.npy", logits(model, images))
        if action == "load" and KERAS_3:
            loaded = [weight.numpy() for weight in model.weights]
            again = net(name, images.shape[1])
            again.load_weights(folder / f"{name}.weights.h5")
            assert all(np.array_equal(a, b.numpy()) for a, b in zip(loaded, again.weights, strict=True))
    print(json.dumps({"keras": keras.__version__}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
