"""What every script for a Keras code base does: `save FOLDER NAME...` writes nets, `load FOLDER NAME...` loads files.

Works with whatever Keras KERAS names (keras, tf_keras). Each net NAME has FOLDER/NAME.h5, saved as a whole model,
NAME.weights.h5 and, only saved, NAME.keras. `load` reads the first two, by order and by name; all must agree.
FOLDER/NAME.npy gets the net's logits for FOLDER/images.npy (N, H, W, C), or its pooled features where it has no head.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np

keras = import_module(os.environ.get("KERAS", "keras"))
layers = keras.layers

RANGES = {
    "gamma": (0.5, 1.5),
    "beta": (-0.3, 0.3),
    "bias": (-0.3, 0.3),
    "moving_mean": (-0.3, 0.3),
    "moving_variance": (0.3, 3.0),
}


def run(
    net: Callable[[str, tuple[int, ...]], object],
    versions: Mapping[str, str] = {},
    *,
    numbered: bool = False,
    save: Callable[[str, object, Path], None] | None = None,
) -> None:
    """Does what the command line says.

    `net` builds a net by its name and the shape of an image. `numbered` says that Keras has named its layers, so that
    they are told by their order alone. `save` writes the files NAME.* in another way.
    """
    action, folder, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    images = np.load(folder / "images.npy")
    for name in names:
        keras.backend.clear_session()
        keras.utils.set_random_seed(1)
        model = net(name, images.shape[1:])
        if action == "save":
            randomise(model)
            (save or save_model)(name, model, folder)
        else:
            load(model, folder, name, numbered)
        np.save(folder / f"{name}.npy", logits(model, images))
    print(json.dumps({"keras": keras.__version__, **versions}))


def save_model(name: str, model, folder: Path) -> None:
    for suffix in (".h5", ".keras"):
        model.save(folder / f"{name}{suffix}")
    model.save_weights(folder / f"{name}.weights.h5")


def load(model, folder: Path, name: str, numbered: bool) -> None:
    def loaded(suffix: str, **options: bool) -> list[np.ndarray]:
        model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
        model.load_weights(folder / f"{name}{suffix}", **options)
        return model.get_weights()

    first = loaded(".weights.h5")
    for again in [loaded(".h5"), *([] if numbered else [loaded(".h5", by_name=True)])]:
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def randomise(model) -> None:
    """Statistics, scales, shifts and biases far from fresh ones, which hide every swap, and kernels that let the image
    through to the logits, which fresh ones hardly do."""
    random = np.random.default_rng(2)
    for weight in model.weights:
        name = weight.name.split(":")[0]
        array = random.normal(0, np.sqrt(2 / np.prod(weight.shape[:-1])), weight.shape)
        for ending, (low, high) in RANGES.items():
            if name.endswith(ending):
                array = random.uniform(low, high, weight.shape)
        weight.assign(array.astype("float32"))


def logits(model, images: np.ndarray) -> np.ndarray:
    """What the dense layer says before its softmax, or the mean over all positions where there is none."""
    heads = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    if not heads:
        return np.asarray(model(images, training=False)).mean((1, 2))
    heads[0].activation = keras.activations.linear
    return np.asarray(keras.Model(model.input, heads[0].output)(images, training=False))
