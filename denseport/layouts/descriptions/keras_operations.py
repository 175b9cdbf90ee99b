"""Which operation of a net each layer of a Keras model is, under all the names that Keras 1, 2 and 3 have for it.

Source: keras/src/layers; keras/src/ops/nn.py; keras/src/activations/__init__.py: serialize; for Keras 2
tf_keras/src/layers/core/tf_op_layer.py, whose functions are TensorFlow's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from denseport.layouts.descriptions.keras_config import Call, ModelLayer, class_of
from denseport.net.config import Activation

Kind = Literal[
    "conv", "norm", "scale", "activation", "pad", "max-pool", "avg-pool", "join", "global-mean", "global-max",
    "flatten", "dense", "unit-norm", "average", "stranger",
]  # fmt: skip

# Packages whose layers are Keras' own.
PACKAGES = ("denseport", "keras", "tensorflow", "tf_keras", "keras_hub", "keras_cv", "keras_nlp", "builtins")
# What does nothing at inference, beside all that is called Random.
WITHOUT_EFFECT = frozenset(
    {
        "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianDropout",
        "GaussianNoise", "ActivityRegularization", "Identity", "AugMix", "CutMix", "MixUp", "RandAugment",
    }
)  # fmt: skip
# What changes an image's size, which is for those to do who prepare images.
RESIZING = frozenset({"Resizing", "CenterCrop", "RandomCrop"})
SAME_LAYER: Mapping[str, Kind] = MappingProxyType(
    {
        **{f"{name}{n}D": "conv" for n in (1, 2, 3) for name in ("Conv", "Convolution")},
        **{f"ZeroPadding{n}D": "pad" for n in (1, 2, 3)},
        **{f"{kind}Pooling{n}D": "max-pool" for n in (1, 2, 3) for kind in ("Max",)},
        **{f"{kind}Pooling{n}D": "avg-pool" for n in (1, 2, 3) for kind in ("Average",)},
        **{f"GlobalAveragePooling{n}D": "global-mean" for n in (1, 2, 3)},
        **{f"GlobalMaxPooling{n}D": "global-max" for n in (1, 2, 3)},
        **dict.fromkeys(("BatchNormalization", "BatchNormalizationV1", "SyncBatchNormalization"), "norm"),
        **dict.fromkeys(("Activation", "ReLU", "LeakyReLU", "ELU", "Softmax"), "activation"),
        **dict.fromkeys(("Concatenate", "Merge"), "join"),
        "Scale": "scale", "Flatten": "flatten", "Dense": "dense", "UnitNormalization": "unit-norm",
        "Average": "average",
    }
)  # fmt: skip
# Of Keras 3's operations and of TensorFlow's functions: their names without the module, in lower case without `_`.
OPERATIONS: Mapping[str, Kind] = MappingProxyType(
    {
        "concatenate": "join", "concat": "join", "mean": "global-mean", "reducemean": "global-mean",
        "max": "global-max", "reducemax": "global-max",
        **dict.fromkeys(
            ("relu", "relu6", "leakyrelu", "elu", "selu", "gelu", "silu", "swish", "tanh", "sigmoid", "softmax",
             "logsoftmax", "softplus", "hardsilu", "hardswish", "mish"),
            "activation",
        ),
    }
)  # fmt: skip
# Keras' names of activations, in lower case without `_`, to this project's.
SAME_ACTIVATION: Mapping[str, str] = MappingProxyType(
    {
        "linear": "none", "leakyrelu": "leaky-relu", "swish": "silu", "hardswish": "hard-swish",
        "hardsilu": "hard-swish", "logsoftmax": "log-softmax", "softmax": "softmax",
        **{name: name for name in get_args(Activation) if "-" not in name},
    }
)  # fmt: skip
LAMBDAS = ("__lambda__", "Lambda")
# What a serialised class or function has.
SERIALISED = frozenset({"class_name", "module", "registered_name"})
# The ends of the keys whose strings name classes or functions; only their names tell these from other text.
NAMING = ("_initializer", "_regularizer", "_constraint")


@dataclass(frozen=True, slots=True)
class Applied:
    """An activation as a layer states it.

    Attributes:
        name: One of `net.config.Activation`, or `softmax` or `log-softmax`, or what stands in its place.
        negative_slope: Of `leaky-relu`, else 0.
    """

    name: str
    negative_slope: float = 0.0


def kind_of(layer: ModelLayer) -> Kind:
    """Which operation a layer is; a `stranger` where it is none of Keras' own that a net can have."""
    if layer.kind == "Scale":  # of nets that came from Caffe, each with a class of its own
        return "scale"
    if layer.package not in PACKAGES:
        return "stranger"
    if function := _operation(layer):
        return OPERATIONS.get(function, "stranger")
    return SAME_LAYER.get(layer.kind, "stranger")


def is_without_effect(layer: ModelLayer) -> bool:
    """Whether a layer gives what it takes, once a net is trained."""
    named = layer.kind in WITHOUT_EFFECT or (layer.kind.startswith("Random") and layer.kind not in RESIZING)
    return named and layer.package in PACKAGES


