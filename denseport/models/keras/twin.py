"""The Keras twin: a reference DenseNet whose functions and names are those of `denseport.models.pytorch`.

Images come in as (N, *spatial, C) and logits go out as (N, num_classes). Every function takes the tensor that enters
and the canonical name of what it describes, `block1.layer3`, and returns the tensor that leaves. A style says what
other code bases call such layers, and how they train them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from denseport.errors import UsageError
from denseport.models import require_fit
from denseport.models.keras.layers import AveragePooling3D, BatchNormalization, LeakyReLU, MaxPooling3D, gelu, gelu_tanh
from denseport.net.config import DenseNetConfig, HeadLayer, Inputs

CONV = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
MAX_POOL = (layers.MaxPooling1D, layers.MaxPooling2D, MaxPooling3D)
AVERAGE_POOL = (layers.AveragePooling1D, layers.AveragePooling2D, AveragePooling3D)
GLOBAL_AVERAGE_POOL = (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
GLOBAL_MAX_POOL = (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
ACTIVATIONS: Mapping[str, Any] = {
    **{name: name for name in ("relu", "relu6", "elu", "selu", "silu", "mish", "tanh", "sigmoid", "softplus")},
    "gelu": gelu,
    "gelu-tanh": gelu_tanh,
    "hard-swish": "hard_silu",
}


def canonical(name: str) -> str:
    """The name that a layer has already."""
    return name


def numbered(_name: str) -> None:
    """No name, so that Keras numbers the layer: `conv2d_17`."""


def unpenalised(_name: str) -> None:
    """No penalty."""


@dataclass(frozen=True)
class Style:
    """What a code base's layers are called and how they are trained; none of it changes what a trained net computes.

    Attributes:
        spelled: From a layer's canonical name to its own, or to None where Keras is to number it.
        normalization: The class of normalisations.
        momentum: Of their running statistics; Keras' 0.9 is PyTorch's 0.1.
        kernel_initializer: Of convolutions.
        penalty: From a convolution's canonical name to what its kernel adds to the loss, a Keras regulariser or None.
        dropout_rate: Share of each dense layer's new features that is dropped in training.
        head_activation: What follows the logits.
    """

    spelled: Callable[[str], str | None] = canonical
    normalization: Any = BatchNormalization
    momentum: float = 0.9
    kernel_initializer: str = "glorot_uniform"
    penalty: Callable[[str], Any] = unpenalised
    dropout_rate: float = 0.0
    head_activation: str = "linear"


TWIN = Style()


def densenet(config: DenseNetConfig, dtype: str = "float32") -> keras.Model:
    """A DenseNet: (N, *spatial, C) images to (N, num_classes) logits, or to (N, features) where there is no classifier.

    The layers that have weights, and the order in which `model.layers` has them, are those of
    `denseport.net.graph.layers(config)`. Spatial sizes are free.

    Args:
        config: The architecture.
        dtype: Name of the dtype in which the twin holds its weights and computes.

    Raises:
        UsageError: The dtype is float64 and Keras runs on another backend than TensorFlow.

    Source: Huang et al. 2017, table 1.
    """
    with computing_in(dtype):
        images = keras.Input((*[None] * config.dimensions, config.image_channels), dtype=dtype, name="images")
        x = image_inputs(config.inputs, images) if config.inputs else images
        x = features(config, x)
        x = head(config, x, "head")
        return keras.Model(images, x, name="densenet")


def image_inputs(inputs: Inputs, x: Any) -> Any:
    """What the net makes of what it is fed: channel c is x[order[c]] * scale[c] + offset[c]."""
    if inputs.order != tuple(range(inputs.channels)):
        x = ops.take(x, inputs.order, axis=-1)
    # Arrays, since Keras takes numbers to be of float32.
    return layers.Rescaling(np.array(inputs.scale), np.array(inputs.offset), name="inputs")(x)


def features(config: DenseNetConfig, x: Any, style: Style = TWIN) -> Any:
    """From the images to the last block's features: (N, *spatial, C) to (N, *smaller spatial, features)."""
    x = stem(config, x, "stem", style)
    for b, count in enumerate(config.block_config, 1):
        x = dense_block(config, x, f"block{b}", count, style)
        if b < len(config.block_config):
            x = transition(config, x, f"transition{b}", config.transition_widths[b - 1], style)
    return x


