"""A net as a description of it says: which of its layers is which, and all that the tensors' shapes do not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from denseport.net.config import HeadLayer, Inputs


@dataclass(frozen=True)
class Place:
    """What a described layer's tensors may be called in the file beside the description.

    Attributes:
        name: The layer's own name.
        inside: The names of the models that it is in, outermost first.
        counted: What a file that records no names calls it, or "".
    """

    name: str
    inside: tuple[str, ...] = ()
    counted: str = ""


@dataclass(frozen=True)
class DescribedNet:
    """A whole net, from what it is fed to what it gives.

    Attributes:
        places: Where the tensors of each layer are, by its canonical name, in graph order.
        traits: Every trait that the description states.
        inputs: What is made of the image before the stem, or None for nothing.
        head_layers: As in `DenseNetConfig`.
        classifier_bias: As there.
        flattened: Whether the classifier sees the last map flattened.
        beside: Layers whose tensors are part of `inputs`.
        image_size: The spatial shape of the images, or () where any will do.
        theano_kernels: Whether kernels have their axes as Keras 1 ordered them for Theano.
        notes: What a user should know of the reading.
    """

    places: Mapping[str, Place]
    traits: Mapping[str, Any]
    inputs: Inputs | None = None
    head_layers: tuple[HeadLayer, ...] = ()
    classifier_bias: bool = True
    flattened: bool = False
    beside: tuple[Place, ...] = ()
    image_size: tuple[int, ...] = ()
    theano_kernels: bool = False
    notes: tuple[str, ...] = field(default=())
