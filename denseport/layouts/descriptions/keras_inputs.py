"""What a Keras model makes of its images before the first convolution: arithmetic with constants, channel by channel.

Every chain of such layers and operations gives channels x[order] * scale + offset; see `denseport.net.config.Inputs`.

Source: keras/src/layers/preprocessing/rescaling.py, normalization.py; keras/src/applications/imagenet_utils.py:
preprocess_input; keras/src/ops/numpy.py; Keras 2: tf_keras/src/layers/core/tf_op_layer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from denseport.errors import LayoutError, quoted
from denseport.layouts.descriptions.keras_config import Call, ModelLayer
from denseport.layouts.descriptions.keras_references import Slice, Value, constant
from denseport.net.config import Inputs

# The values of a layer's parameters by their names.
Figures = Callable[[ModelLayer], Mapping[str, np.ndarray]]
MAX_CHANNELS = 4096
# Keras divides by no less than this.
LEAST_DEVIATION = 1e-7
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64", "half", "single", "double", "floatx"})

# What Keras 3 calls its operations, and Keras 2 the functions of TensorFlow, with or without the module.
SAME_OPERATION: Mapping[str, str] = MappingProxyType(
    {
        "Divide": "divide", "TrueDivide": "divide", "truediv": "divide", "divide": "divide", "div": "divide",
        "realdiv": "divide", "Multiply": "multiply", "multiply": "multiply", "mul": "multiply",
        "scalar_mul": "multiply",
        "Add": "add", "add": "add", "bias_add": "add", "Subtract": "subtract", "subtract": "subtract",
        "sub": "subtract", "Negative": "negative", "negative": "negative", "neg": "negative",
        "Flip": "flip", "reverse": "flip", "GetItem": "index", "getitem": "index", "strided_slice": "index",
        "Stack": "stack", "stack": "stack", "Concatenate": "join", "concat": "join", "concatenate": "join",
        "Repeat": "repeat", "repeat": "repeat", "Tile": "tile", "tile": "tile", "grayscale_to_rgb": "grey",
        "Take": "take", "gather": "take", "Cast": "cast", "cast": "cast", "Identity": "same", "identity": "same",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """Channels made of those of an image.

    Attributes:
        order: The image's channel that each is made of.
        scale: What that is multiplied by; `offset` what is then added.
        axis: The number of the axis of channels, which is the last.
        flat: Whether it is a single channel that has lost its axis.
    """

    order: tuple[int, ...]
    scale: np.ndarray
    offset: np.ndarray
    axis: int
    flat: bool = False

    @classmethod
    def of(cls, channels: int, dimensions: int) -> Image:
        """Every channel as it comes."""
        return cls(tuple(range(channels)), np.ones(channels), np.zeros(channels), dimensions + 1)

    def has_channels_at(self, axis: Any) -> bool:
        """Whether an axis, or a list of one, is that of channels."""
        axes = axis if isinstance(axis, list) else [axis]
        return len(axes) == 1 and type(axes[0]) is int and axes[0] in (-1, self.axis)

    def inputs(self, channels: int) -> Inputs | None:
        """The same as a part of a configuration; None where nothing was made of the image's channels."""
        scale, offset = (tuple(float(each) for each in values) for values in (self.scale, self.offset))
        made = Inputs(channels, self.order, scale, offset)
        return None if made == Inputs.unchanged(channels) else made

    def chosen(self, channels: Sequence[int]) -> Image:
        """Some of the channels, in any order."""
        at = np.array(channels, dtype=int)
        order = tuple(self.order[each] for each in channels)
        return replace(self, order=order, scale=self.scale[at], offset=self.offset[at])

    def changed(self, factor: Any, shift: Any) -> Image:
        """Every channel times a factor, plus a shift; where there is one channel and several of these, copies of it."""
        factor, shift = (np.asarray(each, np.float64) for each in (factor, shift))
        wide = max(factor.size, shift.size)
        image = self.chosen([0] * wide) if len(self.order) == 1 and wide > 1 else self
        return replace(image, scale=image.scale * factor, offset=image.offset * factor + shift)


