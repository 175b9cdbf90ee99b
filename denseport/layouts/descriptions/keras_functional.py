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
# What Keras calls the activations that it calls otherwise.
ACTIVATIONS = {"hard-swish": "hard_silu", "log-softmax": "log_softmax"}
# Operations of Keras' that are no layers; it reads and runs them as such.
OPERATIONS = {"Take": "keras.src.ops.numpy", "Gelu": "keras.src.ops.nn"}
NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "softplus")


def layout_of(config: DenseNetConfig) -> str:
    """keras.applications' names where it has such nets, else this project's own."""
    layout = find_layout("keras-applications")
    return layout.name if not layout.cannot_build(config) and not layout.mismatches(config) else "denseport"


def cannot_hold(config: DenseNetConfig) -> str:
    """Why Keras' own layers cannot compute such a net, or "" where they can."""
    if config.traits.stem_pool == "max-blur":
        return "Keras has no layer that reflects borders, which a blur pool needs"
    activated = config.stem_norm and config.traits.activation in NEVER_NEGATIVE
    if config.traits.stem_pool == "max" and config.traits.padding == "symmetric" and not activated:
        return "Keras has no layer that pads a maximum of negative values on both sides"
    return ""


def describe(config: DenseNetConfig, layout: Layout, _: Preprocessing | None) -> tuple[dict[str, Any], list[str]]:
    """The serialised model, with features in the layout's order of concatenation, and no notes."""
    order = layout.traits.get("concatenation", config.traits.concatenation)
    return functional(config.replace(concatenation=order), layout), []


def functional(config: DenseNetConfig, layout: Layout) -> dict[str, Any]:
    """The serialised model, which takes images (N, *spatial, C) and gives what the net's own model does.

    Layers are called as in the layout, with `_` for a dot, which Keras on torch does not allow in a name.

    Args:
        config: A net of which `cannot_hold` says nothing.
        layout: What the layers are called.

    Raises:
        LayoutError: The layout has no name for one of the layers.
    """
    names = layout.layer_names(config)
    layers: list[dict[str, Any]] = []
    outputs: dict[str, dict[str, Any]] = {}
    for node in graph(config):
        inputs = [outputs[each] for each in node.inputs]
        if before := _before(node, config, inputs):
            shape = inputs[0]["config"]["shape"]
            layers.append(before)
            inputs = [_output(before, [*shape[:-1], node.width] if node.kind == "inputs" else shape)]
        layers.append(_layer(*_computation(node, config), names.get(node.name, node.name), inputs))
        outputs[node.name] = _output(layers[-1], [None] * (config.dimensions + 1) + [node.width])
    _give_answers(layers, config)
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
        case "inputs" if config.inputs:
            return "Rescaling", {"scale": _alike(config.inputs.scale), "offset": _alike(config.inputs.offset)}
        case "conv":
            window = {"kernel_size": node.kernel, "strides": list(node.strides), "padding": padding}
            arguments = {"filters": node.width, **window, "use_bias": config.conv_bias, **CHANNELS_LAST}
            return f"Conv{dimensions}", arguments
        case "norm":
            return "BatchNormalization", {"axis": -1, "epsilon": node.epsilon, "momentum": 0.9}
        case "activation":
            return _activation(node)
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
        case "global-max":
            return f"GlobalMaxPooling{dimensions}", CHANNELS_LAST
        case "average":
            return "Average", {}
        case "unit-norm":
            return "UnitNormalization", {"axis": -1}
        case "flatten":
            return "Flatten", CHANNELS_LAST
        case "dense":
            return "Dense", {"units": node.width} if "bias" in node.shapes else {"units": node.width, "use_bias": False}
    raise ValueError(f"Keras has no layer that computes a {node.kind}")


def _alike(numbers: tuple[float, ...]) -> float | list[float]:
    """Numbers as Keras' layers take them: one where all are alike."""
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)


def _activation(node: Node) -> tuple[str, dict[str, Any]]:
    if node.activation == "leaky-relu":
        return "LeakyReLU", {"negative_slope": node.negative_slope}
    if node.activation == "gelu-tanh":
        return "Gelu", {"approximate": True}
    return "Activation", {"activation": ACTIVATIONS.get(node.activation, node.activation)}


def _before(node: Node, config: DenseNetConfig, inputs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The layer that a node's own needs before it, or None.

    It chooses channels, or pads where windows go over both borders alike; behind a ReLU, its zeros win no maximum.
    """
    if node.kind == "inputs" and config.inputs and config.inputs.order != tuple(range(config.inputs.channels)):
        if set(config.inputs.order) == {0} and config.inputs.channels == 1:
            return _layer("Concatenate", {"axis": -1}, f"{node.name}.order", inputs * node.width)
        return _layer("Take", {"axis": -1}, f"{node.name}.order", inputs, list(config.inputs.order))
    if node.padding != "symmetric":
        return None
    name = node.name.replace("conv", "pad") if node.kind == "conv" else f"{node.name}.pad"
    return _layer(f"ZeroPadding{config.dimensions}D", {"padding": node.kernel // 2, **CHANNELS_LAST}, name, inputs)


def _give_answers(layers: list[dict[str, Any]], config: DenseNetConfig) -> None:
    """Lets the last layer apply to the logits what the net's own model does."""
    answer = config.traits.head_activation
    if config.num_classes is None or answer == "none":
        return
    applied = {"activation": ACTIVATIONS.get(answer, answer)}
    if layers[-1]["class_name"] == "Dense":
        layers[-1]["config"] |= applied
    else:
        inputs = [_output(layers[-1], [None, config.num_classes])]
        layers.append(_layer("Activation", applied, "head.answer", inputs))


def _layer(
    kind: str, arguments: dict[str, Any], name: str, inputs: list[dict[str, Any]], *constants: Any
) -> dict[str, Any]:
    """A layer, or an operation, which may be called with constants behind its inputs."""
    called = name.replace(".", "_")
    taken = [inputs] if kind in ("Concatenate", "Average") else [*inputs, *constants]
    return {
        "module": OPERATIONS.get(kind, "keras.layers"),
        "class_name": kind,
        "config": {"name": called, **arguments},
        "registered_name": kind if kind in OPERATIONS else None,
        "name": called,
        "inbound_nodes": [{"args": taken, "kwargs": {}}] if inputs else [],
    }


def _output(layer: dict[str, Any], shape: list[int | None]) -> dict[str, Any]:
    """What a layer that takes this one's output knows it by."""
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": shape, "dtype": "float32", "keras_history": [layer["name"], 0, 0]},
    }
