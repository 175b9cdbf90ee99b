"""From a layout's tensors to the canonical ones and on to another layout's; total, or it raises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from denseport.architecture import kind, layers
from denseport.checkpoint import Checkpoint, Tensor
from denseport.config import DenseNetConfig
from denseport.errors import LayoutError, UsageError
from denseport.layouts.detect import CLASSIFIER, Detection, detect
from denseport.layouts.frameworks import Framework
from denseport.layouts.spec import Layout, find_layout

COUNTERS = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """A DenseNet's weights in canonical names, axes and order.

    Attributes:
        config: The architecture.
        tensors: Every tensor of `architecture.shapes(config)`.
        counters: Step counters, () int64, by canonical normalisation, as far as the source has them.
    """

    config: DenseNetConfig
    tensors: Mapping[str, Tensor]
    counters: Mapping[str, Tensor] = field(default_factory=dict)

    def without_head(self) -> Weights:
        """The same net without its classifier."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(f"{CLASSIFIER}.")}
        return Weights(self.config.replace(num_classes=None), tensors, self.counters)

    def cast(self, dtype: np.dtype[Any]) -> Weights:
        """Every tensor rounded to a floating-point dtype, to nearest even; counters stay integers.

        Reading a tensor raises UsageError where a finite value is too large for `dtype`.
        """
        return Weights(self.config, {name: _cast(name, t, dtype) for name, t in self.tensors.items()}, self.counters)


def _cast(name: str, tensor: Tensor, dtype: np.dtype[Any]) -> Tensor:
    def read() -> np.ndarray:
        values = tensor.read()
        with np.errstate(over="ignore"):
            rounded = values.astype(dtype)
        if np.isfinite(values).all() and not np.isfinite(rounded).all():
            raise UsageError(f"{name} has values beyond the range of {dtype}; choose --dtype bfloat16 or float32")
        return rounded

    return tensor if tensor.dtype == dtype else Tensor(dtype, tensor.shape, read)


def to_canonical(checkpoint: Checkpoint, found: Detection) -> Weights:
    """The canonical weights of a checkpoint whose layout is known; nothing is read or copied yet."""
    tensors = {}
    for role, name in found.roles.items():
        tensor = checkpoint.tensors[name]
        axes = found.framework.to_canonical(kind(role.rpartition(".")[0]), len(tensor.shape))
        tensors[role] = tensor.transposed(axes)
    counters = {norm: checkpoint.tensors[name] for norm, name in found.counters.items()}
    return Weights(found.config, tensors, counters or _recorded_counters(checkpoint, found.config))


def from_canonical(weights: Weights, layout: Layout, framework: Framework) -> dict[str, Tensor]:
    """The tensors of a layout, in graph order and in its framework's names and axes.

    Raises:
        LayoutError: The layout has no name for one of the layers.
    """
    tensors: dict[str, Tensor] = {}
    for layer in layers(weights.config):
        own = layout.spell(layer.name)
        for parameter in layer.shapes:
            tensor = weights.tensors[f"{layer.name}.{parameter}"]
            axes = framework.from_canonical(layer.kind, len(tensor.shape))
            tensors[framework.spell(own, layer.kind, parameter)] = tensor.transposed(axes)
        if layer.kind == "norm" and framework.counter and layout.counters:
            counter = weights.counters.get(layer.name, Tensor.of(np.zeros((), np.int64)))
            tensors[f"{own}{framework.separator}{framework.counter}"] = counter
    return tensors


def counters_to_text(weights: Weights) -> str:
    """The step counters for a file that has no tensors for them: one number where all agree, "" where all are zero."""
    counts = {norm: int(tensor.read()) for norm, tensor in weights.counters.items()}
    norms = sum(layer.kind == "norm" for layer in layers(weights.config))
    if not any(counts.values()):
        return ""
    if len(counts) == norms and len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return json.dumps(counts)


def _recorded_counters(checkpoint: Checkpoint, config: DenseNetConfig) -> dict[str, Tensor]:
    """The step counters that an earlier conversion recorded as `counters_to_text` writes them."""
    text = checkpoint.metadata.get(COUNTERS, "")
    if not text:
        return {}
    norms = [layer.name for layer in layers(config) if layer.kind == "norm"]
    try:
        recorded = json.loads(text)
        counts = recorded if isinstance(recorded, dict) else dict.fromkeys(norms, recorded)
        return {norm: Tensor.of(np.array(int(counts[norm]), np.int64)) for norm in norms if norm in counts}
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise LayoutError(
            f"{checkpoint.path}: the recorded {COUNTERS} is neither a number nor a table of numbers; "
            "write the file again from its source"
        ) from None


def translate(
    tensors: Mapping[str, np.ndarray],
    from_layout: str | Path | None = None,
    to_layout: str | Path = "denseport",
) -> dict[str, np.ndarray]:
    """Renames and transposes the arrays of a DenseNet from one layout to another.

    Args:
        tensors: Every array of the net by its name in `from_layout`; left as they are.
        from_layout: A layout's name or TOML file; None detects it.
        to_layout: The same for the result.

    Returns:
        The arrays in `to_layout`, in graph order, with the parameter names and axes of its framework, or of the
        source's where the layout has several; dtypes are kept, and transposed kernels are views, not copies.

    Raises:
        LayoutError: A tensor is missing, unexpected or misshapen (all are named), or `to_layout` has no such layer.
    """
    checkpoint = Checkpoint({name: Tensor.of(np.asarray(array)) for name, array in tensors.items()})
    found = detect(checkpoint, from_layout)
    target = find_layout(to_layout)
    translated = from_canonical(to_canonical(checkpoint, found), target, target.framework_for(found.framework.name))
    return {name: tensor.read() for name, tensor in translated.items()}
