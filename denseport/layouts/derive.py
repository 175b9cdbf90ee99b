"""A layout file for a DenseNet whose names nobody has seen, from its shapes and the numbers in its names.

A DenseNet's shapes are rigid: every dense layer adds as many channels, so kernels tell the roles of convolutions, and
the numbers in the names tell blocks and layers. What shapes cannot tell is written as a comment, to be chosen.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.frameworks import KERAS, TORCH, Framework, Groups
from denseport.layouts.match import match
from denseport.layouts.parse import LAYERS, STRUCTURE, parse
from denseport.layouts.prefixes import common_path, within
from denseport.layouts.recognition import kind_of
from denseport.layouts.template import PLACEHOLDER, Template, placeholder
from denseport.net.graph import Kind

# Of the numbers in a name, a block's and a layer's are among the first; each pair of them is tried on every name.
MAX_NUMBERS = 5
NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")

Place = tuple[int, ...]
Shape = tuple[int, ...]
COMMENTS = {
    "padding": 'or "same", TensorFlow\'s: one less at the start than at the end, at even sizes',
    "concatenation": 'or "new-first", where a layer returns cat([new, old])',
    "stem_pool": "max, max-blur or none",
    "final_activation": "or none",
}
# The channels that layers give, by place; None where any number will do.
Widths = Mapping[Place, int | None]

HEADER = """\
title = "derived from {layers} layers"
frameworks = ["{framework}"]
counters = {counters}

[names]
"""
TRAITS = """
# What no shape shows. Set what the code that trained the net says; these are the usual values.
[traits]
{traits}

[architecture]
"""


@dataclass(frozen=True)
class Unnamed:
    """A layer of unknown role: its name, kind, and the canonical shape of its kernel or scale."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """Layers of one role, by the numbers in their names, which count from 1 at each place."""

    template: str
    members: Mapping[Place, Unnamed]

    @property
    def inputs(self) -> Widths:
        """The channels that each convolution takes."""
        return {place: layer.shape[1] for place, layer in self.members.items()}

    @property
    def outputs(self) -> Widths:
        """The channels that each layer gives."""
        return {place: layer.shape[0] for place, layer in self.members.items()}


def derive(
    checkpoint: Checkpoint,
    traits: Mapping[str, Any] = MappingProxyType({}),
    *,
    net: str | None = None,
    drop_head: bool = False,
) -> str:
    """The TOML text of a layout that the net in a checkpoint fits.

    Args:
        checkpoint: The file.
        traits: Those that the user states.
        net: The path below which the net stands, where there is more in the file.
        drop_head: Whether only the body needs to fit, whatever stands beside it.

    Raises:
        LayoutError: The file is no DenseNet, or its names have no numbers to go by; the message names the first layer
            that breaks the pattern.
    """
    names = list(checkpoint.tensors) if net is None else within(net, checkpoint.tensors)
    framework = KERAS if all("/" in name for name in names) else TORCH
    try:
        groups = _net(checkpoint, framework.grouped(dict(zip(names, names, strict=True))), framework)
        search = _Search(list(_layers(checkpoint, groups, framework, drop_head)), drop_head)
        growing = search.dense_layers()
        search.transitions(max(block for block, _ in growing.members))
        search.ends()
        text = _toml(search.names, framework, len(groups), traits)
        layout = parse(text, "derived.toml")
        if drop_head:
            groups = {name: of for name, of in groups.items() if layout.spellings[0].canonical(name)}
        config = match(checkpoint, layout, framework, groups, {}, drop_head=drop_head).config
    except LayoutError as error:
        raise LayoutError(
            f"{checkpoint.label}: no layout can be derived: {error}; write one by hand, from denseport layouts show "
            "torchvision"
        ) from None
    return text + "".join(f"{fact} = {str(getattr(config, fact)).lower()}\n" for fact in STRUCTURE)


def _net(checkpoint: Checkpoint, groups: Groups, framework: Framework) -> Groups:
    """What stands below the path that all layers have, without it; an optimizer's state, say, stands elsewhere."""
    layers = [name for name, of in groups.items() if kind_of(checkpoint, of, framework)]
    prefix = common_path([f"{name}{framework.separator}" for name in layers])
    return {name.removeprefix(prefix): of for name, of in groups.items() if name.startswith(prefix)}


