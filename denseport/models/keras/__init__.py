"""DenseNets for Keras: the twin of `denseport.models.pytorch`, and nets by the names that people know them by."""

from __future__ import annotations

from denseport.models.keras.backbone import (
    DenseNet121Backbone,
    DenseNet169Backbone,
    DenseNet201Backbone,
    DenseNetBackbone,
)
from denseport.models.keras.layers import BatchNormalization
from denseport.models.keras.stock import (
    DenseNet,
    DenseNetImageNet121,
    DenseNetImageNet161,
    DenseNetImageNet169,
    DenseNetImageNet201,
    DenseNetImageNet264,
    tutorial_densenet,
)
from denseport.models.keras.twin import densenet, load, norm

__all__ = [
    "BatchNormalization",
    "DenseNet",
    "DenseNet121Backbone",
    "DenseNet169Backbone",
    "DenseNet201Backbone",
    "DenseNetBackbone",
    "DenseNetImageNet121",
    "DenseNetImageNet161",
    "DenseNetImageNet169",
    "DenseNetImageNet201",
    "DenseNetImageNet264",
    "densenet",
    "load",
    "norm",
    "tutorial_densenet",
]
