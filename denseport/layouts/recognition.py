"""A DenseNet under names that no layout has: each layer's role by shapes, and by the order that names or file give.

A DenseNet's shapes are rigid. Kernels of 3x3 make the dense layers, 1x1 ones the bottlenecks and transitions, and how
many channels each takes says where it stands. What shapes leave open, names decide: a normalisation belongs to the
convolution whose name begins most like its own.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import LayoutError, listed, quoted
from denseport.evidence import EXCHANGED, Evidence, Norm, examine, grouped
from denseport.layouts.detection import Detection
from denseport.layouts.frameworks import KERAS, KERAS_ON_THEANO, TORCH, Framework, Groups
from denseport.layouts.inference import RANKS
from denseport.layouts.match import match
from denseport.layouts.spec import BY_SHAPE
from denseport.layouts.statistics import by_statistics
from denseport.layouts.traits import Said
from denseport.layouts.translate import to_canonical
from denseport.net.graph import CLASSIFIER, PARAMETERS, Kind

WORDS = re.compile(r"[^A-Za-z0-9]+")
NUMBERS = re.compile(r"(\d+)")
# Where the last normalisation stands, and the stem's.
HEAD, STEM = "head.norm", "stem.norm"
# What Keras does where nothing is said.
USUAL_OF_KERAS: Mapping[str, Any] = {"epsilon": 1e-3, "padding": "same"}
# Names that lead astray in more places are no names to go by.
MOST_EXCHANGED = 16


@dataclass(frozen=True)
class Layer:
    """A layer of unknown role: its name, its kind, and the canonical shape of its kernel or scale."""

    name: str
    kind: Kind
    shape: tuple[int, ...]

    @property
    def is_wide(self) -> bool:
        """Whether it is a convolution that sees neighbours."""
        return self.kind == "conv" and max(self.shape[2:]) > 1

    def likeness(self, other: Layer) -> int:
        """How many words two names begin with alike."""
        words = zip(WORDS.split(self.name), WORDS.split(other.name), strict=False)
        return next((n for n, (a, b) in enumerate(words) if a != b), len(WORDS.split(self.name)))


def recognise(checkpoint: Checkpoint, names: Sequence[str], said: Said, *, drop_head: bool) -> Detection:
    """The net that some tensors of a checkpoint are, whatever their names.

    Args:
        checkpoint: The file.
        names: Those of its tensors that belong to the net.
        said: Traits that the file or the user states.
        drop_head: Whether dense layers beside the body may be left out.

    Raises:
        LayoutError: They are no DenseNet; the message names the first layer that breaks the pattern.
    """
    framework = KERAS if all("/" in name for name in names) else TORCH
    framework = KERAS_ON_THEANO if framework is KERAS and checkpoint.backend == "theano" else framework
    layers, groups, dropped = [], dict[str, Mapping[str, str]](), list[str]()
    for name, parameters in framework.grouped(dict(zip(names, names, strict=True))).items():
        if kind := kind_of(checkpoint, parameters, framework):
            layer = Layer(name, kind[0], framework.canonical_shape(*kind))
            alike = {checkpoint.tensors[each].shape for each in _values(layer, parameters, framework)}
            if len(kind[1]) not in RANKS[kind[0]] or not all(kind[1]) or len(set(layer.shape[2:])) > 1:
                raise LayoutError(f"{quoted(name)} has a kernel or scale of shape {kind[1]}")
            if len(alike) > 1:
                raise LayoutError(f"the parameters of {quoted(name)} are not alike: {listed(map(str, alike))}")
            groups[name] = parameters
            layers.append(layer)
        elif all(_computes_nothing(checkpoint.tensors[each]) for each in parameters.values()):
            dropped += parameters.values()
        else:
            raise LayoutError(f"{quoted(name or names[0])} is no convolution, normalisation or dense layer")
    usual: Said = {"usual": USUAL_OF_KERAS} if framework.runs_in == "keras" else {}

    def matched(named: Mapping[str, str | None]) -> Detection:
        found = match(checkpoint, BY_SHAPE, framework, groups, {**said, **usual}, drop_head=drop_head, named=named)
        return replace(found, dropped=(*found.dropped, *dropped))

    try:
        by_names, why = _settled(matched(recognised(layers)), checkpoint), ""
    except LayoutError as error:
        by_names, why = None, str(error)
    if by_names and _evidence(by_names, checkpoint).fit.holds:
        return by_names
    try:
        testified = _by_statistics(layers, checkpoint, groups, framework)
        shown = matched({**dict.fromkeys(groups), **testified})
    except LayoutError:
        shown = None
    if shown and _evidence(shown, checkpoint).fit.holds:
        return shown
    if by_names is None:
        raise LayoutError(why)
    return by_names


def _evidence(found: Detection, checkpoint: Checkpoint) -> Evidence:
    """What the weights say of a net."""
    return examine(found.config.without_head(), to_canonical(checkpoint, found).tensors)


@np.errstate(all="ignore")  # weights that are not finite show nothing, and are named elsewhere
def _by_statistics(
    layers: Sequence[Layer], checkpoint: Checkpoint, groups: Groups, framework: Framework
) -> dict[str, str]:
    """The canonical name of each layer as its statistics say it, and of the one dense layer."""
    norms, narrow, wide = dict[str, Norm](), dict[str, np.ndarray](), dict[str, np.ndarray]()
    for layer in layers:
        tensors = [checkpoint.tensors[name] for name in _values(layer, groups[layer.name], framework)]
        if layer.kind == "norm":
            norms[layer.name] = Norm(*(tensor.read().astype(np.float64) for tensor in tensors))
        elif layer.kind == "conv":
            axes = framework.to_canonical("conv", len(layer.shape))
            kernel = tensors[0].read().transpose(axes).astype(np.float32)
            (wide if layer.is_wide else narrow)[layer.name] = grouped(kernel)
    found = by_statistics(norms, narrow, wide)
    dense = [layer.name for layer in layers if layer.kind == "dense"]
    return {**found, **dict.fromkeys(dense if len(dense) == 1 else [], CLASSIFIER)}


def _values(layer: Layer, parameters: Mapping[str, str], framework: Framework) -> list[str]:
    """The tensors of a normalisation, in canonical order, or the kernel of another layer."""
    called = {framework.canonical_parameter(layer.kind, each): name for each, name in parameters.items()}
    wanted = PARAMETERS["norm"] if layer.kind == "norm" else ("weight",)
    if missing := [each for each in wanted if each not in called]:
        raise LayoutError(f"{quoted(layer.name)} has no {missing[0]}")
    return [called[each] for each in wanted]


def _settled(found: Detection, checkpoint: Checkpoint) -> Detection:
    """The same net with normalisations in each other's place where the weights show that names misled."""
    for _ in range(MOST_EXCHANGED):
        damages = _evidence(found, checkpoint).damages
        pair = next((damage.layers for damage in damages if damage.mistake == EXCHANGED), None)
        if pair is None:
            break
        roles = dict(found.roles)
        for role in found.roles:
            layer, _, parameter = role.rpartition(".")
            if layer in pair:
                roles[role] = found.roles[f"{pair[layer == pair[0]]}.{parameter}"]
        found = replace(found, roles=roles)
    return found


