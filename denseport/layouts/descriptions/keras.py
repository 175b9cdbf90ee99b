"""What the configuration of a Keras model says of its DenseNet: the traits that no name and no shape shows.

Nothing is built from a configuration, so nothing in it can run here. Yet it comes from strangers and says what the
weights compute: a layer or an activation that no DenseNet has is a reason to refuse weights that would fit.
Initialisers, regularisers and constraints do not change what trained weights compute. They are passed over where Keras
has them itself or only their name stands there, and refused where they are lambdas or classes of another package,
which could not be loaded without that package's code.

Source: keras/src/saving/serialization_lib.py, `serialize_keras_object`; keras/src/activations/__init__.py, `serialize`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from denseport.errors import LayoutError, listed, quoted
from denseport.metadata import Record
from denseport.net.config import Traits

CONVOLUTIONS = frozenset({"Conv1D", "Conv2D", "Conv3D", "Convolution2D"})
NORMALISATIONS = frozenset({"BatchNormalization", "BatchNormalizationV1"})
JOINS = frozenset({"Concatenate", "Merge"})
DENSENET_LAYERS = (
    CONVOLUTIONS
    | NORMALISATIONS
    | JOINS
    | {f"{kind}{n}D" for n in (1, 2, 3) for kind in ("ZeroPadding", "MaxPooling", "AveragePooling", "SpatialDropout")}
    | {f"Global{kind}Pooling{n}D" for n in (1, 2, 3) for kind in ("Average", "Max")}
    | {"InputLayer", "Activation", "ReLU", "Softmax", "Dense", "Dropout", "Flatten", "Rescaling", "Pad", "Permute"}
    | {"Functional", "Model", "Sequential", "Scale"}
    | {"DenseNetBackbone", "DenseNetImageClassifier", "ImageClassifier"}
)
# Layers that may stand there under a name of their own package; everything else must be Keras' own.
PACKAGES = ("denseport", "keras", "tensorflow", "tf_keras", "keras_hub", "keras_cv", "keras_nlp", "builtins")
# What takes images whose channels come first to a net that computes channels last.
CHANNELS_LAST = [2, 3, 1]
ACTIVATIONS = ("linear", "relu")
HEAD_ACTIVATIONS = (*ACTIVATIONS, "softmax", "sigmoid")
LAMBDAS = ("__lambda__", "Lambda")
# What a serialised class or function has.
SERIALISED = frozenset({"class_name", "module", "registered_name"})
# The ends of the keys whose strings name classes or functions; only their names tell these from other text.
NAMING = ("_initializer", "_regularizer", "_constraint")
MAX_LAYERS = 100_000
# What Keras 1, 2 and 3 call a convolution's stride and dilation.
STRIDES = ("strides", "subsample", "subsample_length")
DILATIONS = ("dilation_rate",)
REMEDY = "save the weights of a DenseNet alone"


@dataclass(frozen=True, slots=True)
class ModelLayer:
    """A layer as a configuration states it.

    Attributes:
        kind: Its class, without its package.
        name: Its own name, or "".
        package: Of its class: the first part of its module, or the name that it was registered under.
        config: Its arguments.
    """

    kind: str
    name: str
    package: str
    config: Mapping[str, Any]

    @property
    def activation(self) -> str:
        """The name of the activation that the layer applies, `linear` where none; else what stands in its place."""
        if self.kind == "ReLU":
            return _of_relu(self.config)
        return "softmax" if self.kind == "Softmax" else _activation(self.config.get("activation"))


def stated(description: Mapping[str, Any], shown: str) -> Record:
    """The traits that a model's configuration states without doubt.

    Raises:
        LayoutError: The model has layers that no DenseNet has, normalisations of different epsilons or of none,
            convolutions with strides or dilations that no DenseNet has, or traits that make no sense.
    """
    try:
        return Record(traits=_traits(model_layers(description)))
    except LayoutError as error:
        raise LayoutError(f"{shown}: {error}") from None


def _traits(layers: list[ModelLayer]) -> dict[str, Any]:
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


def model_layers(config: Mapping[str, Any]) -> list[ModelLayer]:
    """Every layer of a model, nested models' layers in their place.

    Raises:
        LayoutError: A layer, an activation, or code in a layer's arguments is none of a DenseNet's; the message names
            all such layers. Or the configuration lists no layers where it should.
    """
    layers = list(_layers(config))
    _refuse(
        "has layers that no DenseNet has",
        (f"{layer.name} ({layer.kind})" for layer in layers if not _is_densenets(layer)),
    )
    last_join = max((n for n, layer in enumerate(layers) if layer.kind in JOINS), default=-1)
    _refuse(
        "has activations that no DenseNet has there",
        (
            f"{layer.name} ({layer.activation})"
            for n, layer in enumerate(layers)
            if layer.activation not in (HEAD_ACTIVATIONS if n > last_join else ACTIVATIONS)
        ),
    )
    _refuse(
        "has layers that need code of others",
        (f"{layer.name} ({what})" for layer in layers for what in _code(layer.config)),
    )
    return layers


def _refuse(what: str, found: Iterator[str]) -> None:
    if names := list(found):
        raise LayoutError(f"the model {what}: {listed(names)}; save a DenseNet's weights alone")


def _layers(config: Mapping[str, Any]) -> Iterator[ModelLayer]:
    pending: list[object] = [config]
    for _ in range(MAX_LAYERS):
        if not pending:
            return
        layer = pending.pop()
        if not isinstance(layer, dict) or not isinstance(layer.get("class_name"), str):
            raise LayoutError(f"the model's configuration lists {quoted(layer)} where a layer should be; save it again")
        own = layer.get("config")
        arguments: dict[str, Any] = own if isinstance(own, dict) else {}
        kind, package = _class(layer)
        yield ModelLayer(kind, str(arguments.get("name", "")), package, arguments)
        inner = arguments.get("layers") if isinstance(own, dict) else own
        pending.extend(reversed(inner) if isinstance(inner, list) else [])
        pending.extend([arguments["backbone"]] if isinstance(arguments.get("backbone"), dict) else [])
    raise LayoutError("the model's configuration lists more layers than any DenseNet has; save its weights alone")


def _class(stated: Mapping[str, Any]) -> tuple[str, str]:
    """The class of a serialised object, and its package; Keras' own classes may state none."""
    module = str(stated.get("module") or "keras").partition(".")[0]
    _, _, kind = (named := str(stated.get("class_name", ""))).rpartition(">")
    for registered in (str(stated.get("registered_name") or ""), named):
        if ">" in registered:
            return kind, registered.partition(">")[0].partition(".")[0]
    return kind, module


