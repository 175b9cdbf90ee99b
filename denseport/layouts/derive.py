"""A layout file for a DenseNet whose names nobody has seen, from its shapes and the numbers in its names.

A DenseNet's shapes are rigid: every dense layer adds as many channels, so kernels tell the roles of convolutions, and
the numbers in the names tell blocks and layers. What shapes cannot tell is written as a comment, to be chosen.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, quoted
from denseport.layouts.detect import without_prefixes
from denseport.layouts.frameworks import KERAS, TORCH, Framework
from denseport.layouts.match import Detection, match
from denseport.layouts.parse import LAYERS, parse
from denseport.net.graph import Kind

# Of the numbers in a name, a block's and a layer's are among the first; each pair of them is tried on every name.
MAX_NUMBERS = 5
NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")
Places = list[tuple[int, ...]]

HEADER = """\
title = "derived from {layers} layers"
frameworks = ["{framework}"]
counters = {counters}

[names]
"""
TRAITS = """
# What no shape shows. Set what the code that trained the net says; these are the usual values.
[traits]
epsilon = {epsilon}
padding = "symmetric"  # or "same", TensorFlow's: one less at the start than at the end, at even sizes
concatenation = "old-first"  # or "new-first", where a layer returns cat([new, old])
stem_stride = {stem_stride}
stem_pool = "{stem_pool}"  # max, max-blur or none
final_activation = "relu"  # or none

[architecture]
"""


@dataclass(frozen=True)
class Unnamed:
    """A layer of unknown role: its name, kind, and the canonical shape of its kernel or scale."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Pattern:
    """The literal parts of a name between the numbers that count something."""

    literals: tuple[str, ...]

    def read(self, name: str) -> tuple[int, ...] | None:
        """The numbers in a name of this pattern."""
        expression = f"({NUMBER.pattern})".join(map(re.escape, self.literals))
        found = re.fullmatch(expression, name)
        return tuple(map(int, found.groups())) if found else None

    def template(self, letters: str, lowest: tuple[int, ...]) -> str:
        """The layout template in which numbers that start at `lowest` count from 1."""
        shifts = (
            f"{{{letter}{low - 1:+d}}}" if low != 1 else f"{{{letter}}}"
            for letter, low in zip(letters, lowest, strict=True)
        )
        return "".join(itertools.chain.from_iterable(itertools.zip_longest(self.literals, shifts, fillvalue="")))


@dataclass(frozen=True)
class Family:
    """Layers of one role, by the numbers in their names, which count from 1 at each place."""

    template: str
    members: Mapping[tuple[int, ...], Unnamed]


def derive(checkpoint: Checkpoint) -> str:
    """The TOML text of a layout that every tensor of a checkpoint fits.

    Raises:
        LayoutError: The file is no DenseNet, or its names have no numbers to go by; the message names the first layer
            that breaks the pattern.
    """
    file = checkpoint.path or "the given tensors"
    *_, (_, originals) = without_prefixes(checkpoint.tensors)
    framework = KERAS if all("/" in name for name in originals) else TORCH
    groups = framework.grouped(originals)
    try:
        layers = list(_layers(checkpoint, groups, framework))
        names = _names(layers)
        text = _toml(names, framework, len(layers))
        found = match(checkpoint, parse(text, "derived.toml"), framework, groups, {}, drop_head=False)
        if not isinstance(found, Detection):
            raise LayoutError(found.reason)
    except LayoutError as error:
        raise LayoutError(
            f"{file}: no layout can be derived: {error}; write one by hand, from `layouts show`"
        ) from None
    facts = ("dimensions", "stem_kernel", "stem_norm", "bottleneck_norm", "final_norm", "conv_bias")
    return text + "".join(f"{fact} = {str(getattr(found.config, fact)).lower()}\n" for fact in facts)


