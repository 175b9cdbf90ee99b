"""Nets of denseport.models.keras' constructors: `ACTION FOLDER NAME...`, on the backend that KERAS_BACKEND names.

- save: gives each net weights that no mistake can hide in, saves it as NAME.keras, NAME.h5 and NAME.weights.h5, sees
  each file give the same net back, and writes its logits for FOLDER/images.npy (N, H, W, C), or its pooled features, to
  NAME.npy; prints facts of each
- load: opens NAME.keras and NAME.weights.h5, and writes NAME.BACKEND.npy
- mixed_float16, mixed_bfloat16: the same under that policy, to NAME.mixed_float16.npy; prints facts of dtypes
- count: how many parameters and statistics each net has, without any memory for them (Keras on torch alone)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras_checkpoints import randomise

from denseport.models import keras as nets

SMALL = {"depth": 16, "growth_rate": 6}
NETS: dict[str, Callable[[], keras.Model]] = {
    "backbone": lambda: nets.DenseNetBackbone(
        stackwise_num_repeats=[2, 3, 1], include_rescaling=False, compression_ratio=0.4, growth_rate=8
    ),
    "rescaled": lambda: nets.DenseNetBackbone(
        stackwise_num_repeats=[1, 2], include_rescaling=True, growth_rate=8, input_shape=(64, 64, 3), name="own"
    ),
    "plain": lambda: nets.DenseNet((32, 32, 3), nb_filter=16, dropout_rate=0.2, **SMALL),
    "channels-first": lambda: nets.DenseNet((3, 32, 32), bottleneck=True, reduction=0.5, **SMALL),
    "large": lambda: nets.DenseNet(
        (64, 64, 3),
        nb_dense_block=4,
        nb_layers_per_block=[2, 1, 1, 2],
        bottleneck=True,
        reduction=0.5,
        subsample_initial_block=True,
        growth_rate=8,
        dropout_rate=0.1,
    ),
    "no-top": lambda: nets.DenseNet(bottleneck=True, reduction=0.25, include_top=False, **SMALL),
    "sigmoid": lambda: nets.DenseNet(nb_layers_per_block=2, classes=1, activation="sigmoid", growth_rate=6),
    "tutorial": lambda: nets.tutorial_densenet((64, 64, 3)),
    "DenseNet-40-12": lambda: nets.DenseNet(depth=40, growth_rate=12, nb_filter=16),
    "DenseNet-BC-100-12": lambda: nets.DenseNet(depth=100, growth_rate=12, bottleneck=True, reduction=0.5),
    **{f"DenseNet{n}Backbone": getattr(nets, f"DenseNet{n}Backbone") for n in (121, 169, 201)},
    **{
        f"DenseNetImageNet{n}": partial(getattr(nets, f"DenseNetImageNet{n}"), (None, None, 3), weights=None)
        for n in (121, 161, 169, 201, 264)
    },
}


def images_for(model: keras.Model, folder: Path) -> np.ndarray:
    images = np.load(folder / "images.npy")
    if any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers):
        images = images * 255
    return images.transpose(0, 3, 1, 2) if model.input_shape[1] == 3 else images


def outputs(model: keras.Model, folder: Path) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(images_for(model, folder), training=False))


def logits(model: keras.Model, folder: Path) -> np.ndarray:
    """What stands before a classifier's softmax, or the features, pooled where they are not."""
    if isinstance(model.layers[-1], keras.layers.Dense):
        model.layers[-1].activation = keras.activations.linear
        model = keras.Model(model.input, model.layers[-1].output)
    values = outputs(model, folder)
    return values.mean((1, 2)) if values.ndim == 4 else values


def opened(file: Path, make: Callable[[], keras.Model]) -> keras.Model:
    if not file.name.endswith(".weights.h5"):
        return keras.saving.load_model(file, custom_objects={"DenseNetBackbone": nets.DenseNetBackbone})
    model = make()
    model.load_weights(file)
    return model


def save(folder: Path, name: str) -> dict[str, object]:
    model = NETS[name]()
    randomise(model)
    expected = outputs(model, folder)
    for suffix in (".keras", ".h5", ".weights.h5"):
        file = folder / f"{name}{suffix}"
        (model.save_weights if suffix == ".weights.h5" else model.save)(file)
        again = opened(file, NETS[name])
        assert type(again) is type(model)
        assert np.array_equal(outputs(again, folder), expected), file.name
    np.save(folder / f"{name}.npy", logits(model, folder))
    return about(model)  # which trains its statistics


def about(model: keras.Model) -> dict[str, object]:
    dropouts = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    penalised = [layer.kernel for layer in model.layers if getattr(layer, "kernel_regularizer", None)]
    images = keras.random.normal((2, *[side or 32 for side in model.input_shape[1:]]), seed=1)
    one, other = (keras.ops.convert_to_numpy(model(images, training=True)) for _ in range(2))
    return {
        "layers": [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)],
        "modules": sorted({type(layer).__module__.partition(".")[0] for layer in model.layers}),
        "momentum": sorted({layer.momentum for layer in model.layers if hasattr(layer, "momentum")}),
        "dropouts": dropouts,
        "random": not np.array_equal(one, other),
        "penalised": [list(kernel.shape) for kernel in penalised],
        "penalty": float(sum(model.losses)) if model.losses else 0.0,
        "squares": float(sum(keras.ops.sum(keras.ops.square(kernel)) for kernel in penalised)),
        "initializers": sorted({type(layer.kernel_initializer).__name__ for layer in model.layers if is_conv(layer)}),
        "pyramid": getattr(model, "pyramid_level_inputs", None),
        "pyramid_shapes": {
            level: list(tensor.shape) for level, tensor in getattr(model, "pyramid_outputs", {}).items()
        },
        "output_shape": list(model.output_shape),
        "name": model.name,
    }


def is_conv(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.Conv2D)


def load(folder: Path, name: str) -> None:
    model, other = (opened(folder / f"{name}{suffix}", NETS[name]) for suffix in (".keras", ".weights.h5"))
    assert np.array_equal(outputs(model, folder), outputs(other, folder))
    np.save(folder / f"{name}.{keras.backend.backend()}.npy", logits(model, folder))


def mixed(policy: str, folder: Path, name: str) -> dict[str, object]:
    keras.config.set_dtype_policy(policy)
    model = opened(folder / f"{name}.weights.h5", NETS[name])
    model.save(folder / f"{name}.{policy}.keras")
    keras.config.set_dtype_policy("float32")
    again = opened(folder / f"{name}.{policy}.keras", NETS[name])
    found = outputs(again, folder)
    assert np.array_equal(outputs(model, folder), found)
    facts = {
        "policies": sorted({layer.dtype_policy.name for layer in again.layers if layer.weights}),
        "variables": sorted({variable.dtype for variable in again.weights}),
        "outputs": str(found.dtype),
    }
    np.save(folder / f"{name}.{policy}.npy", logits(again, folder).astype("float32"))
    return facts


def count(_folder: Path, name: str) -> list[int]:
    with keras.device("meta"):
        model = NETS[name]()
    return [sum(int(np.prod(v.shape)) for v in v_s) for v_s in (model.trainable_weights, model.non_trainable_weights)]


if __name__ == "__main__":
    action, folder, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    actions = {"save": save, "load": load, "count": count}
    act = actions.get(action) or partial(mixed, action)
    print(json.dumps({name: act(folder, name) for name in names}))