def _is_densenets(layer: ModelLayer) -> bool:
    if layer.kind == "Permute" and layer.config.get("dims") != CHANNELS_LAST:
        return False
    return layer.kind in DENSENET_LAYERS and (layer.kind == "Scale" or layer.package in PACKAGES)


def _activation(stated: object) -> str:
    """The name of one of Keras' own activations, or what stands in its place, which then is the name of none."""
    if stated is None:
        return "linear"
    if isinstance(stated, dict):
        kind, package = _class(stated)
        config = stated.get("config")
        if package in PACKAGES and kind == "function" and isinstance(config, str):
            return config
        if package in PACKAGES and kind == "ReLU":
            return _of_relu(config if isinstance(config, dict) else {})
    return stated if isinstance(stated, str) else str(stated)


def _of_relu(config: Mapping[str, Any]) -> str:
    """`relu`, or what makes it another function: a bound, a slope, a threshold."""
    others = {key: config.get(key) for key in ("max_value", "negative_slope", "threshold")}
    plain = others["max_value"] is None and all(others[key] in (None, 0) for key in ("negative_slope", "threshold"))
    return "relu" if plain else f"relu {others}"


def _code(config: Mapping[str, Any]) -> Iterator[str]:
    """Lambdas and other packages' classes among a layer's arguments; inner models' layers have their own turn."""
    pending: list[tuple[str, object]] = [(key, config[key]) for key in config if key not in ("layers", "backbone")]
    while pending:
        key, value = pending.pop()
        if isinstance(value, list):
            pending.extend((key, each) for each in value if isinstance(each, (dict, list)))
        elif isinstance(value, str):
            if key.endswith(NAMING) and ">" in value and value.partition(">")[0] not in PACKAGES:
                yield value
        elif isinstance(value, dict):
            if not SERIALISED.isdisjoint(value):
                kind, package = _class(value)
                if kind in LAMBDAS:
                    yield f"{key}: a lambda"
                elif package not in PACKAGES:
                    yield f"{key}: {kind} of {package}"
            pending.extend(value.items())


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