def kind_of(
    checkpoint: Checkpoint, parameters: Mapping[str, str], framework: Framework
) -> tuple[Kind, tuple[int, ...]] | None:
    """What kind of layer parameters belong to, and the shape of its kernel or scale; None where they are none's."""
    of: Kind = "norm" if framework.parameters["norm"][2] in parameters else "conv"
    weight = parameters.get(framework.parameters[of][0])
    shape = checkpoint.tensors[weight].shape if weight else ()
    of = "dense" if of == "conv" and len(shape) == 2 else of
    return (of, shape) if shape and (len(shape) == 1) == (of == "norm") else None


def _computes_nothing(tensor: Tensor) -> bool:
    """Whether it is a count, or a mask that lets everything through."""
    return tensor.dtype.kind in "iub" or (
        len(tensor.shape) == 1 and tensor.size > 1 and bool((tensor.read() == 1).all())
    )


def recognised(layers: Sequence[Layer]) -> dict[str, str | None]:
    """The canonical name of each layer, or None where it is no part of a body or its one dense layer.

    Args:
        layers: In the order of the file.

    Raises:
        LayoutError: They are those of no DenseNet; the message names the first layer that breaks the pattern.
    """
    first: LayoutError | None = None
    for order in ORDERS:
        try:
            roles = _Roles(sorted(layers, key=order) if order else list(layers)).found()
        except LayoutError as error:
            first = first or error
            continue
        return {layer.name: roles.get(layer.name) for layer in layers}
    raise first or LayoutError("there are no layers")


