"""The layers behind a net's pool in a file of weights: their order, and what stands between them and has no weights."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from denseport.checkpoint import Tensor
from denseport.errors import quoted
from denseport.layouts.frameworks import COUNTER, TORCH, Framework
from denseport.net.config import DenseNetConfig, HeadLayer, Hidden
from denseport.net.graph import CLASSIFIER, PARAMETERS, Kind

# The children of an `nn.Sequential`, and the layers of a head as denseport calls them: numbers are places.
PLACED = re.compile(r"(.*\.)?(\d{1,2})|(.*[./])?head[._](?:dense|norm)(\d{1,2})")
NUMBER = re.compile(r"(\d+)")
BEHIND_THE_POOL = "behind the pool stand"
# No head that people have holds as many layers with weights.
MOST_LAYERS = 12
# As many are tried in every order.
MOST_UNORDERED = 7


@dataclass(frozen=True)
class Layer:
    """A layer of a file that may be one of its head's.

    Attributes:
        name: What the file calls it.
        kind: What it computes.
        entering: The features that it takes, and `leaving` those that it gives.
        parameters: The names of its tensors by their canonical parameters.
    """

    name: str
    kind: Literal["dense", "norm"]
    entering: int
    leaving: int
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Head:
    """The head of a net.

    Attributes:
        layers: As in `DenseNetConfig.head_layers`; () for a single dense layer.
        of_file: The layers of the file by the canonical names that they are given.
        classes: The outputs of its last dense layer, and `bias` whether that has one.
    """

    layers: tuple[HeadLayer, ...]
    of_file: Mapping[str, Layer]
    classes: int
    bias: bool


def as_layer(
    name: str, parameters: Mapping[str, str], tensors: Mapping[str, Tensor], framework: Framework
) -> Layer | None:
    """A layer of a file as one of a head's, or None where it is neither dense nor a normalisation."""
    named = {framework.canonical_parameter("dense", parameter): tensor for parameter, tensor in parameters.items()}
    if named.keys() in ({"weight"}, {"weight", "bias"}):
        shape = without_window(framework.canonical_shape("dense", tensors[named["weight"]].shape), "dense")
        if len(shape) == 2 and all(shape):
            return Layer(name, "dense", shape[1], shape[0], {str(each): tensor for each, tensor in named.items()})
    named = {framework.canonical_parameter("norm", parameter): tensor for parameter, tensor in parameters.items()}
    if named.keys() - {COUNTER} == set(PARAMETERS["norm"]) and len(shape := tensors[named["weight"]].shape) == 1:
        width = shape[0]
        return Layer(name, "norm", width, width, {str(each): tensor for each, tensor in named.items()})
    return None


def without_window(shape: tuple[int, ...], of: Kind) -> tuple[int, ...]:
    """The canonical shape of a dense layer's kernel where that is a convolution of 1x1 in the file."""
    return shape[:2] if of == "dense" and len(shape) > 2 and set(shape[2:]) == {1} else shape


def read(
    layers: Sequence[Layer | None],
    config: DenseNetConfig,
    hidden: Hidden,
    framework: Framework,
    *,
    recorded: Sequence[HeadLayer],
    ordered: bool,
) -> Head | None:
    """The head that layers of a file are, or None where they are none.

    Args:
        layers: Layers of the file; None stands for one that no head has.
        config: The net without them; the first layer takes a multiple of its features.
        hidden: What stands between layers with weights, where there is room for it.
        framework: Whose conventions the file has.
        recorded: The layers of the head that an earlier conversion recorded; () where it recorded none.
        ordered: Whether data goes through the layers in the order of the file.
    """
    known = [layer for layer in layers if layer]
    if not known or len(known) < len(layers) or len(known) > MOST_LAYERS:
        return None
    chain = _in_order(known, config.features, ordered=ordered)
    last = next((layer for layer in reversed(chain) if layer.kind == "dense"), None)
    if last is None:
        return None
    if recorded:
        placed = [(n, layer) for n, layer in enumerate(recorded) if layer.kind in ("dense", "norm")]
        if [_signature(layer) for layer in chain] != [_signature_of(layer) for _, layer in placed]:
            return None
        found, numbers = tuple(recorded), [n for n, _ in placed]
    elif len(chain) == 1:
        return Head((), {CLASSIFIER: last}, last.leaving, "bias" in last.parameters)
    else:
        numbers = _places(chain) or _usual_places(chain, last, norm_first=framework is TORCH)
        found = _filled(chain, numbers, hidden, config.traits.negative_slope)
    of_file = {f"head.{layer.kind}{number}": layer for layer, number in zip(chain, numbers, strict=True)}
    return Head(found, of_file, last.leaving, True)


def _signature(layer: Layer) -> tuple[object, ...]:
    """What the parameters of a layer show of it."""
    return (layer.kind, layer.leaving, "bias" in layer.parameters) if layer.kind == "dense" else (layer.kind,)


def _signature_of(layer: HeadLayer) -> tuple[object, ...]:
    return (layer.kind, layer.width, layer.bias) if layer.kind == "dense" else (layer.kind,)


