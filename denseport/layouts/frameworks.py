"""How each framework names a layer's parameters and orders their axes: written once, permutations computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from denseport.architecture import PARAMETERS, Kind

SPATIAL = {1: "W", 2: "HW", 3: "DHW"}
CANONICAL_AXES: Mapping[Kind, str] = MappingProxyType({"conv": "OI*", "dense": "OI"})


@dataclass(frozen=True)
class Framework:
    """A framework's conventions for layers with parameters.

    Attributes:
        name: `torch` or `keras`.
        separator: Between a layer's name and its parameter's.
        parameters: For each kind of layer, its own parameter names in the order of `architecture.PARAMETERS`.
        axes: The axis letters of a kernel for each kind that has one; `*` stands for the spatial axes.
        counter: The name of a normalisation's step counter, which takes no part in inference, or "".
    """

    name: str
    separator: str
    parameters: Mapping[Kind, tuple[str, ...]]
    axes: Mapping[Kind, str]
    counter: str = ""

    def spell(self, layer: str, kind: Kind, parameter: str) -> str:
        """The tensor name for a canonical parameter of a layer that already has this framework's name."""
        return f"{layer}{self.separator}{self.parameters[kind][PARAMETERS[kind].index(parameter)]}"

    def split(self, name: str) -> tuple[str, str]:
        """A tensor name as layer and parameter; the layer is "" where there is none."""
        layer, _, parameter = name.rpartition(self.separator)
        return layer, parameter

    def canonical_parameter(self, kind: Kind, parameter: str) -> str | None:
        """The canonical name of this framework's parameter, or None where such a layer has none of that name."""
        own = self.parameters[kind]
        return PARAMETERS[kind][own.index(parameter)] if parameter in own else None

    def to_canonical(self, kind: Kind, rank: int) -> tuple[int, ...]:
        """The axes to transpose by, from this framework's order to the canonical one, for a tensor of that rank."""
        return _permutation(self.axes.get(kind, ""), CANONICAL_AXES.get(kind, ""), rank)

    def from_canonical(self, kind: Kind, rank: int) -> tuple[int, ...]:
        """The inverse of `to_canonical`."""
        return _permutation(CANONICAL_AXES.get(kind, ""), self.axes.get(kind, ""), rank)


def _permutation(source: str, target: str, rank: int) -> tuple[int, ...]:
    """Axes for `numpy.transpose`; the identity where a tensor of that rank is no kernel (a bias, a statistic)."""
    spatial = SPATIAL.get(rank - 2, "")
    source, target = source.replace("*", spatial), target.replace("*", spatial)
    if rank != len(target) or rank < 2:
        return tuple(range(rank))
    return tuple(source.index(letter) for letter in target)


TORCH = Framework(
    name="torch",
    separator=".",
    parameters={
        "conv": ("weight", "bias"),
        "norm": ("weight", "bias", "running_mean", "running_var"),
        "dense": ("weight", "bias"),
    },
    axes={"conv": "OI*", "dense": "OI"},
    counter="num_batches_tracked",
)

KERAS = Framework(
    name="keras",
    separator="/",
    parameters={
        "conv": ("kernel", "bias"),
        "norm": ("gamma", "beta", "moving_mean", "moving_variance"),
        "dense": ("kernel", "bias"),
    },
    axes={"conv": "*IO", "dense": "IO"},
)

FRAMEWORKS: Mapping[str, Framework] = MappingProxyType({"torch": TORCH, "keras": KERAS})