def _natural(layer: Layer) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them, as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in NUMBERS.split(layer.name)]


def _counted(layer: Layer) -> tuple[int, ...]:
    """Sorts names by the last number in each, as Keras counts layers of a class throughout a net."""
    last = layer.name.rpartition("/")[2]
    numbers = re.findall(r"_(\d+)$", last)
    return (int(numbers[0]) if numbers else 0,)


# As the file has them, by all numbers in their names, by the last number.
ORDERS: tuple[Callable[[Layer], Any] | None, ...] = (None, _natural, _counted)


@dataclass
class _Roles:
    """The layers in one order, and the roles that have been found.

    Attributes:
        layers: All of them.
        norms: By the canonical name of a normalisation, the width that it must have, and the convolution whose name
            its own should be like.
    """

    layers: list[Layer]
    roles: dict[str, str] = field(default_factory=dict)
    norms: dict[str, tuple[int, Layer]] = field(default_factory=dict)

    def found(self) -> dict[str, str]:
        """The canonical name of each layer that has one."""
        wide = [layer for layer in self.layers if layer.is_wide]
        growth = Counter(layer.shape[0] for layer in wide).most_common(1)
        if not growth or growth[0][1] < 2:
            raise LayoutError("there are no convolutions with kernels wider than 1 that add as many channels each")
        squeezed = Counter(layer.shape[1] for layer in wide if layer.shape[0] == growth[0][0]).most_common(1)[0]
        narrow = [layer for layer in self.layers if layer.kind == "conv" and not layer.is_wide]
        has_bottleneck = squeezed[1] > 1 and sum(each.shape[0] == squeezed[0] for each in narrow) >= squeezed[1]
        is_dense = [each.shape[0] == growth[0][0] and (each.shape[1] == squeezed[0]) >= has_bottleneck for each in wide]
        stem = [layer for layer, dense in zip(wide, is_dense, strict=True) if not dense]
        grow = [layer for layer, dense in zip(wide, is_dense, strict=True) if dense]
        if not stem and not has_bottleneck:
            stem = [min(grow, key=lambda layer: layer.shape[1])]
            grow.remove(stem[0])
        width = self.stem(stem)
        if has_bottleneck:
            self.body(width, growth[0][0], [each for each in narrow if each.shape[0] == squeezed[0]], grow, narrow)
        else:
            self.body(width, growth[0][0], grow, [], narrow)
        self.place_norms()
        self.place_classifier()
        return {layer: role for role, layer in self.roles.items()}

    def stem(self, stem: list[Layer]) -> int:
        """Places the stem's convolutions, each of which takes what the one before gives; the channels of the last."""
        numbers = [""] if len(stem) == 1 else [str(n + 1) for n in range(len(stem))]
        ordered = sorted(stem, key=lambda layer: layer.shape[1])
        if len(stem) not in (1, 3):
            raise LayoutError(f"{len(stem)} convolutions are left for the stem: {listed(each.name for each in stem)}")
        for number, layer in zip(numbers, ordered, strict=True):
            self.roles[f"stem.conv{number}"] = layer.name
            self.norms[f"{STEM}{number}"] = layer.shape[0], layer
        return ordered[-1].shape[0]

    def body(self, width: int, growth: int, first: list[Layer], second: list[Layer], narrow: list[Layer]) -> None:
        """Places dense layers, by the first convolution of each, and transitions."""
        moving = [layer for layer in narrow if layer not in first]
        if second and len(first) != len(second):
            raise LayoutError(f"{len(first)} bottlenecks stand before {len(second)} convolutions that add channels")
        partners = dict(zip((layer.name for layer in first), _like(first, second), strict=True)) if second else {}
        block, place = 1, 0
        for layer in first:
            across = next((t for t in moving if t.shape[:2] == (layer.shape[1], width)), None)
            if across and (place or block == 1):
                moving.remove(across)
                self.roles[f"transition{block}.conv"] = across.name
                self.norms[f"transition{block}.norm"] = width, across
                block, place, width = block + 1, 0, across.shape[0]
            if layer.shape[1] != width:
                raise LayoutError(
                    f"{quoted(layer.name)} takes {layer.shape[1]} channels, where a dense layer would take {width}"
                )
            place += 1
            role = f"block{block}.layer{place}"
            self.roles[f"{role}.conv1"] = layer.name
            self.norms[f"{role}.norm1"] = width, layer
            if second:
                self.roles[f"{role}.conv2"] = partners[layer.name].name
                self.norms[f"{role}.norm2"] = layer.shape[0], layer
            width += growth
        if moving:
            raise LayoutError(f"{quoted(moving[0].name)} leads from no dense block to the next")
        self.norms[HEAD] = width, layer

    def place_norms(self) -> None:
        """Places normalisations: of those that are as wide, each beside the convolution that its name is like."""
        norms = [layer for layer in self.layers if layer.kind == "norm"]
        if len(self.norms) - len(norms) > 0:
            self.leave_out(norms)
        by_width: dict[int, list[Layer]] = defaultdict(list)
        for norm in norms:
            by_width[norm.shape[0]].append(norm)
        for width in {width for width, _ in self.norms.values()}:
            roles = [role for role, (own, _) in self.norms.items() if own == width]
            if len(by_width[width]) < len(roles):
                raise LayoutError(
                    f"{len(roles)} normalisations of {width} channels stand before or behind convolutions of a "
                    f"DenseNet, and {len(by_width[width])} are there: {roles[-1]} is missing"
                )
            anchors = [self.norms[role][1] for role in roles]
            for role, norm in zip(roles, _like(anchors, by_width[width]), strict=True):
                self.roles[role] = norm.name

    def leave_out(self, norms: list[Layer]) -> None:
        """Takes back the normalisations that some DenseNets do without, where none is left for them."""
        there = Counter(norm.shape[0] for norm in norms)
        missing = Counter(width for width, _ in self.norms.values()) - there
        inner = [role for role in self.norms if role.endswith(".norm2")]
        stem = [role for role in self.norms if role.startswith(STEM)]
        for roles in (stem, [HEAD], inner):
            if roles and not Counter(self.norms[role][0] for role in roles) - missing:
                missing -= Counter(self.norms[role][0] for role in roles)
                for role in roles:
                    del self.norms[role]

    def place_classifier(self) -> None:
        """Places the dense layer, where there is one."""
        dense = [layer for layer in self.layers if layer.kind == "dense"]
        if len(dense) == 1:
            self.roles[CLASSIFIER] = dense[0].name


def _like(anchors: Sequence[Layer], layers: Sequence[Layer]) -> Iterator[Layer]:
    """For each anchor the layer whose name is most like its own; among equals, in their order.

    Each layer is taken once; those that are closest are given away first.
    """
    pairs = itertools.product(range(len(anchors)), range(len(layers)))
    ranked = sorted((-anchors[a].likeness(layers[n]), a, n) for a, n in pairs)
    given: dict[int, int] = {}
    taken: set[int] = set()
    for _, a, n in ranked:
        if a not in given and n not in taken:
            given[a] = n
            taken.add(n)
    return (layers[given[a]] for a in range(len(anchors)))