def stem(config: DenseNetConfig, x: Any, name: str, style: Style = TWIN) -> Any:
    """One convolution, or three in a deep stem, each with its normalisation and ReLU; then the pool.

    Source: Huang et al. 2017, table 1; deep stems and blur pool: timm `densenet.py`, `DenseNet`.
    """
    strides: int | tuple[int, ...] = config.stem_strides
    for n, outputs in zip(config.stem_numbers, config.stem_widths, strict=True):
        x, padding = pad(config, x, config.stem_kernel)
        x = conv(config, x, f"{name}.conv{n}", outputs, config.stem_kernel, strides, padding, style)
        if config.stem_norm:
            x = norm(config, x, f"{name}.norm{n}", style)
            x = body_activation(config, x, f"{name}.relu{n}", style)
        strides = 1
    if config.traits.stem_pool == "max":
        x = max_pool(config, x, f"{name}.pool", 2, style)
    if config.traits.stem_pool == "max-2":
        windows = {"pool_size": 2, "strides": 2, "data_format": "channels_last"}
        x = _through(MAX_POOL[config.dimensions - 1], x, f"{name}.pool", style, **windows)
    if config.traits.stem_pool == "max-blur":
        x = max_pool(config, x, f"{name}.max", 1, style)
        x = blur_pool(config, x, f"{name}.pool", style)
    return x


def dense_block(config: DenseNetConfig, x: Any, name: str, count: int, style: Style = TWIN) -> Any:
    """`count` dense layers, each of which sees what all before it have made (section 3, Dense connectivity)."""
    for l in range(count):  # noqa: E741 - the paper's letter for a layer
        x = dense_layer(config, x, f"{name}.layer{l + 1}", style)
    return x


def dense_layer(config: DenseNetConfig, x: Any, name: str, style: Style = TWIN) -> Any:
    """Adds k channels, by a 1x1 and a 3x3 convolution or by a 3x3 alone (section 3, Bottleneck layers)."""
    old = x
    x = norm(config, x, f"{name}.norm1", style)
    x = body_activation(config, x, f"{name}.relu1", style)
    if config.bottleneck_width is None:
        x = conv(config, x, f"{name}.conv1", config.growth_rate, 3, style=style)
    else:
        x = conv(config, x, f"{name}.conv1", config.bottleneck_width, 1, style=style)
        if config.bottleneck_norm:
            x = norm(config, x, f"{name}.norm2", style)
            x = body_activation(config, x, f"{name}.relu2", style)
        x = conv(config, x, f"{name}.conv2", config.growth_rate, 3, style=style)
    if style.dropout_rate:
        x = _through(layers.Dropout, x, f"{name}.dropout", style, rate=style.dropout_rate)
    return dense_connection(config, old, x, name, style)


def transition(config: DenseNetConfig, x: Any, name: str, outputs: int, style: Style = TWIN) -> Any:
    """Halves every spatial size, and compresses the channels (section 3, Pooling layers and Compression)."""
    x = norm(config, x, f"{name}.norm", style)
    if config.traits.transition_activation == "same":
        x = body_activation(config, x, f"{name}.relu", style)
    x = conv(config, x, f"{name}.conv", outputs, 1, style=style)
    return average_pool(config, x, f"{name}.pool", 2, style)


def head(config: DenseNetConfig, x: Any, name: str, style: Style = TWIN) -> Any:
    """The last normalisation and activation, the global pool, and the classifier or several layers, to logits.

    Where the config has a `head_shape`, they see the whole map, flattened in the order (*spatial, C).
    """
    x = last_norm(config, x, name, style)
    if config.head_shape:
        positions = math.prod(config.head_shape)
        x = _through(layers.Reshape, x, f"{name}.flatten", style, target_shape=(positions * x.shape[-1],))
    else:
        x = global_pool(config, x, name, style)
    if config.num_classes is not None and not config.head_layers:
        outputs = {"units": config.num_classes, "activation": style.head_activation}
        x = _through(layers.Dense, x, f"{name}.classifier", style, use_bias=config.classifier_bias, **outputs)
    for n, layer in enumerate(config.head_layers):
        x = head_layer(layer, x, f"{name}.{layer.kind}{n}", style)
    return x


