"""Names of layers, read and written: templates such as `features.denseblock{b}.denselayer{l}.norm1`.

Matching cannot backtrack, and what a template reads it writes back the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from denseport.errors import LayoutError, quoted

PLACEHOLDER = re.compile(r"\{([blts])([+-][0-9]{1,4})?\}")
NUMBER = re.compile(r"[0-9]+")
# A scale layer's canonical name is that of the normalisation that it follows, and this.
SCALE = "-scale"


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

    def shifted(self, by: Mapping[str, int]) -> str:
        """The text of the template whose indices are lower by so much in the same names."""
        return PLACEHOLDER.sub(lambda at: placeholder(at[1], int(at[2] or 0) + by[at[1]]), self.text)

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
        """Cannot backtrack, since a literal divides any two indices; whether those agree is seen afterwards."""
        literals = PLACEHOLDER.split(self.text)[::3]
        return re.compile(r"(0|[1-9][0-9]{0,3})".join(re.escape(literal) for literal in literals))


def placeholder(letter: str, shift: int) -> str:
    """An index as it stands in a template."""
    return f"{{{letter}{shift:+d}}}" if shift else f"{{{letter}}}"


def outline(name: str) -> str:
    """A name with each number in it replaced by `#`, by which templates are looked up."""
    return NUMBER.sub("#", name)


class Renaming:
    """Names of some templates to the names of others with the same indices."""

    def __init__(self, pairs: Iterable[tuple[Template, Template]]) -> None:
        self._by_outline: dict[str, list[tuple[Template, Template]]] = {}
        # A name without indices goes before a template that would fit it too.
        for source, target in sorted(pairs, key=lambda pair: len(pair[0].letters)):
            self._by_outline.setdefault(source.outline, []).append((source, target))

    def __call__(self, name: str) -> str | None:
        """The other name, or None where this one fits no template."""
        for source, target in self._by_outline.get(outline(name), ()):
            if (indices := source.indices(name)) is not None:
                return target.format(indices)
        return None


class Spelling:
    """A layout's names for layers, in both directions; `names` are canonical templates to the layout's spellings."""

    def __init__(self, layout: str, names: Mapping[str, tuple[Template, ...]]) -> None:
        self._layout = layout
        self._write = Renaming((Template(canonical), spellings[0]) for canonical, spellings in names.items())
        self.canonical = Renaming(
            (spelling, Template(canonical)) for canonical, every in names.items() for spelling in every
        )

    def layer(self, canonical: str) -> str:
        """The layout's name for a canonical layer.

        Raises:
            LayoutError: The layout has no such layer.
        """
        if (name := self._write(canonical)) is None:
            raise LayoutError(
                f"layout {self._layout} has no name for {canonical}; choose another --to-layout, such as denseport"
            )
        return name
