"""The layers that a Keras model's configuration lists, as data; what no DenseNet has among them is refused by name.

Nothing is built from a configuration, so nothing in it can run here. Yet it comes from strangers and says what the
weights compute: a layer or an activation that no DenseNet has is a reason to refuse weights that would fit.
Initialisers, regularisers and constraints do not change what trained weights compute. They are passed over where Keras
has them itself or only their name stands there, and refused where they are lambdas or classes of another package,
which could not be loaded without that package's code.

Source: keras/src/saving/serialization_lib.py, `serialize_keras_object`; keras/src/activations/__init__.py, `serialize`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from denseport.errors import LayoutError, listed, quoted

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
