"""The teaching net of two blocks: stock layers that Keras numbers."""

from __future__ import annotations

import keras
from keras import layers

from denseport.models.keras.style import Style, numbered
from denseport.models.keras.twin import features, head
from denseport.net import configurations


def tutorial_densenet(
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3), num_classes: int | None = 10
) -> keras.Model:
    """The tutorial's net: (N, H, W, C) images to (N, num_classes) probabilities, or to (N, features) without classes.

    It is a stock Keras model, of which `summary()` shows every layer.

    Source: layout `tutorial`.
    """
    config = configurations.tutorial(num_classes, input_shape[-1])
    style = Style(spelled=numbered, normalization=layers.BatchNormalization, momentum=0.99, head_activation="softmax")
    images = keras.Input(input_shape)
    return keras.Model(images, head(config, features(config, images, style), "head", style), name="densenet")