def head_layer(layer: HeadLayer, x: Any, name: str, style: Style = TWIN) -> Any:
    """A layer behind the pool: (N, C) to (N, its width), or to the same shape where it has none."""
    match layer.kind:
        case "dense":
            return _through(layers.Dense, x, name, style, units=layer.width, use_bias=layer.bias)
        case "norm":
            own = {"axis": -1, "epsilon": layer.epsilon, "momentum": style.momentum}
            return _through(style.normalization, x, name, style, **own)
        case "activation":
            return activation(layer.activation, layer.negative_slope, x, name, style)
        case "unit-norm":
            return _through(layers.UnitNormalization, x, name, style, axis=-1)
    return x  # of dropout, whose rate is no part of a configuration


def last_norm(config: DenseNetConfig, x: Any, name: str, style: Style = TWIN) -> Any:
    """The head's normalisation and activation, where the config has them."""
    if config.final_norm:
        x = norm(config, x, f"{name}.norm", style)
    if config.traits.final_activation == "relu":
        x = body_activation(config, x, f"{name}.relu", style)
    return x


def conv(
    config: DenseNetConfig,
    x: Any,
    name: str,
    outputs: int,
    side: int,
    strides: int | tuple[int, ...] = 1,
    padding: str = "same",
    style: Style = TWIN,
) -> Any:
    """A convolution, which keeps the spatial sizes where neither strides nor padding is given."""
    windows = {"kernel_size": side, "strides": strides, "padding": padding, "data_format": "channels_last"}
    training = {"kernel_initializer": style.kernel_initializer, "kernel_regularizer": style.penalty(name)}
    layer_class = CONV[config.dimensions - 1]
    return _through(layer_class, x, name, style, filters=outputs, use_bias=config.conv_bias, **windows, **training)


def norm(config: DenseNetConfig, x: Any, name: str, style: Style = TWIN) -> Any:
    """A batch normalisation."""
    own = {"axis": -1, "epsilon": config.traits.epsilon, "momentum": style.momentum}
    return _through(style.normalization, x, name, style, **own)


def body_activation(config: DenseNetConfig, x: Any, name: str, style: Style = TWIN) -> Any:
    """What follows a normalisation."""
    return activation(config.traits.activation, config.traits.negative_slope, x, name, style)


def activation(which: str, negative_slope: float, x: Any, name: str, style: Style = TWIN) -> Any:
    """An activation by its name in `denseport.net.config.Activation`."""
    if which == "none":
        return x
    if which == "leaky-relu":
        return _through(LeakyReLU, x, name, style, negative_slope=negative_slope)
    return _through(layers.Activation, x, name, style, activation=ACTIVATIONS[which])


def max_pool(config: DenseNetConfig, x: Any, name: str, stride: int, style: Style = TWIN) -> Any:
    """The maximum of 3 positions an axis; no maximum sees the padding."""
    x, padding = pad(config, x, 3, value=float("-inf"))
    windows = {"pool_size": 3, "strides": stride, "padding": padding, "data_format": "channels_last"}
    return _through(MAX_POOL[config.dimensions - 1], x, name, style, **windows)


def average_pool(config: DenseNetConfig, x: Any, name: str, stride: int, style: Style = TWIN) -> Any:
    """The mean of 2 positions an axis; what is over at the end is left out."""
    windows = {"pool_size": 2, "strides": stride, "data_format": "channels_last"}
    return _through(AVERAGE_POOL[config.dimensions - 1], x, name, style, **windows)


def blur_pool(config: DenseNetConfig, x: Any, name: str, style: Style = TWIN) -> Any:
    """[1, 2, 1] / 4 at stride 2 an axis, over reflected borders: the mean of 2 taken twice.

    Source: timm `blur_pool.py`, `BlurPool2d`.
    """
    for axis in range(1, config.dimensions + 1):
        # Keras' torch backend has no `ops.pad(mode="reflect")` in three dimensions.
        ahead = (slice(None),) * axis
        x = ops.concatenate((x[(*ahead, slice(1, 2))], x, x[(*ahead, slice(-2, -1))]), axis)
    x = average_pool(config, x, f"{name}.1", 1, style)
    return average_pool(config, x, name, 2, style)


