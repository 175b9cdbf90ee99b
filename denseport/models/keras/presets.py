"""Published weights for nets that are built already."""

from __future__ import annotations

from typing import Any

import keras

from denseport import formats, layouts
from denseport.layouts.frameworks import KERAS
from denseport.models.keras.twin import fill
from denseport.net.config import DenseNetConfig
from denseport.net.graph import layers


def fill_from_preset(model: keras.Model, config: DenseNetConfig, preset: str) -> None:
    """Gives a net the weights of a preset, which are downloaded where they are not in the cache.

    Args:
        model: A net of the configuration, in any style; layers that stand before it are left alone.
        config: Its architecture.
        preset: The preset's full name, `keras-cv/densenet121_imagenet`.

    Raises:
        DenseportError: The preset cannot be had, or its weights are those of another architecture.
    """
    from denseport import presets

    with formats.read(presets.pull(preset)) as checkpoint:
        weights = layouts.to_canonical(checkpoint, layouts.detect(checkpoint, presets.find(preset).layout))
        tensors = layouts.from_canonical(weights, layouts.find_layout("denseport"), KERAS)
        fill(_by_canonical_name(model, config), {name: tensor.read() for name, tensor in tensors.items()})


def _by_canonical_name(model: keras.Model, config: DenseNetConfig) -> dict[str, Any]:
    """A net's layers that have weights: they stand in graph order, its own behind those that lead to its input."""
    names = [layer.name for layer in layers(config)]
    return dict(zip(names, [layer for layer in model.layers if layer.weights][-len(names) :], strict=True))
