"""A net as Keras serialises a functional model: layers of Keras' own alone, as plain data.

Source: keras/src/models/functional.py: Functional.get_config, functional_from_config;
keras/src/saving/serialization_lib.py: serialize_keras_object.
"""

from __future__ import annotations

import operator
from typing import Any

from denseport.layouts.parse import find_layout
from denseport.layouts.spec import Layout
from denseport.net.config import TRAIT_NAMES, DenseNetConfig
from denseport.net.graph import Node, graph, reduction
from denseport.preprocessing import Preprocessing

STATED = TRAIT_NAMES
CHANNELS_LAST = {"data_format": "channels_last"}


def layout_of(config: DenseNetConfig) -> str:
    """keras.applications' names where it has such nets, else this project's own."""
    layout = find_layout("keras-applications")
    return layout.name if not layout.cannot_build(config) and not layout.mismatches(config) else "denseport"


def cannot_hold(config: DenseNetConfig) -> str:
    """Why Keras' own layers cannot compute such a net, or "" where they can."""
    if config.traits.stem_pool == "max-blur":
        return "Keras has no layer that reflects borders, which a blur pool needs"
    if config.traits.stem_pool == "max" and config.traits.padding == "symmetric" and not config.stem_norm:
        return "Keras has no layer that pads a maximum of negative values on both sides"
    return ""


def describe(config: DenseNetConfig, layout: Layout, _: Preprocessing | None) -> tuple[dict[str, Any], list[str]]:
    """The serialised model, with features in the layout's order of concatenation, and no notes."""
    order = layout.traits.get("concatenation", config.traits.concatenation)
    return functional(config.replace(concatenation=order), layout), []


def functional(config: DenseNetConfig, layout: Layout) -> dict[str, Any]:
    """The serialised model, which takes images (N, *spatial, C) and gives logits.

    Layers are called as in the layout, with `_` for a dot, which Keras on torch does not allow in a name.

    Args:
        config: A net without a blur pool; where it pads the stem's pool on both sides, that stands behind a ReLU.
        layout: What the layers are called.

    Raises:
        LayoutError: The layout has no name for one of the layers.
    """
    spelling = layout.spelling(config)
    layers: list[dict[str, Any]] = []
    outputs: dict[str, dict[str, Any]] = {}
    for node in graph(config):
        inputs = [outputs[each] for each in node.inputs]
        if node.padding == "symmetric":
            layers.append(_padding(node, config, inputs))
            inputs = [_output(layers[-1], inputs[0]["config"]["shape"])]
        name = spelling.layer(node.name) if node.shapes else node.name
        layers.append(_layer(*_computation(node, config), name, inputs))
        outputs[node.name] = _output(layers[-1], [None] * (config.dimensions + 1) + [node.width])
    model = {
        "name": "densenet",
        "trainable": True,
        "layers": layers,
        "input_layers": [layers[0]["name"], 0, 0],
        "output_layers": [layers[-1]["name"], 0, 0],
    }
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": model,
        "registered_name": "Functional",
        "build_config": {"input_shape": None},
    }


def _computation(node: Node, config: DenseNetConfig) -> tuple[str, dict[str, Any]]:
    """The class of a node's layer, and its arguments."""
    dimensions = f"{config.dimensions}D"
    padding = "valid" if node.padding == "symmetric" else node.padding
    match node.kind:
        case "input":
            # Sizes are free, but where the classifier sees a flattened map, which images of one size alone give.
            sides = map(operator.mul, config.head_shape, reduction(config))
            shape = [None, *(list(sides) or [None] * config.dimensions), node.width]
            return "InputLayer", {"batch_shape": shape, "dtype": "float32"}
        case "conv":
            window = {"kernel_size": node.kernel, "strides": list(node.strides), "padding": padding}
            arguments = {"filters": node.width, **window, "use_bias": config.conv_bias, **CHANNELS_LAST}
            return f"Conv{dimensions}", arguments
        case "norm":
            return "BatchNormalization", {"axis": -1, "epsilon": config.traits.epsilon, "momentum": 0.9}
        case "activation":
            return "Activation", {"activation": "relu"}
        case "max-pool":
            window = {"pool_size": node.kernel, "strides": node.strides[0], "padding": padding}
            return f"MaxPooling{dimensions}", window | CHANNELS_LAST
        case "avg-pool":
            return f"AveragePooling{dimensions}", {
                "pool_size": node.kernel,
                "strides": node.strides[0],
                **CHANNELS_LAST,
            }
        case "concat":
            return "Concatenate", {"axis": -1}
        case "global-mean":
            return f"GlobalAveragePooling{dimensions}", CHANNELS_LAST
        case "flatten":
            return "Flatten", CHANNELS_LAST
        case "dense":
            return "Dense", {"units": node.width}
    raise ValueError(f"Keras has no layer that computes a {node.kind}")


def _padding(node: Node, config: DenseNetConfig, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """The layer before one whose windows go over both borders alike; behind a ReLU, its zeros win no maximum."""
    name = node.name.replace("conv", "pad") if node.kind == "conv" else f"{node.name}.pad"
    return _layer(f"ZeroPadding{config.dimensions}D", {"padding": node.kernel // 2, **CHANNELS_LAST}, name, inputs)


def _layer(kind: str, arguments: dict[str, Any], name: str, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    called = name.replace(".", "_")
    taken = [inputs] if kind == "Concatenate" else inputs
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {"name": called, **arguments},
        "registered_name": None,
        "name": called,
        "inbound_nodes": [{"args": taken, "kwargs": {}}] if inputs else [],
    }


def _output(layer: dict[str, Any], shape: list[int | None]) -> dict[str, Any]:
    """What a layer that takes this one's output knows it by."""
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": shape, "dtype": "float32", "keras_history": [layer["name"], 0, 0]},
    }
