"""What a Keras model's own configuration says of its DenseNet: the traits that no name and no shape shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from denseport.errors import LayoutError, listed
from denseport.layouts.model_layers import CONVOLUTIONS, JOINS, NORMALISATIONS, ModelLayer, model_layers
from denseport.net.config import Traits

# What Keras 1, 2 and 3 call a convolution's stride and dilation.
STRIDES = ("strides", "subsample", "subsample_length")
DILATIONS = ("dilation_rate",)
REMEDY = "save the weights of a DenseNet alone"
RESAVE = "give them another and save the model again"


def observed_traits(config: Mapping[str, Any]) -> dict[str, Any]:
    """The traits that a model's configuration states without doubt.

    Raises:
        LayoutError: The model has layers that no DenseNet has, normalisations of different epsilons or of none,
            convolutions with strides or dilations that no DenseNet has, or traits that make no sense.
    """
    layers = model_layers(config)
    traits: dict[str, Any] = {}
    if normalisations := [layer for layer in layers if layer.kind in NORMALISATIONS]:
        traits["epsilon"] = _epsilon(normalisations)
    stem = next((n for n, layer in enumerate(layers) if layer.kind in CONVOLUTIONS), None)
    if stem is not None:
        traits |= _stem_traits(layers, stem)
        joined = max((n for n, layer in enumerate(layers) if layer.kind in JOINS), default=None)
        if joined is not None:
            relu = any(layer.activation == "relu" for layer in layers[joined:])
            traits["final_activation"] = "relu" if relu else "none"
        traits["stem_pool"] = "max" if any(layer.kind.startswith("MaxPooling") for layer in layers) else "none"
    Traits(**traits)
    return traits


def _epsilon(normalisations: list[ModelLayer]) -> float:
    """The one epsilon of all normalisations."""
    if absurd := [layer for layer in normalisations if not 0 < _number(layer.config.get("epsilon")) < 100]:
        raise LayoutError(
            f"batch normalisations have a senseless epsilon: {_with(absurd, 'epsilon')}; save the model again"
        )
    if absurd := [layer for layer in normalisations if not 0 <= _number(layer.config.get("momentum", 0)) <= 1]:
        raise LayoutError(
            f"batch normalisations have a senseless momentum: {_with(absurd, 'momentum')}; save the model again"
        )
    usual = Counter(layer.config["epsilon"] for layer in normalisations).most_common(1)[0][0]
    if others := [layer for layer in normalisations if layer.config["epsilon"] != usual]:
        raise LayoutError(
            f"batch normalisations have another epsilon than {usual}, which most have: {_with(others, 'epsilon')}; "
            "a DenseNet has one: build the model with one and save it again"
        )
    return float(usual)


def _stem_traits(layers: list[ModelLayer], stem: int) -> dict[str, Any]:
    """Padding and stride of the first convolution; the others have neither stride nor dilation."""
    first, *others = [layer for layer in layers if layer.kind in CONVOLUTIONS]
    if odd := [layer for layer in others if _steps(layer, STRIDES) != {1}]:
        raise LayoutError(f"convolutions have strides that no DenseNet has there: {_with(odd, *STRIDES)}; {REMEDY}")
    if odd := [layer for layer in (first, *others) if _steps(layer, DILATIONS) != {1}]:
        raise LayoutError(f"convolutions are dilated, as no DenseNet's are: {_with(odd, *DILATIONS)}; {REMEDY}")
    traits: dict[str, Any] = {}
    if first.config.get("padding", first.config.get("border_mode")) == "same":
        traits["padding"] = "same"
    elif any(layer.kind.startswith("ZeroPadding") for layer in layers[:stem]):
        traits["padding"] = "symmetric"
    strides = _steps(first, STRIDES)
    if len(strides) > 1:
        raise LayoutError(f"the stem has unequal strides: {_with([first], *STRIDES)}; {REMEDY}")
    if any(key in first.config for key in STRIDES):
        traits["stem_stride"] = strides.pop()
    return traits


def _steps(layer: ModelLayer, keys: tuple[str, ...]) -> set[int]:
    """A convolution's strides or dilations, which are 1 where none are stated."""
    stated = next((layer.config[key] for key in keys if key in layer.config), 1)
    steps = stated if isinstance(stated, list) and stated else [stated]
    if not all(type(step) is int for step in steps):
        raise LayoutError(f"a convolution's {keys[0]} are no whole numbers: {_with([layer], *keys)}; {REMEDY}")
    return set(steps)


def _number(value: object) -> float:
    """The number, or NaN, which lies in no range, for what is none."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _with(layers: list[ModelLayer], *keys: str) -> str:
    """The layers' names, each with what it states under the first of the keys that it has."""
    return listed(
        f"{layer.name} ({next((layer.config[key] for key in keys if key in layer.config), None)})" for layer in layers
    )