def activation(layer: ModelLayer, keywords: Mapping[str, Any] = MappingProxyType({})) -> Applied:
    """What a layer applies, behind its kernel where it has one; `none` where it does not."""
    config = {**layer.config, **keywords}
    match layer.kind:
        case "ReLU":
            return _of_relu(config)
        case "LeakyReLU":
            return _leaky(layer.argument("negative_slope", "alpha", default=0.3))
        case "ELU":
            return Applied("elu") if config.get("alpha", 1.0) == 1 else Applied(f"elu {config.get('alpha')}")
        case "Softmax":
            return _over_features("softmax", config)
    if (function := _operation(layer)) and OPERATIONS.get(function) == "activation":
        return _of_operation(function, config, in_keras_3=layer.kind != "TFOpLambda")
    return _activation(config.get("activation"))


def code_in(config: Mapping[str, Any]) -> Iterator[str]:
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
                kind, package = class_of(value)
                if kind in LAMBDAS:
                    yield f"{key}: a lambda"
                elif package not in PACKAGES:
                    yield f"{key}: {kind} of {package}"
            pending.extend(value.items())


def pools_whole_maps(call: Call, dimensions: int) -> bool:
    """Whether an operation such as `mean` goes over all positions and leaves the channels."""
    named = {**call.layer.config, **(call.keywords or {})}
    rest = [each for each in call.arguments if isinstance(each, list)]
    axes = named.get("axis", rest[0] if rest else None)
    wanted = list(range(1, dimensions + 1))
    return isinstance(axes, list) and axes in (wanted, [axis - dimensions - 2 for axis in wanted])


def _operation(layer: ModelLayer) -> str:
    """The name of an operation of Keras 3, or of a function of TensorFlow; "" for a layer."""
    if layer.kind in ("TFOpLambda", "SlicingOpLambda"):
        function = str(layer.config.get("function")).rpartition(".")[2].replace("_", "").lower()
        return function.removesuffix("v2")
    return "" if layer.kind in SAME_LAYER else layer.kind.lower() if layer.kind.lower() in OPERATIONS else ""


def _of_operation(function: str, config: Mapping[str, Any], *, in_keras_3: bool) -> Applied:
    if function == "leakyrelu":
        return _leaky(config.get("negative_slope", config.get("alpha", 0.2)))
    if function == "gelu":  # as an operation of Keras 3 it is the approximate one where nothing is said
        return Applied("gelu-tanh" if config.get("approximate", in_keras_3) else "gelu")
    if function == "elu" and config.get("alpha", 1.0) != 1:
        return Applied(f"elu {config['alpha']}")
    return _over_features(SAME_ACTIVATION[function], config)


def _over_features(name: str, config: Mapping[str, Any]) -> Applied:
    """An activation, or what makes a softmax another function: an axis that is not that of the features."""
    axis = config.get("axis", -1)
    return Applied(name if is_of_features(axis) or "softmax" not in name else f"{name} over axis {axis}")


def is_of_features(axis: object) -> bool:
    """Whether an axis is the last one of features (N, C)."""
    return axis in (None, -1, 1, [-1], [1])


def _activation(stated: object) -> Applied:
    """One of Keras' own activations, or what stands in its place, which then is the name of none."""
    if isinstance(stated, dict):
        kind, package = class_of(stated)
        config = stated.get("config")
        arguments: Mapping[str, Any] = config if isinstance(config, dict) else {}
        if package in PACKAGES and kind == "function" and isinstance(config, str):
            return _activation(config)
        if package in PACKAGES and kind in ("ReLU", "LeakyReLU", "ELU", "Softmax"):
            return activation(ModelLayer(kind, "", package, arguments))
    if stated is None:
        return Applied("none")
    plain = str(stated).replace("_", "").lower().removesuffix("v2")  # as Keras 2 names TensorFlow's functions
    name = SAME_ACTIVATION.get(plain, str(stated)) if isinstance(stated, str) else ""
    if name == "leaky-relu":
        return _leaky(0.2)
    return Applied(name or str(stated))


def _of_relu(config: Mapping[str, Any]) -> Applied:
    """`relu`, `relu6` or `leaky-relu`, or what makes it another function: a bound, a slope, a threshold."""
    most, slope, threshold = (config.get(key) for key in ("max_value", "negative_slope", "threshold"))
    if not threshold and most is None:
        return _leaky(slope) if slope else Applied("relu")
    if not threshold and not slope and most == 6:
        return Applied("relu6")
    return Applied(f"relu { ({'max_value': most, 'negative_slope': slope, 'threshold': threshold}) }")


def _leaky(slope: object) -> Applied:
    """A number that was float32 when Keras stored it counts as the one that was meant."""
    if type(slope) not in (int, float) or not 0 < float(str(slope)) < 100:
        return Applied(f"leaky relu {slope}")
    return Applied("leaky-relu", float(f"{slope:.7g}"))
