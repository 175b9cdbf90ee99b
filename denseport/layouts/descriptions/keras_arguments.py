"""The figures among the arguments of a Keras model's layers: strides, windows, padding, and epsilons."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from denseport.layouts.descriptions.keras_config import ModelLayer
from denseport.layouts.descriptions.keras_graph import Op, refuse

# What Keras 1, 2 and 3 call a convolution's stride, and the side of its kernel or of a pool's window.
STRIDES = ("strides", "subsample", "subsample_length")
KERNEL = ("kernel_size", "filter_length")
WINDOW = ("pool_size", "pool_length")
PADDING = ("padding", "border_mode")
KERNEL_OF_KERAS_1 = ("nb_row", "nb_col", "kernel_dim1", "kernel_dim2", "kernel_dim3")
BIAS = ("use_bias", "bias")
DILATION = "dilation_rate"


def epsilon_of(normalisations: list[ModelLayer]) -> float:
    """The one epsilon of normalisations, whose other arguments make sense."""
    for argument, default, least, most in (("epsilon", None, math.ulp(0), 100), ("momentum", 0, 0, 1)):
        values = [(layer, layer.config.get(argument, default)) for layer in normalisations]
        absurd = ((layer, value) for layer, value in values if not least <= _number(value) <= most)
        refuse(f"batch normalisations have a senseless {argument}", absurd, "save the model again")
    modes = ((layer, layer.config["mode"]) for layer in normalisations if layer.config.get("mode", 0) != 0)
    refuse("batch normalisations use the statistics of their batch", modes)
    epsilons = [(layer, float(layer.config["epsilon"])) for layer in normalisations]
    usual = Counter(epsilon for _, epsilon in epsilons).most_common(1)[0][0]
    others = ((layer, epsilon) for layer, epsilon in epsilons if epsilon != usual)
    refuse(
        f"batch normalisations have another epsilon than {usual}, which most have",
        others,
        "a DenseNet has one: build the model with one and save it again",
    )
    return usual


def _number(value: object) -> float:
    """The number, or NaN, which lies in no range, for what is none."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def sides_of(layer: ModelLayer, *keys: str) -> set[int]:
    """The sizes of a window or a step along all axes, or {1} where none are stated.

    Raises:
        LayoutError: They are no whole numbers.
    """
    if keys == KERNEL and (by_axis := [layer.config[key] for key in KERNEL_OF_KERAS_1 if key in layer.config]):
        stated: Any = by_axis
    else:
        stated = next((layer.config[key] for key in keys if layer.config.get(key) is not None), 1)
    sides = stated if isinstance(stated, list) and stated else [stated]
    fault = f"a layer's {keys[0]} are no whole numbers"
    refuse(fault, [] if all(type(side) is int for side in sides) else [(layer, stated)])
    return set(sides)


def steps_of(layer: ModelLayer) -> int | tuple[int, ...]:
    """A convolution's stride, or one for each axis where they differ."""
    steps = sides_of(layer, *STRIDES)
    return min(steps) if len(steps) == 1 else tuple(layer.argument(*STRIDES))


def window_of(pool: Op) -> tuple[int, int]:
    """The side of a pool's window, and its step; 0 where they differ along the axes."""
    sides, steps = sides_of(pool.layer, *WINDOW), sides_of(pool.layer, "strides", "stride", *WINDOW)
    return min(sides) if len(sides) == 1 else 0, min(steps) if len(steps) == 1 else 0


def padding_of(window: Op, pad: Op | None) -> str:
    """How a window goes over the borders: `same`, `symmetric` for zeros of half its side on all sides, or `none`."""
    stated = window.layer.argument(*PADDING, default="valid")
    sides = sides_of(window.layer, *(KERNEL if window.kind == "conv" else WINDOW))
    amounts = set(_amounts(pad.layer.config.get("padding"))) if pad else {0}
    if stated == "same" and amounts == {0}:
        return "same"
    if stated != "valid" or len(amounts) != 1 or len(sides) != 1:
        refuse(
            "windows go over the borders as no DenseNet's do",
            [(window.layer, f"padding {stated} and {sorted(map(str, amounts))}")],
        )
    (amount,), (side,) = amounts, sides
    if amount and (side % 2 == 0 or amount != side // 2):
        refuse(
            "windows go over the borders as no DenseNet's do", [(window.layer, f"{amount} zeros for a side of {side}")]
        )
    return "symmetric" if amount else "none"


def _amounts(stated: object) -> list[object]:
    """How many zeros are put on each side."""
    if isinstance(stated, list):
        return [amount for each in stated for amount in _amounts(each)]
    return [stated]