def _layers(checkpoint: Checkpoint, groups: Groups, framework: Framework, only_body: bool) -> Iterator[Unnamed]:
    """The layers in file order; step counters and single numbers take no part."""
    for name, parameters in groups.items():
        found = kind_of(checkpoint, parameters, framework)
        alone = all(checkpoint.tensors[each].size == 1 for each in parameters.values())
        if found is None and (only_body or alone):
            continue
        if found is None:
            raise LayoutError(f"{quoted(name)} is no convolution, normalisation or dense layer")
        of, shape = found
        if re.search("[{}]", name):
            raise LayoutError(f"{quoted(name)} has a brace, which is an index in a layout")
        yield Unnamed(name, of, framework.canonical_shape(of, shape))


class _Search:
    """The layers of a file that have no role yet, and the file's name template for each role that has been found."""

    def __init__(self, layers: list[Unnamed], only_body: bool) -> None:
        self.left, self.every, self.only_body = layers, layers, only_body
        self.names: dict[str, str] = {}

    def of(self, kind: Kind, wide: bool | None = None) -> list[Unnamed]:
        """The layers of a kind that have no role; of convolutions those of 1x1, or those that are wider."""
        return [each for each in self.left if each.kind == kind and wide in (None, each.shape[-1] > 1)]

    def take(self, role: str, layers: list[Unnamed], widths: Widths, near: str = "") -> Family | None:
        """Gives a role to the layers that stand at exactly these places, and whose first axis is as wide.

        Of several such families it is the one whose template is most like `near`; None where there is none.
        """
        families = _families(layers, "".join(letter for letter, _ in PLACEHOLDER.findall(role)))
        same_places = [family for family in families if family.members.keys() == widths.keys()]
        found = [f for f in same_places if all(widths[place] in (None, width) for place, width in f.outputs.items())]
        family = max(found, key=lambda family: _common(family.template, near), default=None)
        if family:
            self.names[role] = family.template
            self.left = [layer for layer in self.left if layer not in family.members.values()]
        return family

    def dense_layers(self) -> Family:
        """Finds the layers of the dense blocks; the convolutions that add channels."""
        growing = next(iter(_families(self.of("conv", wide=True), "bl")), None)
        if growing is None:
            raise LayoutError("no convolutions with kernels wider than 1 are counted by block and layer in their names")
        first, *others = growing.members.values()
        if odd := next((layer for layer in others if layer.shape[0] != first.shape[0]), None):
            told = f"{quoted(odd.name)} adds {odd.shape[0]} channels, where {quoted(first.name)} adds {first.shape[0]}"
            raise LayoutError(f"{told}: every dense layer adds as many")
        squeezing = self.take("block{b}.layer{l}.conv1", self.of("conv", wide=False), dict.fromkeys(growing.members))
        self.take(f"block{{b}}.layer{{l}}.conv{2 if squeezing else 1}", list(growing.members.values()), growing.outputs)
        self.take("block{b}.layer{l}.norm1", self.of("norm"), (squeezing or growing).inputs)
        if squeezing:
            self.take("block{b}.layer{l}.norm2", self.of("norm"), growing.inputs)
        return growing

    def transitions(self, blocks: int) -> None:
        """Finds the layers between the dense blocks: 1x1 convolutions, and their norms."""
        left, places = self.of("conv", wide=False), [(t,) for t in range(1, blocks)]
        moving = self.take("transition{t}.conv", left, dict.fromkeys(places))
        if moving is None and ((left and not self.only_body) or places):
            raise LayoutError(
                f"{blocks} dense blocks have {blocks - 1} transitions, which are counted in their names, but the 1x1 "
                f"convolutions that are left are {listed(layer.name for layer in left) or 'none'}"
            )
        if moving:
            self.take("transition{t}.norm", self.of("norm"), moving.inputs, moving.template)

    def ends(self) -> None:
        """Finds the layers of stem and head, to which all that is left must belong."""
        stems = self.stems()
        index, places = ("", [()]) if len(stems) == 1 else ("{s}", [(n + 1,) for n in range(len(stems))])
        stem = self.take(f"stem.conv{index}", stems, dict.fromkeys(places)) if stems else None
        if stem is None:
            raise LayoutError(f"{len(stems)} convolutions are left for the stem: {listed(c.name for c in stems)}")
        self.take(f"stem.norm{index}", self.of("norm")[: len(stems)], stem.outputs)
        self.take("head.norm", self.of("norm"), {(): None})
        if self.only_body:
            return
        self.take("head.classifier", self.of("dense"), {(): None})
        if self.left:
            raise LayoutError(f"{quoted(self.left[0].name)} has no place in a DenseNet")

    def stems(self) -> list[Unnamed]:
        """The convolutions that are left: all of them or, beside something larger, those before the dense layers."""
        left = self.of("conv")
        first = next(n for n, layer in enumerate(self.every) if layer not in self.left and layer.kind == "conv")
        return [layer for layer in left if not self.only_body or self.every.index(layer) < first]