def _filled(
    chain: Sequence[Layer], numbers: Sequence[int], hidden: Hidden, negative_slope: float
) -> tuple[HeadLayer, ...]:
    """The layers of a head: in what is left free between two dense ones an activation comes first, then dropout."""
    between = HeadLayer("activation", activation=hidden.hidden_activation, negative_slope=negative_slope)
    last = [layer for layer in chain if layer.kind == "dense"][-1]
    found: list[HeadLayer] = []
    bare = False  # whether a dense layer's activation has yet to come
    for layer, number in zip(chain, numbers, strict=True):
        while len(found) < number:
            found.append(between if bare else HeadLayer("dropout"))
            bare = False
        if layer.kind == "dense":
            found.append(HeadLayer("dense", layer.leaving, bias="bias" in layer.parameters))
            bare = layer is not last
        else:
            found.append(HeadLayer("norm", epsilon=hidden.hidden_epsilon))
    return tuple(found)


def _in_order(layers: list[Layer], features: int, *, ordered: bool) -> list[Layer]:
    """The layers in the order in which data goes through them; none where there is no such order, or no single one.

    Numbers of places decide, else the order of the file where that is one, else what a layer takes and the one before
    it gives; where several orders are left, numbers in names count up.
    """
    if places := _places(layers):
        placed = [layer for _, layer in sorted(zip(places, layers, strict=True), key=lambda pair: pair[0])]
        return placed if _is_chain(placed, features) else []
    if ordered and _is_chain(layers, features):
        return layers
    if len(layers) > MOST_UNORDERED:
        return []
    ways = list(itertools.islice(_chains([], layers, features), 100))
    counted = [way for way in ways if _counts_up(way)]
    return next((found[0] for found in (ways, counted) if len(found) == 1), [])


def _is_chain(ordered: Sequence[Layer], features: int) -> bool:
    widths = all(after.entering == before.leaving for before, after in itertools.pairwise(ordered))
    return widths and ordered[0].entering % features == 0


def _chains(chain: list[Layer], left: list[Layer], features: int) -> Iterator[list[Layer]]:
    """Every order in which a layer takes what the one before it gives."""
    if not left:
        yield chain
    for n, layer in enumerate(left):
        if layer.entering == chain[-1].leaving if chain else layer.entering % features == 0:
            yield from _chains([*chain, layer], [*left[:n], *left[n + 1 :]], features)


def _counts_up(chain: Sequence[Layer]) -> bool:
    """Whether the numbers in the names of dense layers count up, and those of normalisations."""
    for kind in ("dense", "norm"):
        numbers = [[int(part) for part in NUMBER.findall(layer.name)] for layer in chain if layer.kind == kind]
        if numbers != sorted(numbers):
            return False
    return True


def _places(layers: Sequence[Layer]) -> list[int]:
    """The places in one sequence that names are numbered by; none where they are not."""
    found = [PLACED.fullmatch(layer.name) for layer in layers]
    parents = {(each[1], each[3]) for each in found if each}
    numbers = [int(each[2] or each[4]) for each in found if each]
    return numbers if len(numbers) == len(layers) == len(set(numbers)) and len(parents) == 1 else []


def _usual_places(chain: Sequence[Layer], last: Layer, *, norm_first: bool) -> list[int]:
    """Places with room for one activation behind each dense layer but the last, before or behind a norm."""
    places: list[int] = []
    bare = False
    for layer in chain:
        room = bare and (layer.kind == "dense" or not norm_first)
        places.append((places[-1] + 1 if places else 0) + room)
        bare = layer is not last if layer.kind == "dense" else bare and not room
    return places


def told(head: Head, hidden: Hidden, stated: Mapping[str, object]) -> str:
    """What a user should know of a head of several layers: how it was read, and what nobody states."""
    traits = {"activation": "hidden_activation", "norm": "hidden_epsilon"}
    unstated = {trait for layer in head.layers if (trait := traits.get(layer.kind)) and trait not in stated}
    assumed = " and ".join(f"{trait} {getattr(hidden, trait)}" for trait in sorted(unstated))
    remedy = (
        f"; assumed, since weights do not show it: {assumed}; state another with --trait {min(unstated)}=VALUE"
        if unstated
        else ""
    )
    names = {canonical: layer.name for canonical, layer in head.of_file.items()}
    return f"{BEHIND_THE_POOL} {in_words(head.layers, names)}{remedy}"


def in_words(layers: Sequence[HeadLayer], names: Mapping[str, str]) -> str:
    """The layers of a head, those that have parameters by their names in a file."""
    words = []
    for n, layer in enumerate(layers):
        what: str = layer.activation if layer.kind == "activation" else layer.kind
        if layer.kind == "dense":
            what += f" of {layer.width:,} outputs{'' if layer.bias else ' without bias'}"
        name = names.get(f"head.{layer.kind}{n}")
        words.append(f"{quoted(name)} ({what})" if name else what)
    return ", ".join(words)
