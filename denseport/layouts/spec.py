"""A layout: one ecosystem's names for a DenseNet, and the facts of its architecture, read from a TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from denseport.config import TRAIT_NAMES, DenseNetConfig, Traits
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.frameworks import FRAMEWORKS, Framework
from denseport.layouts.template import Template, canonical_template

CANONICAL_TEMPLATES = (
    "stem.conv",
    "stem.norm",
    "stem.conv{s}",
    "stem.norm{s}",
    "block{b}.layer{l}.norm1",
    "block{b}.layer{l}.conv1",
    "block{b}.layer{l}.norm2",
    "block{b}.layer{l}.conv2",
    "transition{t}.norm",
    "transition{t}.conv",
    "head.norm",
    "head.classifier",
)
CONFIG_FACTS = frozenset(field.name for field in fields(DenseNetConfig)) - {"traits"}
DERIVED_FACTS = frozenset({"blocks", "bn_size", "compression"})
KEYS = frozenset({"title", "frameworks", "source", "counters", "names", "nameless", "traits", "architecture", "builds"})
MAX_FILE_BYTES = 1 << 20
EPSILON_ROUNDING = 2e-8


@dataclass(frozen=True)
class Layout:
    """One layout; the mapping from its names back to the canonical ones is derived from `names`.

    Attributes:
        name: What `--from-layout` and `--to-layout` call it.
        title: What it is, in a line.
        source: Upstream file and symbol that the facts were read from.
        frameworks: Whose parameter names and axes apply; a format's own framework is taken where there are several.
        names: Canonical layer template to this layout's spellings; all are read, the first is written.
        traits: What every net of this layout has; a trait that is not named is free.
        architecture: Fields of `DenseNetConfig` that are the same in every net of this layout.
        builds: What the layout's own library can build, beyond `architecture`; `*` stands for any value but None.
        counters: Whether the step counters of normalisations are written.
        nameless: Whether a file that records no layer names is taken to be of this layout.
    """

    name: str
    title: str
    source: str
    frameworks: tuple[Framework, ...]
    names: Mapping[str, tuple[Template, ...]]
    traits: Mapping[str, Any]
    architecture: Mapping[str, Any]
    builds: Mapping[str, Any]
    counters: bool
    nameless: bool

    def framework_for(self, native: str) -> Framework:
        """The framework whose conventions a file takes, given the one that its format is native to."""
        return next((framework for framework in self.frameworks if framework.name == native), self.frameworks[0])

    def spell(self, layer: str) -> str:
        """This layout's name for a canonical layer.

        Raises:
            LayoutError: The layout has no such layer.
        """
        template, indices = canonical_template(layer)
        if template not in self.names:
            raise LayoutError(f"layout {self.name} has no name for {layer}; choose another --to-layout")
        return self.names[template][0].format(indices)

    def canonical(self, layer: str) -> str | None:
        """The canonical name of one of this layout's layers, or None where it is none."""
        found = self._any_name.fullmatch(layer)
        if found is None:
            return None
        canonical, template = self._spellings[int((found.lastgroup or "_0")[1:])]
        indices = template.indices(layer)
        return None if indices is None else canonical.format(indices)

    def cannot_build(self, config: DenseNetConfig) -> str:
        """Why the layout's own library cannot build an architecture, or "" where it can."""
        for fact, wanted in {**self.architecture, **self.builds}.items():
            value = getattr(config, fact)
            if (value is None) if wanted == "*" else (value != wanted):
                shown = "an uncommon value" if value is None else value
                return f"layout {self.name} has {fact} {wanted}, this net has {shown}"
        return ""

    def differs(self, traits: Traits) -> str:
        """Why a net of this layout computes something else than one with these traits, or "" where it does not.

        The epsilons of frameworks that mean 1e-5 differ by 1e-8, which moves the outputs no more than rounding does.
        """
        for trait, own in self.traits.items():
            value = getattr(traits, trait)
            close = trait == "epsilon" and abs(value - own) <= EPSILON_ROUNDING
            if trait != "head_activation" and value != own and not close:
                return f"layout {self.name} has {trait} {own}, this net has {value}"
        return ""

    @cached_property
    def _spellings(self) -> list[tuple[Template, Template]]:
        return [(Template(canonical), spelling) for canonical, own in self.names.items() for spelling in own]

    @cached_property
    def _any_name(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?P<_{n}>{own.pattern})" for n, (_, own) in enumerate(self._spellings)))


