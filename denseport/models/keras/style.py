"""How a code base writes the layers of a DenseNet that Keras computes alike: their names, and how they are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from denseport.models.normalization import BatchNormalization


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