def made_of(call: Call, images: Mapping[int, Image], figures: Figures) -> Image | None:
    """What a layer or operation makes of images, or None where it is none that only does arithmetic on channels.

    Raises:
        LayoutError: It is one, but what it is given is no number for each channel, or makes no sense.
    """
    layer = call.layer
    given = [images[each] for each in call.inputs if each in images]
    if not given or len(given) != len(call.inputs):
        return None
    try:
        if layer.kind in _LAYERS:
            return _LAYERS[layer.kind](call, given[0], figures)
        if layer.kind == "Concatenate":
            return _joined(given) if given[0].has_channels_at(layer.argument("axis", default=-1)) else None
        operation = operation_of(layer)
        return _operation(operation, call, images) if operation else None
    except (TypeError, ValueError, OverflowError, IndexError, KeyError) as error:
        raise LayoutError(
            f"{layer.name} ({layer.kind}) makes of the image what cannot be followed: {quoted(error)}; "
            "use a Rescaling or Normalization layer, and save the model again"
        ) from None


def can_change_images(layer: ModelLayer) -> bool:
    """Whether `made_of` knows the layer, or what it does."""
    return layer.kind in _LAYERS or bool(operation_of(layer))


def operation_of(layer: ModelLayer) -> str:
    """What an operation of Keras 3 or a function of TensorFlow in Keras 2 does, in one word; "" for what is neither."""
    if layer.kind in ("TFOpLambda", "SlicingOpLambda"):
        return SAME_OPERATION.get(str(layer.config.get("function")).rpartition(".")[2], "")
    return SAME_OPERATION.get(layer.kind, "") if layer.kind[:1].isupper() else ""


def _rescaled(call: Call, image: Image, _: Figures) -> Image:
    return image.changed(
        _per_channel(call.layer.argument("scale"), image),
        _per_channel(call.layer.argument("offset", default=0.0), image),
    )


def _normalised(call: Call, image: Image, figures: Figures) -> Image:
    """(x - mean) / deviation, or the inverse."""
    layer = call.layer
    axis = layer.argument("axis", default=-1)
    if not (axis is None or axis == [] or image.has_channels_at(axis)):
        raise ValueError(f"axis {axis}, which is not that of channels alone")
    stated = {name: constant(layer.config.get(name)) for name in ("mean", "variance")}
    if None in stated.values():
        stated = dict(figures(layer))
    if not {"mean", "variance"} <= stated.keys():
        raise ValueError("neither the configuration nor the weights state its mean and variance")
    mean, variance = (_per_channel(stated[name], image) for name in ("mean", "variance"))
    if not np.all(variance > 0):
        raise ValueError(f"variance {variance.tolist()}, which must be positive")
    deviation = np.maximum(np.sqrt(variance), LEAST_DEVIATION)
    return (
        image.changed(deviation, mean)
        if layer.config.get("invert")
        else image.changed(1 / deviation, -mean / deviation)
    )


def _batch_normalised(call: Call, image: Image, figures: Figures) -> Image | None:
    layer, found = call.layer, figures(call.layer)
    if not image.has_channels_at(layer.argument("axis", default=-1)) or layer.config.get("mode", 0) != 0:
        return None
    mean, variance = (_per_channel(found[name], image) for name in ("moving_mean", "moving_variance"))
    if not np.all(variance >= 0):
        raise ValueError(f"variance {variance.tolist()}, which must not be negative")
    scale = _per_channel(found.get("gamma", 1.0), image) / np.sqrt(variance + float(layer.config["epsilon"]))
    return image.changed(scale, _per_channel(found.get("beta", 0.0), image) - mean * scale)


def _transposed(call: Call, image: Image, _: Figures) -> Image | None:
    """What takes images whose channels come first to a net that computes channels last."""
    dims = call.layer.config.get("dims")
    return image if isinstance(dims, list) and dims == [*range(2, len(dims) + 1), 1] else None


_LAYERS: Mapping[str, Callable[[Call, Image, Figures], Image | None]] = MappingProxyType(
    {
        "Rescaling": _rescaled,
        "Normalization": _normalised,
        "BatchNormalization": _batch_normalised,
        "BatchNormalizationV1": _batch_normalised,
        "Permute": _transposed,
    }
)


