"""Weights that PyTorch keeps in parts and computes when a net runs: pruned ones, and normalised ones.

Source: torch/nn/utils/prune.py `BasePruningMethod.apply_mask`, weight_norm.py, spectral_norm.py, parametrizations.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import numpy as np

from denseport.checkpoint import Tensor
from denseport.errors import listed

Shape = tuple[int, ...]


def _pruned(original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    kept: np.ndarray = original * mask
    return kept


def _weight_normed(magnitude: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The direction at the length that the magnitude says, along each axis on which that has one value."""
    one = magnitude.ndim < direction.ndim  # for all axes
    axes = tuple(axis for axis in range(direction.ndim) if one or magnitude.shape[axis] == 1)
    normed: np.ndarray = direction * (magnitude / np.sqrt((direction**2).sum(axes, keepdims=True)))
    return normed


def _spectrally_normed(original: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The matrix divided by its largest singular value, to which the two vectors belong."""
    weight: np.ndarray = original / (left @ original.reshape(len(original), -1) @ right)
    return weight


def _fit_pruned(original: Shape, mask: Shape) -> bool:
    return original == mask


def _fit_weight_norm(magnitude: Shape, direction: Shape) -> bool:
    if prod(magnitude) == 1:
        return True
    return len(magnitude) == len(direction) and all(a in (1, b) for a, b in zip(magnitude, direction, strict=True))


def _fit_spectral_norm(original: Shape, left: Shape, right: Shape) -> bool:
    return bool(original) and left == original[:1] and right == (prod(original[1:]),)


@dataclass(frozen=True)
class Way:
    """One way in which a weight is kept: the ends of its parts' names, and what is made of them.

    Attributes:
        parts: With which the names of the parts end; `{}` is the weight's own name. The part at `whole` has its shape.
        compute: The weight of the parts' values.
        fit: Whether parts of such shapes make one.
        words: What a note calls it.
    """

    parts: tuple[str, ...]
    whole: int
    compute: Callable[..., np.ndarray]
    fit: Callable[..., bool]
    words: str


_PARAMETRIZED = "parametrizations.{}."
WAYS = (
    Way(("{}_orig", "{}_mask"), 0, _pruned, _fit_pruned, "pruned by its mask"),
    Way(("{}_g", "{}_v"), 1, _weight_normed, _fit_weight_norm, "of weight normalisation"),
    Way(("{}_orig", "{}_u", "{}_v"), 0, _spectrally_normed, _fit_spectral_norm, "of spectral normalisation"),
    Way(
        (f"{_PARAMETRIZED}original0", f"{_PARAMETRIZED}original1"),
        1,
        _weight_normed,
        _fit_weight_norm,
        "of weight normalisation",
    ),
    Way(
        (f"{_PARAMETRIZED}original", f"{_PARAMETRIZED}0._u", f"{_PARAMETRIZED}0._v"),
        0,
        _spectrally_normed,
        _fit_spectral_norm,
        "of spectral normalisation",
    ),
)
OWN_NAMES = ("weight", "bias")


def computed(tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """The tensors, with each weight that is kept in parts in their place, and what a user should know of that.

    A weight is computed in float64 and has the dtype of the part with its shape.
    """
    instead: dict[str, tuple[str, Tensor]] = {}
    gone: set[str] = set()
    notes = []
    for way in WAYS:
        found = [name for own in OWN_NAMES for name in _weights(tensors, way, own, gone, instead)]
        if found:
            notes.append(f"computed from their parts as PyTorch does, {way.words}: {listed(found, 4)}")
    if not instead:
        return tensors, ()
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in instead:
            made[instead[name][0]] = instead[name][1]
        elif name not in gone:
            made[name] = tensor
    return MappingProxyType(made), tuple(notes)


def _weights(
    tensors: Mapping[str, Tensor], way: Way, own: str, gone: set[str], instead: dict[str, tuple[str, Tensor]]
) -> list[str]:
    """The weights that are kept in one way; their parts are `gone`, and `instead` of the first stands the weight."""
    ends = [part.format(own) for part in way.parts]
    found = []
    for first in tensors:
        layer = first.removesuffix(ends[0])
        if first in gone or layer == first or not (layer == "" or layer.endswith(".")):
            continue
        parts = [f"{layer}{end}" for end in ends]
        name = f"{layer}{own}"
        if name in tensors or not all(part in tensors and part not in gone for part in parts):
            continue
        kinds = {tensors[part].dtype.kind for part in parts}
        if not way.fit(*(tensors[part].shape for part in parts)) or not kinds <= {*"fVb"}:
            continue
        instead[first] = name, _computed(way, [tensors[part] for part in parts])
        gone.update(parts)
        found.append(name)
    return found


def _computed(way: Way, parts: list[Tensor]) -> Tensor:
    whole = parts[way.whole]

    def read() -> np.ndarray:
        with np.errstate(all="ignore"):  # what is not finite is found and said where values are looked at
            values = [part.read().astype(np.float64) for part in parts]
            return way.compute(*values).astype(whole.dtype)

    return Tensor(whole.dtype, whole.shape, read)
