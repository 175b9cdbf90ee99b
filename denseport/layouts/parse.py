"""Layout files: TOML to `Layout`, with every mistake named by file, key and line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.frameworks import FRAMEWORKS, Framework
from denseport.layouts.spec import BY_SHAPE, Layout, Names, Variant
from denseport.layouts.template import Template
from denseport.net.config import TRAIT_NAMES, DenseNetConfig, Traits
from denseport.preprocessing import PREPROCESSING

FOLDER = Path(__file__).parent
OWN_FOLDER = "DENSEPORT_LAYOUTS"
SHIPPED = tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))
MAX_FILE_BYTES = 1 << 20
MAX_NAME = 200


def known_text(name: str) -> str:
    """The TOML text of a layout that ships with the package."""
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


# The canonical names of layers, as the canonical layout lists them.
LAYERS = tuple(tomllib.loads(known_text("denseport"))["names"])
NORMS = frozenset(layer for layer in LAYERS if ".norm" in layer)
# What the presence of tensors shows; a layout may know better, so that a tensor it must have is missed.
STRUCTURE = ("dimensions", "stem_kernel", "stem_norm", "bottleneck_norm", "final_norm", "conv_bias")
CONFIG_FACTS = frozenset(field.name for field in fields(DenseNetConfig)) - {"traits"}
# The keys that each section of a layout file may have.
SECTIONS: Mapping[str, frozenset[str]] = {
    "names": frozenset(LAYERS),
    "plain": frozenset(LAYERS),
    "scales": NORMS,
    "numbered": frozenset({"stem", "conv", "norm", "dense"}),
    "traits": TRAIT_NAMES,
    "architecture": frozenset(STRUCTURE),
    "builds": CONFIG_FACTS | {"blocks", "bn_size", "compression"},
}
NOT_INHERITED = frozenset({"extends", "note", "nameless", "detected"})


@cache
def known_layouts() -> Mapping[str, Layout]:
    """The layouts that ship with the package, by name."""
    return {name: _known(name).layout() for name in SHIPPED}


def own_layouts() -> list[Layout]:
    """The layouts in the user's own folder, which the environment variable `DENSEPORT_LAYOUTS` names.

    Raises:
        LayoutError: It names no folder, or a file in it is not a valid layout.
    """
    folder = os.environ.get(OWN_FOLDER)
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise LayoutError(f"{OWN_FOLDER} names {quoted(folder)}, which is no folder; correct it, or take it back")
    return [find_layout(file) for file in sorted(Path(folder).glob("*.toml"))]


def find_layout(name: str | Path) -> Layout:
    """A layout by its name, or from a user's TOML file.

    Raises:
        LayoutError: Neither is there, or the file is not a valid layout; the message names file, key and line.
    """
    if str(name) in known_layouts():
        return known_layouts()[str(name)]
    if str(name) == BY_SHAPE.name:
        return BY_SHAPE
    path = Path(name)
    if path.suffix != ".toml":
        for own in own_layouts():
            if own.name == str(name):
                return own
        raise LayoutError(f"no layout is called {quoted(name)}; known: {', '.join(known_layouts())}, or a .toml file")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise LayoutError(f"{path}: cannot be read ({error.strerror}); check the path of the layout file") from None
    if len(text) > MAX_FILE_BYTES:
        raise LayoutError(f"{path}: is larger than 1 MiB, which no layout file is; check the path")
    return replace(parse(text.decode("utf-8", "replace"), str(path)), file=str(path))


def parse(text: str, file: str) -> Layout:
    """The layout that a TOML text describes; `file` names it in errors, and its stem is the layout's name.

    Raises:
        LayoutError: The text is not TOML, or a key or value is not one of a layout's.
    """
    return _Parser(text, file).layout()


class _Parser:
    """One layout file on its way to a `Layout`."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        try:
            self.table = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise LayoutError(f"{file}: is not TOML: {quoted(error)}; correct that line") from None

    def require(self, holds: bool, key: str, must: str) -> None:
        """Refuses a key by its name and the line where it stands, where something does not hold."""
        if not holds:
            here = re.compile(rf"""\s*\[*["']?{re.escape(key)}["']?\s*[=\]]""")
            line = next((n for n, line in enumerate(self.text.splitlines(), 1) if here.match(line)), None)
            raise LayoutError(f"{self.file}: {quoted(key)} {must}" + (f" (line {line})" if line else ""))

    def layout(self) -> Layout:
        """The layout, with what it has from the one that it extends."""
        for key in self.table:
            self.require(key in KEYS, key, f"is no key of a layout; the keys are {', '.join(sorted(KEYS))}")
        table = {"frameworks": None, **self.merged()}
        values = {key: KEYS[key](self, key, value) for key, value in table.items() if key != "extends"}
        names, scales, numbered = values["names"], values["scales"], values["numbered"]
        of_keras = not numbered or {"conv", "norm", "dense"} <= numbered.keys()
        self.require(of_keras, "numbered", "must name all of conv, norm and dense")
        scaled = not scales or names.keys() & NORMS <= scales.keys()
        self.require(scaled, "scales", "must name the scale layer of every normalisation that [names] has")
        one_of_two = bool(names) != bool(numbered)
        self.require(
            one_of_two, "names", "is missing; a layout needs [names], or [numbered] where layers have no names"
        )
        return Layout(name=Path(self.file).stem, **values)

    def merged(self) -> dict[str, Any]:
        """The keys of this file over those of the layout that it extends, sections key by key."""
        base = {}
        if (name := self.table.get("extends")) is not None:
            another = name in SHIPPED and f"{name}.toml" != Path(self.file).name
            self.require(another, "extends", f"must name another layout that ships with denseport, not {quoted(name)}")
            base = {key: value for key, value in _known(name).merged().items() if key not in NOT_INHERITED}
        sections = {section: {**base.get(section, {}), **self.section(section)} for section in SECTIONS}
        if self.table.get("names"):
            sections["numbered"] = self.section("numbered")
        return {**base, **self.table, **sections}

    def section(self, section: str) -> dict[str, Any]:
        table = self.table.get(section, {})
        self.require(isinstance(table, dict), section, f"must be a table; write [{section}]")
        keys = SECTIONS[section]
        for key in table:
            self.require(key in keys, key, f"is no key of [{section}]; the keys are {listed(sorted(keys), 30)}")
        return dict(table)

    def words(self, key: str, value: Any) -> str:
        self.require(isinstance(value, str), key, "must be a string")
        return str(value)

    def flag(self, key: str, value: Any) -> bool:
        self.require(isinstance(value, bool), key, "must be true or false")
        return bool(value)

    def frameworks(self, key: str, value: Any) -> tuple[Framework, ...]:
        known = isinstance(value, list) and value and all(name in FRAMEWORKS for name in map(str, value))
        self.require(bool(known), key, f"must list one or more of {', '.join(FRAMEWORKS)}")
        return tuple(FRAMEWORKS[name] for name in value)

    def preprocessing(self, key: str, value: Any) -> str:
        self.require(str(value) in PREPROCESSING, key, f"must be one of {', '.join(PREPROCESSING)}")
        return str(value)

    def strings(self, key: str, value: Any) -> tuple[str, ...]:
        every = value if isinstance(value, list) else [value]
        fit = all(isinstance(text, str) and 0 < len(text) <= MAX_NAME for text in every)
        self.require(fit, key, f"must be a string of 1 to {MAX_NAME} characters, or a list of such strings")
        return tuple(every)

    def spellings(self, _: str, table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Names by their key; `[]` takes back what the extended layout has there."""
        return {key: self.strings(key, value) for key, value in table.items() if value != []}

    def names(self, section: str, table: Mapping[str, Any]) -> Names:
        names: dict[str, tuple[Template, ...]] = {}
        for canonical, spellings in self.spellings(section, table).items():
            try:
                names[canonical] = tuple(map(Template, spellings))
            except LayoutError as error:
                self.require(False, canonical, f"is wrong: {error}")
            same = all(template.letters == Template(canonical).letters for template in names[canonical])
            self.require(same, canonical, "must have the same indices on both sides")
        return names

    def traits(self, key: str, table: Any) -> dict[str, Any]:
        known = isinstance(table, dict) and table.keys() <= TRAIT_NAMES
        self.require(known, key, f"must be a table of traits, which are {', '.join(sorted(TRAIT_NAMES))}")
        try:
            Traits(**table)
        except LayoutError as error:
            raise LayoutError(f"{self.file}: [{key}]: {error}") from None
        return dict(table)

    def variants(self, key: str, value: Any) -> tuple[Variant, ...]:
        variants = []
        for variant in value if isinstance(value, list) else [value]:
            match variant:
                case {"when": dict(when), "traits": traits, **rest} if not rest and when.keys() <= CONFIG_FACTS:
                    variants.append(Variant(self.facts(key, when), self.traits(key, traits)))
                case _:
                    self.require(False, key, "must each have `when`, a table of architecture, and `traits`")
        return tuple(variants)

    def facts(self, _: str, table: Mapping[str, Any]) -> dict[str, Any]:
        """Facts of an architecture; `any` takes back what the extended layout says of one."""
        facts = {fact: tuple(value) if isinstance(value, list) else value for fact, value in table.items()}
        return {fact: value for fact, value in facts.items() if value != "any"}

    def architecture(self, key: str, table: Mapping[str, Any]) -> dict[str, Any]:
        facts = self.facts(key, table)
        for fact, value in facts.items():
            wanted = type(getattr(DenseNetConfig(), fact))
            self.require(type(value) is wanted, fact, f"must be a {wanted.__name__}")
        return facts


# How each key of a layout file is read; what it means, and what it is where it is missing, says `Layout`.
KEYS: Mapping[str, Callable[[_Parser, str, Any], Any]] = {
    **dict.fromkeys(("extends", "title", "source", "note", "nested"), _Parser.words),
    **dict.fromkeys(("counters", "nameless", "detected"), _Parser.flag),
    **dict.fromkeys(("names", "plain", "scales"), _Parser.names),
    "frameworks": _Parser.frameworks,
    "preprocessing": _Parser.preprocessing,
    "extra": _Parser.strings,
    "numbered": _Parser.spellings,
    "traits": _Parser.traits,
    "variants": _Parser.variants,
    "architecture": _Parser.architecture,
    "builds": _Parser.facts,
}


@cache
def _known(name: str) -> _Parser:
    """The layout of that name which ships with the package; many extend the same few."""
    return _Parser(known_text(name), f"{name}.toml")
