"""DenseNets of stock layers that Keras numbers, which open where denseport is not installed: titu1994's, a tutorial's.

Source: titu1994/DenseNet densenet.py at 60b1858; layout `tutorial`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import keras
from keras import layers

from denseport import presets
from denseport.errors import UsageError, quoted
from denseport.models import architectures
from denseport.models.keras.backbone import fill_from_preset
from denseport.models.keras.twin import Style, features, head, numbered
from denseport.net.config import VARIANTS, DenseNetConfig
from denseport.net.graph import taps

Shape = tuple[int | None, ...]
CHANNELS = (1, 3)
SMALLEST_SIDE = 8
STOCK = Style(spelled=numbered, normalization=layers.BatchNormalization, momentum=0.99)


def DenseNet(  # noqa: N802 - upstream's name
    input_shape: Shape | None = None,
    depth: int = 40,
    nb_dense_block: int = 3,
    growth_rate: int = 12,
    nb_filter: int = -1,
    nb_layers_per_block: int | Sequence[int] = -1,
    bottleneck: bool = False,
    reduction: float = 0.0,
    dropout_rate: float = 0.0,
    weight_decay: float = 1e-4,
    subsample_initial_block: bool = False,
    include_top: bool = True,
    weights: Literal["imagenet"] | None = None,
    input_tensor: Any = None,
    classes: int = 10,
    activation: Literal["softmax", "sigmoid"] = "softmax",
) -> keras.Model:
    """A DenseNet: images to (N, classes) probabilities, or to (N, features) where there is no top.

    The net computes channels last; images whose channels come first are transposed at its entry.

    Args:
        input_shape: Shape of an image, (H, W, C) or (C, H, W): channels come first where the first number is 1 or 3 and
            the last is neither, and where neither is and Keras' `image_data_format` says so. By default (32, 32, 3), or
            without a top (None, None, 3).
        depth, nb_dense_block, growth_rate, nb_filter, nb_layers_per_block, bottleneck, reduction,
            subsample_initial_block: As for `denseport.models.architectures.titu1994`.
        dropout_rate: Share of each dense layer's new features that is dropped in training.
        weight_decay: Factor of the L2 penalty on the stem's, the bottlenecks' and the transitions' kernels; upstream
            has none on others.
        include_top: Whether there is a classifier.
        weights: `imagenet` for titu1994's published weights, or None for random ones.
        input_tensor: A Keras tensor that takes the images' place.
        classes: Outputs of the classifier.
        activation: What follows its logits; `sigmoid` for one class alone.

    Raises:
        UsageError: The arguments contradict each other, or make no net.
        DenseportError: The weights cannot be had.
    """
    if activation not in ("softmax", "sigmoid") or (activation == "sigmoid" and classes != 1):
        raise UsageError(f"activation must be softmax, or sigmoid for a single class, not {quoted(activation)}")
    if input_tensor is not None and not keras.utils.is_keras_tensor(input_tensor):
        raise UsageError("input_tensor must be a Keras tensor, such as keras.Input gives")
    images = keras.Input(_shape(input_shape, include_top)) if input_tensor is None else input_tensor
    x = layers.Permute((2, 3, 1))(images) if _channels_first(images.shape[1:]) else images
    config = architectures.titu1994(
        depth,
        nb_dense_block,
        growth_rate,
        nb_filter,
        nb_layers_per_block,
        bottleneck,
        reduction,
        subsample_initial_block,
        classes if include_top else None,
        x.shape[-1],
    )
    preset = _preset(config, weights)
    style = replace(
        STOCK,
        kernel_initializer="he_normal",
        penalty=_penalty(config, weight_decay),
        dropout_rate=dropout_rate,
        head_activation=activation,
    )
    x = head(config, features(config, x, style), "head", style)
    model = keras.Model(images if input_tensor is None else keras.utils.get_source_inputs(images), x, name="densenet")
    if preset:
        fill_from_preset(model, config, preset)
    return model


def _for_imagenet(depth: int, published: Literal["imagenet"] | None) -> Callable[..., keras.Model]:
    """The function that builds a net of the paper's table 1; `published` is the weights that it takes by default."""
    known = VARIANTS[f"densenet{depth}"]

    def build(
        input_shape: Shape | None = None,
        bottleneck: bool = True,
        reduction: float = 0.5,
        dropout_rate: float = 0.0,
        weight_decay: float = 1e-4,
        include_top: bool = True,
        weights: Literal["imagenet"] | None = published,
        input_tensor: Any = None,
        classes: int = 1000,
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ) -> keras.Model:
        return DenseNet(
            input_shape,
            nb_dense_block=known.blocks,
            growth_rate=known.growth_rate,
            nb_filter=known.stem_widths[0],
            nb_layers_per_block=known.block_config,
            bottleneck=bottleneck,
            reduction=reduction,
            dropout_rate=dropout_rate,
            weight_decay=weight_decay,
            subsample_initial_block=True,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            classes=classes,
            activation=activation,
        )

    told = "by default with published weights" if published else "of which titu1994 published no weights"
    build.__name__ = build.__qualname__ = f"DenseNetImageNet{depth}"
    build.__doc__ = f"DenseNet-{depth} with the stem for large images, {told}; arguments as for `DenseNet`."
    return build


