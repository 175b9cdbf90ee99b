"""titu1994's nets, whose layers have no names but Keras' numbers; see keras_checkpoints.py for the command line.

`plain` and `bc` are nets for small images, without bottleneck and compression and with both; `large` and `densenet121`
are DenseNetImageNet. NAME-later is built when Keras has already numbered the layers of another net.

Three more forms are only saved, as NAME.h5. All hold kernels turned by 180 degrees, for Theano convolves:

- NAME-th2: Keras 2, where kernels are (H, W, I, O) on every backend and the attribute `backend` tells of Theano
- NAME-th1: Keras 1 with dim_ordering "th": kernels (O, I, H, W), other names, no attributes, and in nets of that time
  a stem named initial_conv2D and Keras' own epsilon
- NAME-th: kernels (O, I, H, W) under the names and attributes of Keras 2

Source: titu1994/DenseNet densenet.py: DenseNet, __create_dense_net, __dense_block, __conv_block, __transition_block,
and the same at 15cb033 for Keras 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import h5py
import numpy as np
from keras_checkpoints import keras, layers, run, save_model

LARGE = {"large": True, "bottleneck": True, "compression": 0.5, "growth": 32, "width": 64}
NETS = {
    "plain": {"blocks": (3, 3, 3), "growth": 6, "width": 12, "bottleneck": False, "compression": 1.0},
    "bc": {"blocks": (3, 3, 3), "growth": 5, "width": 10, "bottleneck": True, "compression": 0.5},
    "large": {"blocks": (2, 1, 1, 2), **LARGE},
    "densenet121": {"blocks": (6, 12, 24, 16), **LARGE},
}
KERAS_1_LAYERS = {"conv2d": "convolution2d", "concatenate": "merge", "initial_conv2D": "initial_conv2D"}
KERAS_1_VARIABLES = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}


def dense_net(
    shape: tuple[int, ...],
    blocks: tuple[int, ...],
    growth: int,
    width: int,
    bottleneck: bool,
    compression: float,
    large: bool = False,
    epsilon: float = 1.1e-5,
    name: Callable[[str], str | None] = lambda _: None,
    scope: Callable[[str], AbstractContextManager] = nullcontext,
):
    """The net, its layers named by `name` from what keras-contrib calls them, inside keras-contrib's scopes."""

    def norm_relu(x, label: str):
        return layers.Activation("relu")(layers.BatchNormalization(epsilon=epsilon, name=name(label))(x))

    def conv(x, filters: int, side: int, label: str, strides: int = 1):
        options = {"strides": strides, "padding": "same", "use_bias": False}
        return layers.Conv2D(filters, side, **options, name=name(label))(x)

    inputs = layers.Input(shape)
    with scope("DenseNet"):
        x = conv(inputs, width, 7 if large else 3, "initial_conv2D", 2 if large else 1)
        if large:
            x = layers.MaxPooling2D(3, 2, padding="same")(norm_relu(x, "initial_bn"))
        for b, count in enumerate(blocks):
            with scope("DenseBlock"):
                for index in range(count):
                    label = f"dense_{b}_{index}"
                    with scope("ConvBlock"):
                        new = norm_relu(x, f"{label}_bn")
                        if bottleneck:
                            new = conv(new, 4 * growth, 1, f"{label}_bottleneck_conv2D")
                            new = norm_relu(new, f"{label}_bottleneck_bn")
                        new = conv(new, growth, 3, f"{label}_conv2D")
                    x = layers.concatenate([x, new])
            if b + 1 < len(blocks):
                with scope("Transition"):
                    x = norm_relu(x, f"tr_{b}_bn")
                    x = conv(x, int(x.shape[-1] * compression), 1, f"tr_{b}_conv2D")
                    x = layers.AveragePooling2D(2, 2)(x)
        x = layers.GlobalAveragePooling2D()(norm_relu(x, "final_bn"))
        x = layers.Dense(5, activation="softmax")(x)
    return keras.Model(inputs, x, name="densenet")


def net(name: str, shape: tuple[int, ...]):
    kind, _, form = name.partition("-")
    if form == "later":
        dense_net(shape, **NETS["bc"])
    if form == "th1":
        return dense_net(shape, **NETS[kind], epsilon=1e-3, name={"initial_conv2D": "initial_conv2D"}.get)
    return dense_net(shape, **NETS[kind])


def save(name: str, model, folder: Path) -> None:
    form = name.partition("-")[2]
    if form.startswith("th"):
        save_theano(model, folder / f"{name}.h5", form)
    else:
        save_model(name, model, folder)


def save_theano(model, path: Path, form: str) -> None:
    """Writes a model as Keras did that ran on Theano; its counters start at 1."""
    counts: Counter[str] = Counter()
    groups = []
    with h5py.File(path, "w") as file:
        for layer in model.layers:
            kind = "input" if isinstance(layer, layers.InputLayer) else re.sub(r"_\d+$", "", layer.name)
            kind = KERAS_1_LAYERS.get(kind, kind.replace("_", "")) if form == "th1" else kind
            counts[kind] += 1
            name = kind if kind == "initial_conv2D" else f"{kind}_{counts[kind]}"
            groups.append(name.encode())
            arrays = {spelled(name, weight.name, form): turned(weight.numpy(), form) for weight in layer.weights}
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([key.encode() for key in arrays], "S")
            for key, array in arrays.items():
                group[key] = array
        file.attrs["layer_names"] = np.array(groups, "S")
        if form != "th1":
            file.attrs["backend"] = b"theano"
            file.attrs["keras_version"] = b"2.0.8"


def spelled(layer: str, weight: str, form: str) -> str:
    variable = weight.split("/")[-1].removesuffix(":0")
    return f"{layer}_{KERAS_1_VARIABLES.get(variable, variable)}" if form == "th1" else f"{layer}/{variable}"


def turned(array: np.ndarray, form: str) -> np.ndarray:
    if array.ndim != 4:
        return array
    return array[::-1, ::-1] if form == "th2" else array[::-1, ::-1].transpose(3, 2, 0, 1)


if __name__ == "__main__":
    run(net, numbered=True, save=save)
