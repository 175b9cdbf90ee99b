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
from collections.abc import Iterable, Iterator, Mapping
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
# What Keras 1, 2 and 3 call a convolution's stride.
STRIDES = ("strides", "subsample", "subsample_length")
DILATION = "dilation_rate"
MAX_LAYERS = 100_000
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

    def argument(self, *keys: str, default: object = None) -> Any:
        """What it states under the first of the keys that it has."""
        return next((self.config[key] for key in keys if key in self.config), default)

    def steps(self, *keys: str) -> set[int]:
        """Its strides or dilations, which are 1 where none are stated.

        Raises:
            LayoutError: They are no whole numbers.
        """
        stated = self.argument(*keys, default=1)
        steps = stated if isinstance(stated, list) and stated else [stated]
        fault = f"a convolution's {keys[0]} are no whole numbers"
        _refuse(fault, [] if all(type(step) is int for step in steps) else [(self, stated)])
        return set(steps)


def stated(description: Mapping[str, Any], shown: str) -> Record:
    """The traits that a model's configuration states without doubt.

    Raises:
        LayoutError: The model has layers that no DenseNet has, normalisations of different epsilons or of none,
            convolutions with strides or dilations that no DenseNet has, or traits that make no sense.
    """
    try:
        traits = _traits(model_layers(description))
        Traits(**traits)
    except LayoutError as error:
        raise LayoutError(f"{shown}: {error}") from None
    return Record(traits=traits)


def model_layers(config: Mapping[str, Any]) -> list[ModelLayer]:
    """Every layer of a model, nested models' layers in their place.

    Raises:
        LayoutError: A layer, an activation, or code in a layer's arguments is none of a DenseNet's; the message names
            all such layers. Or the configuration lists no layers where it should.
    """
    layers = list(_layers(config))
    foreign = ((layer, layer.kind) for layer in layers if not _is_densenets(layer))
    _refuse("the model has layers that no DenseNet has", foreign)
    last_join = max((n for n, layer in enumerate(layers) if layer.kind in JOINS), default=-1)
    odd = (
        (layer, layer.activation)
        for n, layer in enumerate(layers)
        if layer.activation not in (HEAD_ACTIVATIONS if n > last_join else ACTIVATIONS)
    )
    _refuse("the model has activations that no DenseNet has there", odd)
    _refuse(
        "the model has layers that need code of others",
        ((layer, code) for layer in layers for code in _code(layer.config)),
    )
    return layers


def _refuse(what: str, layers: Iterable[tuple[ModelLayer, object]], remedy: str = REMEDY) -> None:
    """Raises LayoutError where there are such layers, and names each with what is odd about it."""
    if named := [f"{layer.name} ({oddity})" for layer, oddity in layers]:
        raise LayoutError(f"{what}: {listed(named)}; {remedy}")


def _layers(config: Mapping[str, Any]) -> Iterator[ModelLayer]:
    pending: list[object] = [config]
    for _ in range(MAX_LAYERS):
        if not pending:
            return
        layer = pending.pop()
        if not isinstance(layer, dict) or not isinstance(layer.get("class_name"), str):
            raise LayoutError(f"the model's configuration lists {quoted(layer)} where a layer should be; save it again")
        stated = layer.get("config")
        arguments: dict[str, Any] = stated if isinstance(stated, dict) else {}
        kind, package = _class(layer)
        yield ModelLayer(kind, str(arguments.get("name", "")), package, arguments)
        inner = arguments.get("layers") if isinstance(stated, dict) else stated
        pending.extend(reversed(inner) if isinstance(inner, list) else [])
        pending.extend([arguments["backbone"]] if isinstance(arguments.get("backbone"), dict) else [])
    raise LayoutError("the model's configuration lists more layers than any DenseNet has; save its weights alone")


