"""A DenseNet's weights in canonical form, what may be done to them exactly, and which of them look wrong."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from denseport.checkpoint import Tensor, pieces
from denseport.errors import UsageError
from denseport.net.config import DenseNetConfig, Inputs
from denseport.net.graph import CLASSIFIER, channels, layers, shapes


@dataclass(frozen=True)
class Weights:
    """A DenseNet's weights in canonical names, axes and order.

    Attributes:
        config: The architecture; its traits are those under which the weights mean what they do.
        tensors: Every tensor of `graph.shapes(config)`.
        counters: Step counters, () int64, by canonical normalisation, as far as the source has them.
    """

    config: DenseNetConfig
    tensors: Mapping[str, Tensor]
    counters: Mapping[str, Tensor] = field(default_factory=dict)

    def without_head(self) -> Weights:
        """The same net without its classifier."""
        config = self.config.without_head()
        left = {layer.name for layer in layers(config)}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name.rpartition(".")[0] in left}
        counters = {norm: tensor for norm, tensor in self.counters.items() if norm in left}
        return Weights(config, tensors, counters)

    def for_net(self, config: DenseNetConfig) -> Weights:
        """The same weights as a net takes them: without a classifier where it has none, in its order of concatenation.

        Args:
            config: The architecture that the weights have, perhaps without its classifier, and other traits perhaps.
        """
        ordered = self.concatenated(config.traits.concatenation)
        return replace(ordered.without_head() if config.num_classes is None else ordered, config=config)

    def with_new_head(self, num_classes: int) -> Weights:
        """The same net with a classifier of zeros: every logit is 0 until it is trained."""
        body = self.without_head()
        config = body.config.replace(num_classes=num_classes)
        dtype = next(iter(self.tensors.values())).dtype
        zeros = {
            name: Tensor(dtype, shape, lambda shape=shape: np.zeros(shape, dtype))  # type: ignore[misc]
            for name, shape in shapes(config).items()
            if name.startswith(f"{CLASSIFIER}.")
        }
        return Weights(config, {**body.tensors, **zeros}, body.counters)

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
        indices = new_first_order(self.config)
        for layer in layers(self.config):
            to_new_first = indices.get(layer.inputs[0])
            if to_new_first is None:
                continue
            index = to_new_first if order == "new-first" else np.argsort(to_new_first)
            is_norm = layer.kind == "norm"
            for name in (f"{layer.name}.{parameter}" for parameter in (layer.shapes if is_norm else ("weight",))):
                tensors[name] = _permuted(tensors[name], index, axis=0 if is_norm else 1)
        return replace(self, config=self.config.replace(concatenation=order), tensors=tensors)

    def with_inputs_folded(self) -> Weights:
        """The same function without inputs: the stem's kernel is multiplied by their scale, in their order of channels.

        Raises:
            UsageError: There are none, or they add an offset, which zero padding would not see.
        """
        inputs = self.config.inputs
        if inputs is None:
            raise UsageError(
                "its net does nothing to its image before the stem, so nothing can be folded; leave --fold-inputs out"
            )
        if any(inputs.offset):
            raise UsageError(
                f"its net computes {inputs.formula} of its image x; an offset cannot be folded into a convolution that "
                "pads with zeros; leave --fold-inputs out"
            )
        name = f"stem.conv{self.config.stem_numbers[0]}.weight"
        config = self.config.replace(inputs=None, in_channels=inputs.channels)
        folded = _folded(self.tensors[name], inputs)
        return replace(self, config=config, tensors={**self.tensors, name: folded})

    def with_epsilon(self, epsilon: float) -> Weights:
        """The same function at another epsilon: the difference goes into every running variance of the body.

        Reading a variance raises UsageError where it would become negative.
        """
        moved = self.config.traits.epsilon - epsilon
        config = self.config.replace(epsilon=epsilon)
        after = {node.name: node.epsilon for node in layers(config) if node.kind == "norm"}
        shifted = {
            f"{node.name}.running_var" for node in layers(self.config) if node.epsilon != after.get(node.name, 0)
        }
        tensors = {
            name: _shifted(name, tensor, moved) if name in shifted else tensor for name, tensor in self.tensors.items()
        }
        return replace(self, config=config, tensors=tensors)


@dataclass(frozen=True)
class Suspicion:
    """Tensors with values that catch the eye, by canonical name.

    Attributes:
        nonfinite: With NaN or Inf.
        negative_variance: Running variances below zero.
        denormal_variance: Running variances that are not zero but too small for full precision.
        dead: Normalisations with channels that give the same value whatever the image: their scale is zero.
    """

    nonfinite: tuple[str, ...] = ()
    negative_variance: tuple[str, ...] = ()
    denormal_variance: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()


@np.errstate(invalid="ignore")  # comparing a signalling NaN
def suspicious(weights: Weights) -> Suspicion:
    """Reads every tensor, one at a time, and names those with suspicious values."""
    found: dict[str, list[str]] = {"nonfinite": [], "negative_variance": [], "denormal_variance": [], "dead": []}
    for name, tensor in weights.tensors.items():
        values = tensor.read()
        if not all(np.isfinite(piece).all() for piece in pieces(values)):
            found["nonfinite"].append(name)
        if name.endswith(".running_var"):
            wide = values.astype(np.float64)
            if (wide < 0).any():
                found["negative_variance"].append(name)
            if ((wide > 0) & (wide < np.finfo(np.float32).tiny)).any():
                found["denormal_variance"].append(name)
        if ".norm" in name and name.endswith(".weight") and not values.all():
            found["dead"].append(name)
    return Suspicion(**{kind: tuple(names) for kind, names in found.items()})


@lru_cache(maxsize=1)
def new_first_order(config: DenseNetConfig) -> Mapping[str, np.ndarray]:
    """By node whose channels several layers made, the index that takes them from `old-first` to `new-first`."""
    old, new = (channels(config.replace(concatenation=order)) for order in ("old-first", "new-first"))
    indices: dict[str, np.ndarray] = {}
    made, index = None, np.empty(0)
    for node, parts in old.items():
        if len(parts) == 1:
            continue
        if parts is not made:  # a normalisation has the channels of what it reads
            counts = dict(_told_apart(parts))
            ends = dict(zip(counts, itertools.accumulate(counts.values()), strict=True))
            ordered = _told_apart(new[node])
            index = np.concatenate([np.arange(ends[maker] - count, ends[maker]) for maker, count in ordered])
            made = parts
        indices[node] = index
    return MappingProxyType(indices)


def _told_apart(parts: tuple[tuple[str, int], ...]) -> list[tuple[tuple[str, int], int]]:
    """Makers of channels, each with how often it was there before, which joined pools have twice."""
    before = Counter[str]()
    found = []
    for maker, count in parts:
        found.append(((maker, before[maker]), count))
        before[maker] += 1
    return found


def _permuted(tensor: Tensor, index: np.ndarray, axis: int) -> Tensor:
    """A tensor with its channels taken in another order; a flattened head has several positions a channel."""

    def read() -> np.ndarray:
        values = tensor.read()
        positions = values.shape[axis] // len(index)
        if positions == 1:
            return values.take(index, axis)
        split = (*values.shape[:axis], len(index), positions, *values.shape[axis + 1 :])
        return values.reshape(split).take(index, axis).reshape(values.shape)

    return Tensor(tensor.dtype, tensor.shape, read)


def _folded(kernel: Tensor, inputs: Inputs) -> Tensor:
    """A kernel (O, I, *spatial) that makes of an image what the given one makes of the inputs of it."""

    def read() -> np.ndarray:
        values = kernel.read().astype(np.float64)
        made = np.zeros((values.shape[0], inputs.channels, *values.shape[2:]))
        for n, (channel, scale) in enumerate(zip(inputs.order, inputs.scale, strict=True)):
            made[:, channel] += values[:, n] * scale
        return made.astype(kernel.dtype)

    return Tensor(kernel.dtype, (kernel.shape[0], inputs.channels, *kernel.shape[2:]), read)


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
