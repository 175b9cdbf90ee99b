"""Saves small nets in every HDF5 container of Keras, has denseport write each once more, and loads that.

Works with keras and with tf_keras (KERAS=tf_keras). For each net NAME, FOLDER gets NAME.h5 (the whole model, compiled
and trained a step), NAME-weights.h5 (legacy, weights alone), NAME.weights.h5 and NAME.npz, each weight by
`<layer>/<variable>`; then ours-NAME.h5 and ours-NAME.weights.h5, which denseport writes with every value negated, and
ours-NAME.npz and ours-NAME.weights.npz, what a fresh net holds after loading them. Only keras loads our .weights.h5
(tf_keras wants a group for each layer, even where it has no variables), and adds bfloat16.weights.h5.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np

from denseport.checkpoint import Tensor
from denseport.formats.keras import legacy, weights

keras = import_module(os.environ.get("KERAS", "keras"))
KERAS_3 = keras.__version__.startswith("3")
layers = keras.layers
DENSENET = import_module(f"{keras.__name__}.src.applications.densenet").DenseNet


def plain():
    """A classifier whose layers have names; tf_keras puts scopes into them, as its own DenseNet does."""
    return keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="stem_conv" if KERAS_3 else "stem/conv"),
            layers.BatchNormalization(name="stem_bn" if KERAS_3 else "stem/bn"),
            layers.Dropout(0.5),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="out"),
        ]
    )


def ranks():
    """Convolutions of each rank, with and without bias, a normalisation of neither scale nor shift, and twelve layers
    of one class, whose counted names sort otherwise than they count."""
    line = layers.Input((8, 2))
    cube = layers.Input((4, 4, 4, 1))
    ends = [
        layers.Flatten()(layers.Conv1D(3, 3, name="line")(line)),
        layers.Flatten()(
            layers.BatchNormalization(center=False, scale=False, name="bare")(
                layers.Conv3D(2, 2, use_bias=False, name="cube")(cube)
            )
        ),
    ]
    x = layers.Concatenate()(ends)
    for width in range(13, 1, -1):
        x = layers.Dense(width, name=f"{'abcdefghijklmnopqrst'[width]}_dense")(x)
    return keras.Model([line, cube], x)


def densenet():
    return DENSENET([1, 1, 1, 1], weights=None, input_shape=(32, 32, 3), classes=5)


def nested():
    """What transfer learning makes: a headless DenseNet as one layer of another model."""
    body = DENSENET([1, 1, 1, 1], include_top=False, weights=None, input_shape=(32, 32, 3))
    return keras.Sequential([body, layers.GlobalAveragePooling2D(), layers.Dense(3, name="head")])


def leaves(model):
    for layer in model.layers:
        yield from leaves(layer) if hasattr(layer, "layers") else [layer]


def named(model) -> dict[str, np.ndarray]:
    """Each weight by `<layer>/<variable>`."""
    return {
        f"{layer.name}/{weight.name.split('/')[-1].removesuffix(':0')}": np.asarray(weight)
        for layer in leaves(model)
        for weight in layer.weights
    }


def save_legacy(model, path: Path) -> None:
    if KERAS_3:
        with h5py.File(path, "w") as file:
            import_module("keras.src.legacy.saving.legacy_h5_format").save_weights_to_hdf5_group(file, model)
    else:
        model.save_weights(path)


def main(folder: Path) -> None:
    for make in (plain, ranks, densenet, nested):
        name, model = make.__name__, make()
        random = np.random.default_rng(3)
        model.set_weights([random.standard_normal(weight.shape).astype("float32") for weight in model.get_weights()])
        if make is plain:
            model.compile("adam", "mse")
            model.fit(np.zeros((2, 8, 8, 3)), np.zeros((2, 2)), verbose=0)
        model.save(folder / f"{name}.h5")
        save_legacy(model, folder / f"{name}-weights.h5")
        model.save_weights(folder / f"{name}.weights.h5")
        np.savez(folder / f"{name}.npz", **named(model))
        if make is not nested:
            load_ours(make(), folder, name)
    if KERAS_3:
        keras.config.set_dtype_policy("bfloat16")
        model = plain()
        model.save_weights(folder / "bfloat16.weights.h5")
        np.savez(folder / "bfloat16.npz", **{key: value.astype("float32") for key, value in named(model).items()})
        with legacy.read(folder / "bfloat16.weights.h5") as checkpoint:
            weights.write(checkpoint.tensors, {}, folder / "ours-bfloat16.weights.h5")
        model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
        model.load_weights(folder / "ours-bfloat16.weights.h5")
        np.savez(folder / "ours-bfloat16.npz", **{key: value.astype("float32") for key, value in named(model).items()})
    print(json.dumps({"keras": keras.__version__}))


def load_ours(model, folder: Path, name: str) -> None:
    with legacy.read(folder / f"{name}.h5") as checkpoint:
        negated = {key: Tensor.of(-tensor.read()) for key, tensor in checkpoint.tensors.items()}
    legacy.write(negated, {"made by": "a test"}, folder / f"ours-{name}.h5")
    weights.write(negated, {"made by": "a test"}, folder / f"ours-{name}.weights.h5")
    for suffix in (".h5", ".weights.h5") if KERAS_3 else (".h5",):
        model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
        model.load_weights(folder / f"ours-{name}{suffix}")
        np.savez(folder / f"ours-{name}{suffix.removesuffix('h5')}npz", **named(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