def _operation(operation: str, call: Call, images: Mapping[int, Image]) -> Image | None:
    """One of the operations of `SAME_OPERATION`."""
    named = {**call.layer.config, **(call.keywords or {})}
    others = [value for key, value in (call.keywords or {}).items() if key in ("y", "x2", "bias", "value")]
    first, *rest = [*call.arguments, *others]
    taken = [images[each] for each in call.inputs]
    image = taken[0]
    axis = named.get("axis", rest[-1] if operation == "flip" and rest else -1)
    if operation in ("join", "stack"):
        wanted = operation == "stack"
        return _joined(taken) if image.has_channels_at(axis) and all(each.flat is wanted for each in taken) else None
    if image.flat or len(taken) > 1:
        return None
    match operation:
        case "add" | "subtract" | "multiply" | "divide":
            return _arithmetic(operation, image, first, rest[0])
        case "negative":
            return image.changed(-1.0, 0.0)
        case "flip":
            return image.chosen(range(len(image.order))[::-1]) if image.has_channels_at(axis) else None
        case "index":
            return _indexed(image, named.get("slice_spec", rest[0] if rest else None))
        case "take":
            chosen = _whole(named.get("indices", rest[0] if rest else None))
            return image.chosen(chosen) if image.has_channels_at(axis) else None
        case "repeat":
            times = named["repeats"] if "repeats" in named else rest[0]
            copied = [each for each in range(len(image.order)) for _ in range(_count(times, len(image.order)))]
            return image.chosen(copied) if image.has_channels_at(axis) else None
        case "tile":
            *others, times = _whole(named.get("repeats", named.get("multiples", rest[0] if rest else None)))
            copied = list(range(len(image.order))) * _count(times, len(image.order))
            return image.chosen(copied) if all(each == 1 for each in others) else None
        case "grey":
            return image.chosen([0, 0, 0]) if len(image.order) == 1 else None
        case "cast":
            return image if str(named.get("dtype", rest[0] if rest else "")) in FLOATS else None
    return image


def _arithmetic(operation: str, image: Image, first: Any, second: Any) -> Image:
    before = not isinstance(first, Value)  # a constant minus the image, or divided by it
    number = _per_channel(first if before else second, image)
    match operation:
        case "add":
            return image.changed(1.0, number)
        case "subtract":
            return image.changed(-1.0, number) if before else image.changed(1.0, -number)
        case "multiply":
            return image.changed(number, 0.0)
    if before or not np.all(number):
        raise ValueError(f"a division of or by {number.tolist()}")
    return image.changed(1 / number, 0.0)


def _joined(images: Sequence[Image]) -> Image:
    order = tuple(channel for image in images for channel in image.order)
    if len(order) > MAX_CHANNELS:
        raise ValueError(f"{len(order)} channels")
    scale, offset = (np.concatenate([getattr(each, name) for each in images]) for name in ("scale", "offset"))
    return replace(images[0], order=order, scale=scale, offset=offset, flat=False)


def _indexed(image: Image, spec: Any) -> Image | None:
    """`x[..., i]` or `x[..., a:b:c]`; all other axes must stay whole."""
    *others, last = spec
    if not all(each in (..., Slice(None, None, None)) for each in others):
        return None
    if isinstance(last, Slice):
        return image.chosen(range(len(image.order))[slice(last.start, last.stop, last.step)])
    return replace(image.chosen([range(len(image.order))[last]]), flat=True) if type(last) is int else None


def _per_channel(stated: Any, image: Image) -> np.ndarray:
    """One number, or one for each channel; axes of one before the channels' count for nothing."""
    numbers = np.asarray(constant(stated))
    if numbers.dtype.kind not in "iuf" or numbers.size > MAX_CHANNELS or not numbers.size:
        raise ValueError(f"{quoted(stated)} is no number and no list of numbers")
    if numbers.size != max((1, *numbers.shape[-1:])):
        raise ValueError(f"numbers of shape {numbers.shape} are not one for each channel")
    numbers = numbers.astype(np.float64).reshape(-1)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{numbers.tolist()} are not all numbers")
    if numbers.size not in (1, len(image.order)) and len(image.order) != 1:
        raise ValueError(f"{numbers.size} numbers for {len(image.order)} channels")
    return numbers


def _whole(stated: Any) -> list[int]:
    numbers = constant(stated)
    if not isinstance(numbers, list) or not all(type(each) is int for each in numbers) or len(numbers) > MAX_CHANNELS:
        raise ValueError(f"{quoted(stated)} are no whole numbers")
    return numbers


def _count(stated: Any, channels: int) -> int:
    if type(stated) is not int or not 0 < stated * channels <= MAX_CHANNELS:
        raise ValueError(f"{quoted(stated)} copies")
    return stated
