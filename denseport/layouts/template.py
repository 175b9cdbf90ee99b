"""Name templates with indices, `features.denseblock{b}.denselayer{l}.norm1`, that read in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from denseport.errors import LayoutError, quoted

PLACEHOLDER = re.compile(r"\{([blts])([+-][0-9])?\}")
CANONICAL_INDEX = re.compile(r"(block|layer|transition|stem\.conv|stem\.norm)([1-9][0-9]*)")
NUMBER = re.compile(r"[0-9]+")
LETTERS = {"block": "b", "layer": "l", "transition": "t", "stem.conv": "s", "stem.norm": "s"}


@dataclass(frozen=True)
class Template:
    """A name in which `{b}`, `{l}`, `{t}` and `{s}` stand for the number of a block, layer, transition or stem layer.

    `{b+1}` and `{l-1}` shift the number; canonical numbers count from 1. Where an index stands several times, as in
    `stage{t+1}.trans{t+1}`, all must agree.
    """

    text: str

    def __post_init__(self) -> None:
        literals = PLACEHOLDER.split(self.text)
        if re.search(r"[{}]", "".join(literals[::3])):
            raise LayoutError(f"the template {quoted(self.text)} has a brace that is no {{b}}, {{l}}, {{t}} or {{s}}")
        if any(int(shift or 0) < -1 for shift in literals[2::3]):
            raise LayoutError(f"the template {quoted(self.text)} counts from below 0; the lowest shift is -1")
        if any(not literal or literal[0].isdigit() for literal in literals[3:-1:3]):
            raise LayoutError(
                f"the template {quoted(self.text)} needs something other than a digit between two indices"
            )

    @property
    def letters(self) -> frozenset[str]:
        """The letters of its indices."""
        return frozenset(letter for letter, _ in PLACEHOLDER.findall(self.text))

    def format(self, indices: Mapping[str, int]) -> str:
        """The name for the given canonical indices."""
        return PLACEHOLDER.sub(lambda found: str(indices[found[1]] + int(found[2] or 0)), self.text)

    @property
    def outline(self) -> str:
        """What `outline` gives for every name of this template."""
        return outline(PLACEHOLDER.sub("0", self.text))

    def indices(self, name: str) -> dict[str, int] | None:
        """The canonical indices in a name of this template, or None where it is none of its names."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        indices: dict[str, int] = {}
        for (letter, shift), number in zip(PLACEHOLDER.findall(self.text), found.groups(), strict=True):
            index = int(number) - int(shift or 0)
            if index < 1 or indices.setdefault(letter, index) != index:
                return None
        return indices

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """It cannot backtrack, since a literal divides any two indices; whether indices agree is no part of it."""
        literals = PLACEHOLDER.split(self.text)[::3]
        return re.compile(r"(0|[1-9][0-9]{0,3})".join(re.escape(literal) for literal in literals))


def outline(name: str) -> str:
    """A name with each number in it replaced by `#`, by which templates are looked up."""
    return NUMBER.sub("#", name)


def canonical_template(layer: str) -> tuple[str, dict[str, int]]:
    """A canonical layer name as template and indices: `block1.layer3.norm1` gives `block{b}.layer{l}.norm1`."""
    indices: dict[str, int] = {}

    def placeholder(found: re.Match[str]) -> str:
        letter = LETTERS[found[1]]
        indices[letter] = int(found[2])
        return f"{found[1]}{{{letter}}}"

    return CANONICAL_INDEX.sub(placeholder, layer), indices