def _layers(checkpoint: Checkpoint, groups: Mapping[str, Mapping[str, str]], framework: Framework) -> Iterator[Unnamed]:
    """The layers in file order; step counters take no part."""
    for name, parameters in groups.items():
        of: Kind = "norm" if framework.parameters["norm"][2] in parameters else "conv"
        weight = parameters.get(framework.parameters[of][0])
        if weight is None:
            raise LayoutError(f"{quoted(name)} is no convolution, normalisation or dense layer")
        shape = checkpoint.tensors[weight].shape
        of = "dense" if of == "conv" and len(shape) == 2 else of
        if (len(shape) != 1 and of == "norm") or (len(shape) < 2 and of != "norm"):
            raise LayoutError(f"{quoted(name)} is no convolution, normalisation or dense layer: its shape is {shape}")
        yield Unnamed(name, of, framework.canonical_shape(of, shape))


def _names(layers: list[Unnamed]) -> dict[str, str]:
    """Canonical template to this file's own, for every role that occurs."""
    wide = [layer for layer in layers if layer.kind == "conv" and layer.shape[-1] > 1]
    narrow = [layer for layer in layers if layer.kind == "conv" and layer.shape[-1] == 1]
    norms = [layer for layer in layers if layer.kind == "norm"]

    growing = max(_families(wide, "bl"), key=lambda family: len(family.members), default=None)
    if growing is None:
        raise LayoutError("no convolutions with kernels wider than 1 are counted by block and layer in their names")
    places = list(growing.members)
    _same_growth(growing)
    squeezing = _at(narrow, places, "bl")
    first = squeezing or growing
    names = {"block{b}.layer{l}.conv1": first.template}
    if squeezing:
        names["block{b}.layer{l}.conv2"] = growing.template

    def width(family: Family, conv: Family) -> bool:
        return all(norm.shape[0] == conv.members[place].shape[1] for place, norm in family.members.items())

    norm1 = _at(norms, places, "bl", lambda family: width(family, first))
    if norm1:
        names["block{b}.layer{l}.norm1"] = norm1.template
        norms = _without(norms, norm1)
    norm2 = _at(norms, places, "bl", lambda family: width(family, growing))
    if norm2 and squeezing:
        names["block{b}.layer{l}.norm2"] = norm2.template
        norms = _without(norms, norm2)

    moving = _without(narrow, squeezing)
    blocks = max(place[0] for place in places)
    if len(moving) != blocks - 1:
        extra = f": {quoted(moving[0].name)} is the first" if moving else ""
        raise LayoutError(
            f"{blocks} dense blocks have {blocks - 1} transitions, but {len(moving)} 1x1 convolutions are left{extra}"
        )
    if moving:
        transition = _at(moving, [(t,) for t in range(1, blocks)], "t")
        if transition is None:
            raise LayoutError(f"the transitions are not counted in their names: {quoted(moving[0].name)} is the first")
        names["transition{t}.conv"] = transition.template
        norm = _at(norms, list(transition.members), "t", lambda family: width(family, transition), transition.template)
        if norm:
            names["transition{t}.norm"] = norm.template
            norms = _without(norms, norm)
    dense = [layer for layer in layers if layer.kind == "dense"]
    return names | _ends(_without(wide, growing), norms, dense)


def _ends(stem: list[Unnamed], norms: list[Unnamed], dense: list[Unnamed]) -> dict[str, str]:
    """The names of stem and head, from what is left when blocks and transitions have theirs."""
    names: dict[str, str] = {}
    stem_norms = (
        norms[: len(stem)] if [norm.shape[0] for norm in norms[: len(stem)]] == [c.shape[0] for c in stem] else []
    )
    if len(stem) == 1:
        names["stem.conv"] = stem[0].name
        names.update(zip(["stem.norm"], (norm.name for norm in stem_norms), strict=False))
    elif stem and (convs := next(iter(_families(stem, "s")), None)) and len(convs.members) == len(stem):
        names["stem.conv{s}"] = convs.template
        names.update(zip(["stem.norm{s}"], (family.template for family in _families(stem_norms, "s")), strict=False))
    else:
        raise LayoutError(
            f"{len(stem)} convolutions are left for the stem: " + quoted(stem[0].name if stem else "none")
        )
    rest = [norm for norm in norms if norm not in stem_norms]
    if len(rest) > 1 or len(dense) > 1:
        raise LayoutError(f"{quoted((rest[1:] or dense[1:])[0].name)} has no place in a DenseNet")
    names.update(zip(["head.norm"], (norm.name for norm in rest), strict=False))
    names.update(zip(["head.classifier"], (layer.name for layer in dense), strict=False))
    return names