def _families(layers: list[Unnamed], letters: str) -> list[Family]:
    """Every set of layers whose names count without a gap by the indices `letters`, largest first."""
    families = []
    for pattern in dict.fromkeys(pattern for layer in layers for pattern in _patterns(layer.name, letters)):
        read = [(indices, layer) for layer in layers if (indices := pattern.indices(layer.name)) is not None]
        before = {letter: min(indices[letter] for indices, _ in read) - 1 for letter in letters}
        members = {tuple(indices[letter] - before[letter] for letter in letters): layer for indices, layer in read}
        if _without_gap(members):
            families.append(Family(pattern.shifted(before), dict(sorted(members.items()))))
    return sorted(families, key=lambda family: -len(family.members))


def _patterns(name: str, letters: str) -> Iterator[Template]:
    """Each way to take numbers in a name for indices that count from 0, in order; one index may stand twice."""
    numbers = list(NUMBER.finditer(name))[:MAX_NUMBERS]
    longer = ("".join(order) for order in itertools.product(letters, repeat=len(letters) + 1))
    for order in (letters, *(order for order in longer if "".join(dict.fromkeys(order)) == letters)):
        for chosen in itertools.combinations(numbers, len(order)):
            placed = list(zip(order, (int(number[0]) for number in chosen), strict=True))
            lowest = {letter: min(value for each, value in placed if each == letter) for letter in letters}
            indices = [placeholder(letter, value - lowest[letter] - 1) for letter, value in placed]
            cuts = [0, *itertools.chain.from_iterable(number.span() for number in chosen), len(name)]
            literals = [name[start:stop] for start, stop in zip(cuts[::2], cuts[1::2], strict=True)]
            with contextlib.suppress(LayoutError):  # nothing stands between two of the numbers
                yield Template("".join(map("".join, zip(literals, [*indices, ""], strict=True))))


def _common(a: str, b: str) -> int:
    """How many characters two strings begin with alike."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _without_gap(places: Iterable[Place]) -> bool:
    """Whether the first numbers are 1, 2, 3 ..., and behind each of them the rest is so as well."""
    places = list(places)
    while places and places[0]:
        counts = Counter(place[:-1] for place in places)
        if any(place[-1] > counts[place[:-1]] for place in places):
            return False
        places = list(counts)
    return True


def _toml(names: Mapping[str, str], framework: Framework, layers: int, stated: Mapping[str, Any]) -> str:
    """The layout file, complete but for the facts of the architecture."""
    text = HEADER.format(layers=layers, framework=framework.name, counters=str(bool(framework.counter)).lower())
    text += "".join(f'"{canonical}" = {_string(names[canonical])}\n' for canonical in LAYERS if canonical in names)
    imagenet = "stem.norm" in names or "stem.norm{s}" in names
    usual = {
        "epsilon": 1e-5 if framework is TORCH else 1.001e-5,
        "padding": "symmetric",
        "concatenation": "old-first",
        "stem_stride": 2 if imagenet else 1,
        "stem_pool": "max" if imagenet else "none",
        "final_activation": "relu",
    }
    lines = []
    for name, value in {**usual, **stated}.items():
        comment = f"  # {COMMENTS[name]}" if name in COMMENTS and name not in stated else ""
        lines.append(f"{name} = {json.dumps(value)}{comment}")
    return text + TRAITS.format(traits="\n".join(lines))


def _string(text: str) -> str:
    """A TOML string; a name from a file may hold anything."""
    escaped = "".join(f"\\U{ord(c):08x}" if c in '"\\' or not c.isprintable() else c for c in text)
    return f'"{escaped}"'