DenseNetImageNet121 = _for_imagenet(121, "imagenet")
DenseNetImageNet161 = _for_imagenet(161, "imagenet")
DenseNetImageNet169 = _for_imagenet(169, "imagenet")
DenseNetImageNet201 = _for_imagenet(201, None)
DenseNetImageNet264 = _for_imagenet(264, None)


def tutorial_densenet(
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3), num_classes: int | None = 10
) -> keras.Model:
    """The tutorial's net: (N, H, W, C) images to (N, num_classes) probabilities, or to (N, features) without classes.

    It is a stock Keras model, of which `summary()` shows every layer.
    """
    config = architectures.tutorial(num_classes, input_shape[-1])
    style = replace(STOCK, head_activation="softmax")
    images = keras.Input(input_shape)
    return keras.Model(images, head(config, features(config, images, style), "head", style), name="densenet")


def _shape(shape: Shape | None, include_top: bool) -> Shape:
    """The shape of an image that was asked for, or the usual one.

    Source: keras_applications/imagenet_utils.py, `_obtain_input_shape`.
    """
    if shape is None:
        return (32, 32, 3) if include_top else (None, None, 3)
    if len(shape) != 3:
        raise UsageError(f"input_shape must be (H, W, C) or (C, H, W), not {shape}")
    sides = shape[1:] if _channels_first(shape) else shape[:2]
    if any(side is not None and side < SMALLEST_SIDE for side in sides):
        raise UsageError(f"input_shape {shape} is too small; images need {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels")
    return tuple(shape)


def _channels_first(shape: Shape) -> bool:
    if shape[-1] in CHANNELS or shape[0] in CHANNELS:
        return shape[-1] not in CHANNELS
    return bool(keras.config.image_data_format() == "channels_first")


def _penalty(config: DenseNetConfig, weight_decay: float) -> Callable[[str], Any]:
    """The L2 penalty on every convolution but those that make a dense layer's new features."""
    free = {layer for tap, layer in taps(config).items() if tap.startswith("block")}
    return lambda name: None if name in free else keras.regularizers.L2(weight_decay)


def _preset(config: DenseNetConfig, weights: str | None) -> str:
    """The name of the preset with these weights, or "" where none are asked for."""
    if weights is None:
        return ""
    name = f"titu1994/{config.variant}{'' if config.num_classes else '-no-top'}"
    if weights != "imagenet":
        raise UsageError(f"weights must be imagenet or None, not {quoted(weights)}")
    if not presets.is_preset(name):
        raise UsageError(f"titu1994 published no weights of {config.variant}; give weights=None")
    if config.num_classes not in (None, 1000):
        raise UsageError(f"the published weights have 1000 classes, not {config.num_classes}; give weights=None")
    return name
