"""How each framework names a layer's parameters and orders their axes: written once, permutations computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType

from denseport.net.graph import PARAMETERS, Kind

# The canonical name of a normalisation's step counter, which takes no part in inference.
COUNTER = "num_batches_tracked"
SPATIAL = {1: "W", 2: "HW", 3: "DHW"}
CANONICAL_AXES: Mapping[Kind, str] = MappingProxyType({"conv": "OI*", "dense": "OI"})

Groups = Mapping[str, Mapping[str, str]]

# Keras 1 has no separator: convolution2d_1_W, batchnormalization_1_running_std, conv1_scale_gamma.
KERAS_1 = re.compile(r"(.+)_(W|b|gamma|beta|running_mean|running_std)")


@dataclass(frozen=True)
class Framework:
    """A framework's conventions for layers with parameters.

    Attributes:
        name: `torch`, `keras` or `theano`, which is Keras on Theano with channels first.
        runs_in: The framework of today that computes with such weights, `torch` or `keras`.
        separator: Between a layer's name and its parameter's.
        parameters: For each kind of layer, its parameter names in the order of `graph.PARAMETERS`.
        axes: The axis letters of a kernel for each kind that has one; `*` stands for the spatial axes.
        flattened: The order in which positions (`*`) and channels (`C`) are flattened before a dense layer.
        epsilon: The epsilon of its normalisations by default.
        counter: The name of a normalisation's step counter, or "".
        aliases: Other names under which a parameter is read, to its name in `parameters`.
        rotated: Whether kernels are turned by 180 degrees, since the framework convolves where others correlate.
    """

    name: str
    runs_in: str
    separator: str
    parameters: Mapping[Kind, tuple[str, ...]]
    axes: Mapping[Kind, str]
    flattened: str
    epsilon: float
    counter: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    rotated: bool = False

    def spell(self, layer: str, kind: Kind, parameter: str) -> str:
        """The tensor name for a canonical parameter of a layer that already has this framework's name."""
        return f"{layer}{self.separator}{self.parameters[kind][PARAMETERS[kind].index(parameter)]}"

    def split(self, name: str) -> tuple[str, str]:
        """A tensor name as layer and parameter; the layer is "" where there is none."""
        layer, _, parameter = name.rpartition(self.separator)
        if self.aliases and not layer and (found := KERAS_1.fullmatch(name)):
            return found[1], found[2]
        # Custom layers of Keras 2 repeat the layer's name: conv1_scale/conv1_scale_gamma.
        repeated = f"{layer.rpartition(self.separator)[2]}_"
        return layer, parameter.removeprefix(repeated) if self.aliases else parameter

    def grouped(self, originals: Mapping[str, str]) -> Groups:
        """Tensor names by layer and parameter; `originals` gives what each name is in the file."""
        groups: dict[str, dict[str, str]] = {}
        for name, original in originals.items():
            layer, parameter = self.split(name)
            groups.setdefault(layer, {})[parameter] = original
        return groups

    def canonical_parameter(self, kind: Kind, parameter: str) -> str | None:
        """The canonical name of this framework's parameter, or None where such a layer has none of that name."""
        if kind == "norm" and self.counter and parameter == self.counter:
            return COUNTER
        names, parameter = self.parameters[kind], self.aliases.get(parameter, parameter)
        return PARAMETERS[kind][names.index(parameter)] if parameter in names else None

    def canonical_shape(self, kind: Kind, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A tensor's shape in canonical axis order."""
        if kind == "dense" and len(shape) > 2:  # a convolution of 1x1 behind a pool
            return self.canonical_shape("conv", shape)
        return shape if len(shape) < 2 else tuple(shape[axis] for axis in self.to_canonical(kind, len(shape)))

    def native_shape(self, kind: Kind, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A canonical shape in this framework's axis order."""
        return shape if len(shape) < 2 else tuple(shape[axis] for axis in self.from_canonical(kind, len(shape)))

    def to_canonical(self, kind: Kind, rank: int) -> tuple[int, ...]:
        """The axes to transpose by, from this framework's order to the canonical one, for a tensor of that rank."""
        return _permutation(self.axes.get(kind, ""), CANONICAL_AXES.get(kind, ""), rank)

    def from_canonical(self, kind: Kind, rank: int) -> tuple[int, ...]:
        """The inverse of `to_canonical`."""
        return _permutation(CANONICAL_AXES.get(kind, ""), self.axes.get(kind, ""), rank)


@lru_cache
def _permutation(source: str, target: str, rank: int) -> tuple[int, ...]:
    """Axes for `numpy.transpose`; the identity where a tensor of that rank is no kernel (a bias, a statistic)."""
    spatial = SPATIAL.get(rank - 2, "")
    source, target = source.replace("*", spatial), target.replace("*", spatial)
    if rank != len(target) or rank < 2:
        return tuple(range(rank))
    return tuple(source.index(letter) for letter in target)


TORCH = Framework(
    name="torch",
    runs_in="torch",
    separator=".",
    parameters=PARAMETERS,
    axes=CANONICAL_AXES,
    flattened="C*",
    epsilon=1e-5,
    counter=COUNTER,
)

KERAS = Framework(
    name="keras",
    runs_in="keras",
    separator="/",
    parameters={
        "conv": ("kernel", "bias"),
        "norm": ("gamma", "beta", "moving_mean", "moving_variance"),
        "dense": ("kernel", "bias"),
    },
    axes={"conv": "*IO", "dense": "IO"},
    flattened="*C",
    epsilon=1e-3,
    # Keras 1's names; what it called a standard deviation has always been the variance.
    aliases={"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"},
)

THEANO = replace(KERAS, name="theano", axes={"conv": "OI*", "dense": "IO"}, flattened="C*", rotated=True)

# Keras 2 has its axes on every backend, but the kernels are Theano's all the same.
KERAS_ON_THEANO = replace(KERAS, rotated=True)

FRAMEWORKS: Mapping[str, Framework] = MappingProxyType({"torch": TORCH, "keras": KERAS, "theano": THEANO})
