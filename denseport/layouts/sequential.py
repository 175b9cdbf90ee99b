"""Heads of several layers that are written: what a model must have that loads them."""

from __future__ import annotations

from collections.abc import Mapping

from denseport.layouts.descriptions.torch import ACTIVATIONS
from denseport.layouts.frameworks import Framework
from denseport.layouts.heads import in_words
from denseport.layouts.spec import Layout
from denseport.net.config import DenseNetConfig, HeadLayer
from denseport.net.graph import CLASSIFIER, head_layers, layers

# Where PyTorch and timm have a class each, PyTorch's comes first.
MODULES: Mapping[str, str] = {
    **{name: f"{module}()" for module, name in reversed(list(ACTIVATIONS.items()))},
    "none": "Identity()",
    "gelu-tanh": 'GELU("tanh")',
}


def sequential(config: DenseNetConfig) -> str:
    """A head of several layers as the `nn.Sequential` of PyTorch that has its parameters and computes it."""
    first, *_ = (layer for layer in layers(config) if layer.name in head_layers(config))
    width = first.shapes["weight"][-1]
    modules = []
    for layer in config.head_layers:
        modules.append(_module(layer, width))
        width = layer.width or width
    return f"nn.Sequential({', '.join(modules)})"


def _module(layer: HeadLayer, width: int) -> str:
    match layer.kind:
        case "dense":
            return f"nn.Linear({width}, {layer.width}{'' if layer.bias else ', bias=False'})"
        case "norm":
            return f"nn.BatchNorm1d({width}, eps={layer.epsilon})"
        case "dropout":
            return "nn.Dropout()"
        case "unit-norm":
            return "UnitNorm()"
    if layer.activation == "leaky-relu":
        return f"nn.LeakyReLU({layer.negative_slope})"
    return f"nn.{MODULES[layer.activation]}"


def notes(config: DenseNetConfig, layout: Layout, framework: Framework) -> list[str]:
    """What a user should know of a head of several layers that is written in a layout other than denseport's own."""
    names = layout.layer_names(config) if config.head_layers else {}
    if all(names[layer] == layer for layer in head_layers(config)):
        return []
    if framework.runs_in == "torch":
        classifier = layout.layer_names(config.replace(head_layers=()))[CLASSIFIER]
        return [f"the target loads strictly into a model whose {classifier} is {sequential(config)}"]
    return [f"behind the pool of the model that loads the target must stand {in_words(config.head_layers, names)}"]