def global_pool(config: DenseNetConfig, x: Any, name: str, style: Style = TWIN) -> Any:
    """The mean or the maximum over all spatial axes, or both, joined or averaged: (N, *spatial, C) to (N, C or 2 C)."""

    def pool(classes: tuple[Any, ...], own: str) -> Any:
        return _through(classes[config.dimensions - 1], x, f"{name}.{own}", style, data_format="channels_last")

    match config.traits.head_pool:
        case "mean":
            return pool(GLOBAL_AVERAGE_POOL, "pool")
        case "max":
            return pool(GLOBAL_MAX_POOL, "pool")
        case "average-of-both":
            both = [pool(GLOBAL_AVERAGE_POOL, "pool.mean"), pool(GLOBAL_MAX_POOL, "pool.max")]
            return _through(layers.Average, both, f"{name}.pool", style)
        case joined:
            both = [pool(GLOBAL_AVERAGE_POOL, "pool.mean"), pool(GLOBAL_MAX_POOL, "pool.max")]
            both = both if joined == "mean-max" else both[::-1]
            return _through(layers.Concatenate, both, f"{name}.pool", style, axis=-1)


def dense_connection(config: DenseNetConfig, old: Any, new: Any, name: str, style: Style = TWIN) -> Any:
    """Concatenates both along the channels, in the config's order: (N, *spatial, C + k)."""
    both = [new, old] if config.traits.concatenation == "new-first" else [old, new]
    return _through(layers.Concatenate, both, name, style, axis=-1)


def pad(config: DenseNetConfig, x: Any, side: int, value: float = 0.0) -> tuple[Any, str]:
    """Pads for windows of `side` positions, as the config's `padding` says: the tensor, and what is left for Keras."""
    if config.traits.padding == "same":
        return x, "same"
    widths = [(0, 0), *[(side // 2, side // 2)] * config.dimensions, (0, 0)]
    return ops.pad(x, widths, constant_values=value), "valid"


def load(config: DenseNetConfig, tensors: Mapping[str, np.ndarray], dtype: str = "float32") -> keras.Model:
    """The twin with these weights.

    Args:
        config: The architecture.
        tensors: Arrays by canonical layer and Keras' variable, `block1.layer3.norm1/gamma`, in Keras' axes, kernels
            (*spatial, I, O); any may be read-only and of any floating dtype, bfloat16 too.
        dtype: Name of the dtype in which the twin holds its weights and computes; the arrays are cast to it.

    Raises:
        LayoutError: Names are missing or unexpected, or shapes are not those of the configuration.
        UsageError: The dtype is float64 and Keras runs on another backend than TensorFlow.
    """
    model = densenet(config, dtype)
    fill({layer.name: layer for layer in model.layers if layer.weights}, tensors)
    return model


def fill(named: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Gives a net's layers their weights, cast to the dtypes of its variables.

    Args:
        named: Every layer that has weights, by its canonical name.
        tensors: As for `load`.

    Raises:
        LayoutError: Names are missing or unexpected, or shapes are not those of the layers.
    """
    variables = {f"{name}/{variable.name}": variable for name, layer in named.items() for variable in layer.weights}
    require_fit(
        {name: array.shape for name, array in tensors.items()},
        {name: tuple(variable.shape) for name, variable in variables.items()},
    )
    for name, variable in variables.items():
        variable.assign(tensors[name].astype(variable.dtype))


def _through(layer_class: Any, x: Any, name: str, style: Style, **arguments: Any) -> Any:
    """What a new layer makes of `x`, called as the style calls the one of this canonical name."""
    own = style.spelled(name)
    if own is None or keras.backend.backend() != "torch":
        return layer_class(name=own, **arguments)(x)
    # There a variable's path, which starts with the name that its layer had when it was built, may hold no dot.
    layer = layer_class(name=own.replace(".", "_"), **arguments)
    x = layer(x)
    layer.name = own
    return x


@contextmanager
def computing_in(dtype: Any) -> Iterator[None]:
    """Gives the layers that are made meanwhile, in this thread, their dtype or `keras.DTypePolicy`.

    Raises:
        UsageError: It is float64, and Keras runs on another backend than TensorFlow.
    """
    if keras.dtype_policies.get(dtype).compute_dtype == "float64" and keras.backend.backend() != "tensorflow":
        # On the others Keras' own batch normalisation and means pass through float32 and say nothing.
        raise UsageError(
            f"Keras computes in float64 on TensorFlow only, not on {keras.backend.backend()}; "
            "set KERAS_BACKEND=tensorflow in the environment"
        )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