def _class(stated: Mapping[str, Any]) -> tuple[str, str]:
    """The class of a serialised object, and its package; Keras' own classes may state none."""
    named = str(stated.get("class_name", ""))
    for registered in (str(stated.get("registered_name") or ""), named):
        if ">" in registered:
            return named.rpartition(">")[2], registered.partition(">")[0].partition(".")[0]
    return named, str(stated.get("module") or "keras").partition(".")[0]


def _is_densenets(layer: ModelLayer) -> bool:
    if layer.kind == "Permute" and layer.config.get("dims") != CHANNELS_LAST:
        return False
    return layer.kind in DENSENET_LAYERS and (layer.kind == "Scale" or layer.package in PACKAGES)


def _activation(stated: object) -> str:
    """The name of one of Keras' own activations, or what stands in its place, which then is the name of none."""
    if isinstance(stated, dict):
        kind, package = _class(stated)
        config = stated.get("config")
        if package in PACKAGES and kind == "function" and isinstance(config, str):
            return config
        if package in PACKAGES and kind == "ReLU":
            return _of_relu(config if isinstance(config, dict) else {})
    return "linear" if stated is None else str(stated)


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


def _traits(layers: list[ModelLayer]) -> dict[str, Any]:
    traits: dict[str, Any] = {}
    if normalisations := [layer for layer in layers if layer.kind in NORMALISATIONS]:
        traits["epsilon"] = _epsilon(normalisations)
    if any(layer.kind in CONVOLUTIONS for layer in layers):
        traits |= _stem_traits(layers)
        joined = max((n for n, layer in enumerate(layers) if layer.kind in JOINS), default=None)
        if joined is not None:
            relu = any(layer.activation == "relu" for layer in layers[joined:])
            traits["final_activation"] = "relu" if relu else "none"
        traits["stem_pool"] = "max" if any(layer.kind.startswith("MaxPooling") for layer in layers) else "none"
    return traits


def _epsilon(normalisations: list[ModelLayer]) -> float:
    """The one epsilon of all normalisations."""
    for argument, usual, least, most in (("epsilon", None, math.ulp(0), 100), ("momentum", 0, 0, 1)):
        values = [(layer, layer.config.get(argument, usual)) for layer in normalisations]
        absurd = ((layer, value) for layer, value in values if not least <= _number(value) <= most)
        _refuse(f"batch normalisations have a senseless {argument}", absurd, "save the model again")
    epsilons = [(layer, layer.config["epsilon"]) for layer in normalisations]
    usual = Counter(epsilon for _, epsilon in epsilons).most_common(1)[0][0]
    others = ((layer, epsilon) for layer, epsilon in epsilons if epsilon != usual)
    _refuse(
        f"batch normalisations have another epsilon than {usual}, which most have",
        others,
        "a DenseNet has one: build the model with one and save it again",
    )
    return float(usual)


def _stem_traits(layers: list[ModelLayer]) -> dict[str, Any]:
    """Padding and stride of the first convolution; the others have neither stride nor dilation."""
    first, *others = convolutions = [layer for layer in layers if layer.kind in CONVOLUTIONS]
    striding = ((layer, layer.argument(*STRIDES)) for layer in others if layer.steps(*STRIDES) != {1})
    _refuse("convolutions have strides that no DenseNet has there", striding)
    dilated = ((layer, layer.argument(DILATION)) for layer in convolutions if layer.steps(DILATION) != {1})
    _refuse("convolutions are dilated, as no DenseNet's are", dilated)
    stride, *more = first.steps(*STRIDES)
    _refuse("the stem has unequal strides", [(first, first.argument(*STRIDES))] if more else [])
    traits: dict[str, Any] = {}
    if first.argument("padding", "border_mode") == "same":
        traits["padding"] = "same"
    elif any(layer.kind.startswith("ZeroPadding") for layer in layers[: layers.index(first)]):
        traits["padding"] = "symmetric"
    if first.argument(*STRIDES) is not None:
        traits["stem_stride"] = stride
    return traits


def _number(value: object) -> float:
    """The number, or NaN, which lies in no range, for what is none."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