@cache
def known_layouts() -> Mapping[str, Layout]:
    """The layouts that ship with the package, by name."""
    files = sorted(resources.files("denseport.layouts").iterdir(), key=lambda file: file.name)
    parsed = [parse(file.read_text(), file.name) for file in files if file.name.endswith(".toml")]
    return {layout.name: layout for layout in parsed}


def find_layout(name: str | Path) -> Layout:
    """A layout by its name, or from a TOML file of one's own.

    Raises:
        LayoutError: Neither is there, or the file is not a valid layout; the message names file and key.
    """
    if str(name) in known_layouts():
        return known_layouts()[str(name)]
    path = Path(name)
    if path.suffix != ".toml":
        raise LayoutError(f"no layout is called {quoted(name)}; known: {', '.join(known_layouts())}, or a .toml file")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise LayoutError(f"{path}: cannot be read ({error.strerror}); check the path of the layout file") from None
    if len(text) > MAX_FILE_BYTES:
        raise LayoutError(f"{path}: is larger than 1 MiB, which no layout file is; check the path")
    return parse(text.decode("utf-8", "replace"), str(path))


def parse(text: str, file: str) -> Layout:
    """The layout that a TOML text describes; `file` names it in errors, and its stem is the layout's name.

    Raises:
        LayoutError: The text is not TOML, or a key or value is not one of a layout's.
    """
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise LayoutError(f"{file}: is not TOML: {quoted(error)}; correct that line") from None

    def wrong(key: str, why: str) -> LayoutError:
        return LayoutError(f"{file}: {quoted(key)} {why}{_line_of(text, key)}")

    for key in table.keys() - KEYS:
        raise wrong(key, f"is no key of a layout; the keys are {', '.join(sorted(KEYS))}")
    for key in {"frameworks", "names"} - table.keys():
        raise wrong(key, "is missing; a layout needs it")
    frameworks = table["frameworks"]
    if not isinstance(frameworks, list) or not frameworks or not all(f in FRAMEWORKS for f in map(str, frameworks)):
        raise wrong("frameworks", f"must list one or more of {', '.join(FRAMEWORKS)}")
    for section, allowed in (
        ("names", frozenset(CANONICAL_TEMPLATES)),
        ("traits", TRAIT_NAMES),
        ("architecture", CONFIG_FACTS),
        ("builds", CONFIG_FACTS | DERIVED_FACTS),
    ):
        if not isinstance(table.setdefault(section, {}), dict):
            raise wrong(section, f"must be a table; write [{section}]")
        for key in table[section].keys() - allowed:
            raise wrong(key, f"is no key of [{section}]; the keys are {listed(sorted(allowed), 30)}")

    try:
        Traits(**table["traits"])
    except LayoutError as error:
        raise LayoutError(f"{file}: [traits]: {error}") from None
    for fact, value in table["architecture"].items():
        if type(value) is not type(getattr(DenseNetConfig(), fact)):
            raise wrong(fact, f"must be a {type(getattr(DenseNetConfig(), fact)).__name__}")

    names: dict[str, tuple[Template, ...]] = {}
    for canonical, spellings in table["names"].items():
        every = spellings if isinstance(spellings, list) else [spellings]
        if not every or not all(isinstance(spelling, str) and 0 < len(spelling) <= 200 for spelling in every):
            raise wrong(canonical, "must be a template or a list of templates, each a string of 1 to 200 characters")
        try:
            names[canonical] = tuple(Template(spelling) for spelling in every)
        except LayoutError as error:
            raise wrong(canonical, f"is wrong: {error}") from None
        if any(template.letters != Template(canonical).letters for template in names[canonical]):
            raise wrong(canonical, "must have the same indices on both sides")
    return Layout(
        name=Path(file).stem,
        title=str(table.get("title", "")),
        source=str(table.get("source", "")),
        frameworks=tuple(FRAMEWORKS[framework] for framework in frameworks),
        names=names,
        traits=table["traits"],
        architecture=_hashable(table["architecture"]),
        builds=_hashable(table["builds"]),
        counters=table.get("counters") is True,
        nameless=table.get("nameless") is True,
    )


def _hashable(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's lists as the tuples that `DenseNetConfig` holds."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _line_of(text: str, key: str) -> str:
    """Where a key stands in a file, for an error; "" where it does not."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"""\s*\[?["']?{re.escape(key)}["']?\s*[=\]]""", line):
            return f" (line {number})"
    return ""
