"""What a Keras model's own configuration says of its DenseNet: the traits that no name and no shape shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from denseport.config import Traits
from denseport.errors import LayoutError, listed, quoted

CONVOLUTIONS = frozenset({"Conv1D", "Conv2D", "Conv3D", "Convolution2D"})
NORMALISATIONS = frozenset({"BatchNormalization", "BatchNormalizationV1"})
DENSENET_LAYERS = (
    CONVOLUTIONS
    | NORMALISATIONS
    | {f"{kind}{n}D" for n in (1, 2, 3) for kind in ("ZeroPadding", "MaxPooling", "AveragePooling", "SpatialDropout")}
    | {f"Global{kind}Pooling{n}D" for n in (1, 2, 3) for kind in ("Average", "Max")}
    | {
        "InputLayer",
        "Activation",
        "ReLU",
        "Softmax",
        "Concatenate",
        "Merge",
        "Dense",
        "Dropout",
        "Flatten",
        "Rescaling",
    }
    | {"Pad"}
    | {"Functional", "Model", "Sequential", "Scale"}
    | {"DenseNetBackbone", "DenseNetImageClassifier", "ImageClassifier"}
)
# Layers that may stand there under a name of their own package; everything else must be Keras' own.
PACKAGES = ("denseport", "keras", "tensorflow.keras", "tf_keras", "keras_hub", "keras_cv", "keras_nlp", "builtins")
MAX_LAYERS = 100_000


def observed_traits(config: Mapping[str, Any]) -> dict[str, Any]:
    """The traits that a model's configuration states without doubt.

    Raises:
        LayoutError: The model has layers that no DenseNet has, which the message names, or traits that make no sense.
    """
    layers = list(_layers(config))
    if foreign := [f"{name} ({kind})" for kind, name, package, _ in layers if not _is_densenets(kind, package)]:
        raise LayoutError(
            f"the model has layers that no DenseNet has: {listed(foreign)}; save a DenseNet's weights alone"
        )
    traits: dict[str, Any] = {}
    epsilons = [own.get("epsilon") for kind, _, _, own in layers if kind in NORMALISATIONS]
    if epsilons and isinstance(epsilons[0], float) and all(epsilon == epsilons[0] for epsilon in epsilons):
        traits["epsilon"] = epsilons[0]
    stem = next((n for n, (kind, *_) in enumerate(layers) if kind in CONVOLUTIONS), None)
    if stem is None:
        return traits
    _, _, _, own = layers[stem]
    if own.get("padding") == "same":
        traits["padding"] = "same"
    elif any(kind.startswith("ZeroPadding") for kind, *_ in layers[:stem]):
        traits["padding"] = "symmetric"
    strides = own.get("strides", own.get("subsample"))
    if isinstance(strides, list) and strides and all(side == strides[0] for side in strides):
        traits["stem_stride"] = strides[0]
    joined = max((n for n, (kind, *_) in enumerate(layers) if kind in ("Concatenate", "Merge")), default=None)
    if joined is not None:
        relu = any(kind == "ReLU" or own.get("activation") == "relu" for kind, _, _, own in layers[joined:])
        traits["final_activation"] = "relu" if relu else "none"
    traits["stem_pool"] = "max" if any(kind.startswith("MaxPooling") for kind, *_ in layers) else "none"
    Traits(**traits)
    return traits


def _is_densenets(kind: str, package: str) -> bool:
    return kind in DENSENET_LAYERS and (kind == "Scale" or package.split(".")[0] in {p.split(".")[0] for p in PACKAGES})


def _layers(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Class, name, package and configuration of each layer, nested models' layers in their place."""
    pending: list[object] = [config]
    for _ in range(MAX_LAYERS):
        if not pending:
            return
        layer = pending.pop()
        if not isinstance(layer, dict) or not isinstance(layer.get("class_name"), str):
            raise LayoutError(f"the model's configuration lists {quoted(layer)} where a layer should be; save it again")
        own = layer.get("config")
        inner = own if isinstance(own, list) else own.get("layers") if isinstance(own, dict) else None
        package = layer.get("registered_name") or layer.get("module") or "keras"
        module = str(layer.get("module") or "keras")
        named = str(package).partition(">")[0] if ">" in str(package) else module
        name = own.get("name", "") if isinstance(own, dict) else ""
        yield layer["class_name"].rpartition(">")[2], str(name), named, own if isinstance(own, dict) else {}
        pending.extend(reversed(inner) if isinstance(inner, list) else [])
    raise LayoutError("the model's configuration lists more layers than any DenseNet has; save its weights alone")