def _same_growth(growing: Family) -> None:
    (_, first), *rest = sorted(growing.members.items())
    for _, layer in rest:
        if layer.shape[0] != first.shape[0]:
            raise LayoutError(
                f"{quoted(layer.name)} adds {layer.shape[0]} channels, where {quoted(first.name)} adds {first.shape[0]}"
            )


def _families(layers: list[Unnamed], letters: str) -> list[Family]:
    """Every set of layers whose names count without a gap, as many numbers as there are letters, largest first."""
    families = []
    for pattern in dict.fromkeys(pattern for layer in layers for pattern in _patterns(layer.name, len(letters))):
        read = {numbers: layer for layer in layers if (numbers := pattern.read(layer.name)) is not None}
        lowest = tuple(map(min, zip(*read, strict=True)))
        members = {
            tuple(n - low + 1 for n, low in zip(numbers, lowest, strict=True)): layer for numbers, layer in read.items()
        }
        if _without_gap(members):
            families.append(Family(pattern.template(letters, lowest), dict(sorted(members.items()))))
    return sorted(families, key=lambda family: -len(family.members))


def _patterns(name: str, count: int) -> Iterator[Pattern]:
    """Each way to take `count` of the numbers in a name for counters."""
    numbers = list(NUMBER.finditer(name))[:MAX_NUMBERS]
    for chosen in itertools.combinations(numbers, count):
        cuts = [0, *itertools.chain.from_iterable(number.span() for number in chosen), len(name)]
        yield Pattern(tuple(name[start:stop] for start, stop in zip(cuts[::2], cuts[1::2], strict=True)))


def _without_gap(places: Iterable[tuple[int, ...]]) -> bool:
    """Whether the first numbers are 1, 2, 3 ..., and behind each of them the rest is so as well."""
    every = sorted(places)
    if not every or not every[0]:
        return len(every) <= 1
    grouped_places = {first: [place[1:] for place in rest] for first, rest in itertools.groupby(every, lambda p: p[0])}
    return list(grouped_places) == list(range(1, len(grouped_places) + 1)) and all(
        _without_gap(rest) for rest in grouped_places.values()
    )


def _at(
    layers: list[Unnamed], places: Places, letters: str, fits: Callable[[Family], bool] = bool, near: str = ""
) -> Family | None:
    """The family that stands at exactly these places and fits, the one whose template is most like `near`."""
    found = [f for f in _families(layers, letters) if sorted(f.members) == sorted(places) and fits(f)]
    return max(found, key=lambda family: _common(family.template, near), default=None)


def _common(a: str, b: str) -> int:
    """How many characters two strings begin with alike."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _without(layers: list[Unnamed], family: Family | None) -> list[Unnamed]:
    taken = set(family.members.values()) if family else set()
    return [layer for layer in layers if layer not in taken]


def _toml(names: Mapping[str, str], framework: Framework, layers: int) -> str:
    """The layout file, complete but for the facts of the architecture."""
    text = HEADER.format(layers=layers, framework=framework.name, counters=str(bool(framework.counter)).lower())
    text += "".join(f'"{canonical}" = {_string(names[canonical])}\n' for canonical in LAYERS if canonical in names)
    imagenet = "stem.norm" in names or "stem.norm{s}" in names
    return text + TRAITS.format(
        epsilon="1e-5" if framework is TORCH else "1.001e-5",
        stem_stride=2 if imagenet else 1,
        stem_pool="max" if imagenet else "none",
    )


def _string(text: str) -> str:
    """A TOML string; a name from a file may hold anything."""
    escaped = "".join(f"\\U{ord(c):08x}" if c in '"\\' or not c.isprintable() else c for c in text)
    return f'"{escaped}"'
