"""The operations of a Keras model in their order, without what has no effect once a net is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from denseport.errors import LayoutError, listed
from denseport.layouts.descriptions import keras_config
from denseport.layouts.descriptions.keras_config import Call, ModelLayer
from denseport.layouts.descriptions.keras_inputs import Image, made_of
from denseport.layouts.descriptions.keras_operations import (
    RESIZING,
    Applied,
    Kind,
    activation,
    is_without_effect,
    kind_of,
    pools_whole_maps,
)
from denseport.layouts.descriptions.keras_references import Value, replaced
from denseport.layouts.descriptions.net import Place

# The values of a layer's parameters by their names, such as `mean` and `variance`.
FiguresOf = Callable[[Place], Mapping[str, np.ndarray]]
MAX_CHANNELS = 4096
NO_ACTIVATION = Applied("none")
REMEDY = "build the model without them, or with Keras' own layers, and save it again"


def refuse(what: str, layers: Iterable[tuple[ModelLayer, object]], remedy: str = REMEDY) -> None:
    """Raises LayoutError where there are such layers, and names each with what is odd about it."""
    if named := [f"{layer.name} ({oddity})" for layer, oddity in layers]:
        raise LayoutError(f"{what}: {listed(named)}; {remedy}")


def place(layer: ModelLayer) -> Place:
    """Where a layer's tensors are."""
    return Place(layer.name, layer.inside, layer.counted)


@dataclass(frozen=True, slots=True)
class Op:
    """A layer's operation: a call, or the activation that a call applies behind its kernel."""

    kind: Kind
    layer: ModelLayer
    inputs: tuple[int, ...]
    applied: Applied = NO_ACTIVATION


class Graph:
    """The operations of a model, without what has no effect at inference, and what is made of the image.

    Attributes:
        ops: Each behind those whose values it takes, which it knows by their number.
        output: The number of the last one.
        images: What is made of the image, by number.
        size: The image's spatial shape, None for a side that is free; `dimensions` are how many sides it has.
        channels: The image's channels.
        channels_first: Whether they come before the sides.
        notes: What a user should know.
        beside: The layers of `images` that have parameters.
    """

    def __init__(self, calls: keras_config.Calls, figures: FiguresOf) -> None:
        self.ops: list[Op | None] = []
        self.images: dict[int, Image] = {}
        self.notes: list[str] = []
        self.beside: list[ModelLayer] = []
        self._figures = figures
        self._numbers: list[int] = []
        entries = [call.layer for call in calls.calls if call.layer.kind == "InputLayer"]
        refuse("the model has several inputs", ((each, "InputLayer") for each in entries[1:]))
        if len(set(calls.outputs)) > 1:
            named = ((calls.calls[each].layer, calls.calls[each].layer.kind) for each in calls.outputs)
            refuse("the model has several outputs", named, "build a model that gives one of them, and save it again")
        self.channels_first = _have_channels_first(call.layer for call in calls.calls)
        for call in calls.calls:
            self._numbers.append(self._add(call))
        self.output = self._numbers[calls.outputs[0]]

    def _add(self, call: Call) -> int:
        """The number of the value that a call gives."""
        layer = call.layer
        if layer.kind == "InputLayer":
            self.size, self.channels = _image(layer, channels_first=self.channels_first)
            self.dimensions = len(self.size)
            self.images[len(self.ops)] = Image.of(self.channels, self.dimensions)
            self.ops.append(None)
            return len(self.ops) - 1
        inputs = tuple(self._numbers[each] for each in call.inputs)
        _refuse_training(call)
        if is_without_effect(layer) and inputs:
            return inputs[0]
        if layer.kind in RESIZING and inputs and inputs[0] in self.images:
            size = " x ".join(str(layer.config.get(side)) for side in ("height", "width"))
            self.notes.append(f"{layer.name} ({layer.kind} to {size}) is left out: bring images to that size before")
            return inputs[0]
        taken = replaced(Value, (call.arguments, call.keywords), lambda value: Value(self._numbers[value.call]))
        image = made_of(Call(layer, *taken), self.images, self._read_figures)
        if image is not None:
            self.images[len(self.ops)] = image
            self.ops.append(None)
            return len(self.ops) - 1
        return self._operation(call, inputs)

    def _operation(self, call: Call, inputs: tuple[int, ...]) -> int:
        layer, kind = call.layer, kind_of(call.layer)
        if kind in ("global-mean", "global-max") and not layer.kind.startswith("Global"):
            kind = kind if pools_whole_maps(call, self.dimensions) else "stranger"
        applied = activation(layer, call.keywords or {}) if kind in ("conv", "dense", "activation") else NO_ACTIVATION
        if kind == "activation" and applied.name == "none":
            return inputs[0]
        self.ops.append(Op(kind, layer, inputs, applied if kind == "activation" else NO_ACTIVATION))
        if kind in ("conv", "dense") and applied.name != "none":
            self.ops.append(Op("activation", layer, (len(self.ops) - 1,), applied))
        return len(self.ops) - 1

    def _read_figures(self, layer: ModelLayer) -> Mapping[str, np.ndarray]:
        self.beside.append(layer)
        return self._figures(place(layer))


def _image(layer: ModelLayer, *, channels_first: bool) -> tuple[tuple[int | None, ...], int]:
    """The spatial shape and the channels of what an `InputLayer` takes."""
    shape = layer.argument("batch_shape", "batch_input_shape")
    if not isinstance(shape, list) or not 3 <= len(shape) <= 5:
        refuse("the model takes no images", [(layer, f"shape {shape}")])
    sides = shape[2:] if channels_first else shape[1:-1]
    channels = shape[1] if channels_first else shape[-1]
    if type(channels) is not int or not 0 < channels <= MAX_CHANNELS:
        refuse("the model does not say how many channels its images have", [(layer, f"shape {shape}")])
    return tuple(side if type(side) is int and side > 0 else None for side in sides), channels


def _have_channels_first(layers: Iterable[ModelLayer]) -> bool:
    """Whether convolutions take channels first; all do, or none."""
    stated = [(each, str(each.argument("data_format", "dim_ordering"))) for each in layers if kind_of(each) == "conv"]
    first = [(each, order) for each, order in stated if order in ("channels_first", "th")]
    if len(first) != len(stated):
        refuse("convolutions have channels first, though others have them last", first)
    return bool(first)


def _refuse_training(call: Call) -> None:
    """Refuses what uses the statistics of its batch, or chance, at inference as well."""
    layer = call.layer
    if (call.keywords or {}).get("training") is True and (kind_of(layer) == "norm" or is_without_effect(layer)):
        refuse(
            "layers are called with training=True", [(layer, layer.kind)], "call them without, and save the model again"
        )
