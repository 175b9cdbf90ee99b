"""A DenseNet's weights in canonical form, and what may be done to them exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from denseport.checkpoint import Tensor
from denseport.errors import UsageError
from denseport.net.architecture import CLASSIFIER, PARAMETERS, kind, shapes
from denseport.net.config import DenseNetConfig


@dataclass(frozen=True)
class Weights:
    """A DenseNet's weights in canonical names, axes and order.

    Attributes:
        config: The architecture; its traits are those under which the weights mean what they do.
        tensors: Every tensor of `architecture.shapes(config)`.
        counters: Step counters, () int64, by canonical normalisation, as far as the source has them.
    """

    config: DenseNetConfig
    tensors: Mapping[str, Tensor]
    counters: Mapping[str, Tensor] = field(default_factory=dict)

    def without_head(self) -> Weights:
        """The same net without its classifier."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(f"{CLASSIFIER}.")}
        return Weights(self.config.without_head(), tensors, self.counters)

    def with_new_head(self, num_classes: int) -> Weights:
        """The same net with a classifier of zeros: every logit is 0 until it is trained."""
        config = self.config.replace(num_classes=num_classes, head_shape=())
        dtype = next(iter(self.tensors.values())).dtype
        zeros = {
            name: Tensor(dtype, shape, lambda shape=shape: np.zeros(shape, dtype))  # type: ignore[misc]
            for name, shape in shapes(config).items()
            if name.startswith(f"{CLASSIFIER}.")
        }
        return Weights(config, {**self.without_head().tensors, **zeros}, self.counters)

    def cast(self, dtype: np.dtype[Any]) -> Weights:
        """Every tensor rounded to a floating-point dtype, to nearest even; counters stay integers.

        Reading a tensor raises UsageError where a finite value is too large for `dtype`.
        """
        return replace(self, tensors={name: _cast(name, tensor, dtype) for name, tensor in self.tensors.items()})

    def concatenated(self, order: Literal["old-first", "new-first"]) -> Weights:
        """The same function with dense layers that append their features (`old-first`) or prepend them (`new-first`).

        Every normalisation, convolution and classifier behind a dense layer has its input channels permuted, exactly
        and reversibly.
        """
        if order == self.config.traits.concatenation:
            return self
        tensors = dict(self.tensors)
        for layer, to_new_first in new_first_channels(self.config):
            index = to_new_first if order == "new-first" else np.argsort(to_new_first)
            is_norm = kind(layer) == "norm"
            for name in (f"{layer}.{parameter}" for parameter in (PARAMETERS["norm"] if is_norm else ("weight",))):
                if name in tensors:
                    tensors[name] = _permuted(tensors[name], index, axis=0 if is_norm else 1)
        return replace(self, config=self.config.replace(concatenation=order), tensors=tensors)

    def with_epsilon(self, epsilon: float) -> Weights:
        """The same function at another epsilon: the difference goes into every running variance.

        Reading a variance raises UsageError where it would become negative.
        """
        moved = self.config.traits.epsilon - epsilon
        tensors = {
            name: _shifted(name, tensor, moved) if name.endswith(".running_var") else tensor
            for name, tensor in self.tensors.items()
        }
        return replace(self, config=self.config.replace(epsilon=epsilon), tensors=tensors)


def new_first_channels(config: DenseNetConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Each layer that sees concatenated channels, with the index that takes them from `old-first` to `new-first`."""
    for layer, parts in _inputs(config):
        yield layer, np.concatenate([np.arange(start, stop) for start, stop in reversed(parts)])


def _inputs(config: DenseNetConfig) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Each layer that sees concatenated channels, with the range of each part, the block's own input first."""
    entered = config.stem_widths[-1]
    for b, count in enumerate(config.block_config, 1):
        parts = [(0, entered)]
        for n in range(1, count + 1):
            for layer in ("norm1", "conv1"):
                yield f"block{b}.layer{n}.{layer}", list(parts)
            parts.append((parts[-1][1], parts[-1][1] + config.growth_rate))
        behind = (f"transition{b}.norm", f"transition{b}.conv") if b < config.blocks else ("head.norm", CLASSIFIER)
        for layer in behind:
            yield layer, parts
        entered = config.transition_widths[b - 1] if b < config.blocks else 0


def _permuted(tensor: Tensor, index: np.ndarray, axis: int) -> Tensor:
    """A tensor with its channels taken in another order; a flattened head has several positions a channel."""

    def read() -> np.ndarray:
        values = tensor.read()
        positions = values.shape[axis] // len(index)
        if positions == 1:
            return values.take(index, axis)
        return values.reshape(values.shape[0], len(index), positions).take(index, 1).reshape(values.shape)

    return Tensor(tensor.dtype, tensor.shape, read)


def _cast(name: str, tensor: Tensor, dtype: np.dtype[Any]) -> Tensor:
    def rounded(values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = values.astype(dtype)
        if (np.isfinite(values) & ~np.isfinite(narrow)).any():
            raise UsageError(f"{name} has values beyond the range of {dtype}; choose --dtype bfloat16 or float32")
        return narrow

    return tensor if tensor.dtype == dtype else Tensor(dtype, tensor.shape, _then(tensor, rounded))


def _shifted(name: str, tensor: Tensor, by: float) -> Tensor:
    def moved(values: np.ndarray) -> np.ndarray:
        shifted = (values.astype(np.float64) + by).astype(values.dtype)
        if (shifted < 0).any():
            raise UsageError(f"{name} would become negative by {-by:.1e}, so --compensate-epsilon cannot be used")
        return shifted

    return Tensor(tensor.dtype, tensor.shape, _then(tensor, moved))


def _then(tensor: Tensor, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: change(tensor.read())
