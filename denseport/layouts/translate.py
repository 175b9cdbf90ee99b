"""From a layout's tensors to the canonical ones and back; total, or it raises."""

from __future__ import annotations

import math

import numpy as np

from denseport.checkpoint import Checkpoint, Tensor
from denseport.layouts.detection import Detection
from denseport.layouts.frameworks import COUNTER, Framework
from denseport.layouts.spec import Layout
from denseport.layouts.template import SCALE
from denseport.metadata import recorded_counters
from denseport.net.config import DenseNetConfig
from denseport.net.graph import Kind, flattened, head_layers, kind, layers, shapes
from denseport.net.weights import Weights


def to_canonical(checkpoint: Checkpoint, found: Detection) -> Weights:
    """The canonical weights of a checkpoint whose layout is known; nothing is read or copied yet.

    Channels keep the order in which the layout's net concatenates them, which `config.traits` says.
    """
    tensors, of_map = {}, flattened(found.config)
    for role in shapes(found.config):
        layer, _, parameter = role.rpartition(".")
        tensor = _to_canonical(checkpoint.tensors[found.roles[role]], kind(layer), found.framework)
        if layer in of_map and (parameter == "weight" or kind(layer) == "norm"):
            tensor = _reordered(tensor, found.framework, found.config, canonical=True)
        if f"{layer}{SCALE}.{parameter}" in found.roles:
            scale, shift = (checkpoint.tensors[found.roles[f"{layer}{SCALE}.{each}"]] for each in ("weight", "bias"))
            tensor = _folded(tensor, scale, shift if parameter == "bias" else None)
        tensors[role] = tensor
    roles = [(role.rpartition("."), name) for role, name in found.roles.items()]
    counters = {norm: checkpoint.tensors[name] for (norm, _, parameter), name in roles if parameter == COUNTER}
    return Weights(found.config, tensors, counters or _recorded_counters(checkpoint, found.config))


def from_canonical(weights: Weights, layout: Layout, framework: Framework) -> dict[str, Tensor]:
    """The tensors of a layout, in graph order and in its framework's names and axes.

    Channels are put into the order in which the layout concatenates them, where it has one.

    Raises:
        LayoutError: The layout has no name for one of the layers.
    """
    weights = weights.concatenated(layout.traits.get("concatenation", weights.config.traits.concatenation))
    spelling, names = layout.spelling(weights.config), layout.layer_names(weights.config)
    of_map, of_head = flattened(weights.config), head_layers(weights.config)
    tensors: dict[str, Tensor] = {}
    for layer in layers(weights.config):
        name = names[layer.name]
        for parameter in layer.shapes:
            tensor = weights.tensors[f"{layer.name}.{parameter}"]
            if layer.name in of_map and (parameter == "weight" or layer.kind == "norm"):
                tensor = _reordered(tensor, framework, weights.config, canonical=False)
            tensors[framework.spell(name, layer.kind, parameter)] = _from_canonical(tensor, layer.kind, framework)
        if layer.kind == "norm" and layout.scales and layer.name not in of_head:
            width, dtype = layer.shapes["weight"], weights.tensors[f"{layer.name}.weight"].dtype
            scale = spelling.layer(f"{layer.name}{SCALE}")
            tensors[framework.spell(scale, "norm", "weight")] = Tensor.of(np.ones(width, dtype))
            # x + -0.0 is x, bit by bit, for a negative zero too.
            tensors[framework.spell(scale, "norm", "bias")] = Tensor.of(np.full(width, -0.0, dtype))
        if layer.kind == "norm" and framework.counter and layout.counters:
            counter = weights.counters.get(layer.name, Tensor.of(np.zeros((), np.int64)))
            tensors[f"{name}{framework.separator}{framework.counter}"] = counter
    return tensors


def _to_canonical(tensor: Tensor, of: Kind, framework: Framework) -> Tensor:
    if of == "dense" and len(tensor.shape) > 2:  # a convolution of 1x1, which is one
        kernel = _to_canonical(tensor, "conv", framework)
        return Tensor(kernel.dtype, kernel.shape[:2], lambda: kernel.read().reshape(kernel.shape[:2]))
    transposed = tensor.transposed(framework.to_canonical(of, len(tensor.shape)))
    return _rotated(transposed) if framework.rotated and of == "conv" else transposed


def _from_canonical(tensor: Tensor, of: Kind, framework: Framework) -> Tensor:
    tensor = _rotated(tensor) if framework.rotated and of == "conv" else tensor
    return tensor.transposed(framework.from_canonical(of, len(tensor.shape)))


def _rotated(tensor: Tensor) -> Tensor:
    """A kernel (O, I, *spatial) turned by 180 degrees, since Theano convolves where others correlate."""
    spatial = tuple(range(2, len(tensor.shape)))
    return tensor.changed(lambda values: np.flip(values, spatial)) if spatial else tensor


def _folded(tensor: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """A normalisation's weight times the scale that follows it, or its bias times the scale plus the shift."""

    def folded(values: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = values * scale.read()
        return (scaled if shift is None else scaled + shift.read()).astype(tensor.dtype, copy=False)

    return tensor.changed(folded)


def _reordered(tensor: Tensor, framework: Framework, config: DenseNetConfig, *, canonical: bool) -> Tensor:
    """A tensor whose last axis, flattened features, goes from its framework's order to (C, *spatial), or back.

    Torch and Theano flatten channels first, Keras flattens positions first.
    """
    if framework.flattened == "C*":
        return tensor
    positions = math.prod(config.head_shape)
    first = (positions, -1) if canonical else (-1, positions)
    return tensor.changed(
        lambda values: values.reshape(*values.shape[:-1], *first).swapaxes(-1, -2).reshape(values.shape)
    )


def counters_to_record(weights: Weights) -> int | dict[str, int]:
    """The step counters for a file that has no tensors for them: one number where all agree, 0 where all are zero."""
    counts = {norm: int(tensor.read()) for norm, tensor in weights.counters.items()}
    norms = sum(layer.kind == "norm" for layer in layers(weights.config))
    if not any(counts.values()):
        return 0
    return next(iter(counts.values())) if len(counts) == norms and len(set(counts.values())) == 1 else counts


def _recorded_counters(checkpoint: Checkpoint, config: DenseNetConfig) -> dict[str, Tensor]:
    """The step counters that an earlier conversion recorded."""
    norms = [layer.name for layer in layers(config) if layer.kind == "norm"]
    counts = recorded_counters(checkpoint.metadata, norms, checkpoint.label)
    return {norm: Tensor.of(np.array(count, np.int64)) for norm, count in counts.items()}
