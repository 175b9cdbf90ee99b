"""Layout files: TOML to `Layout`, with every mistake named by file, key and line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.frameworks import FRAMEWORKS
from denseport.layouts.spec import Layout, Names, Variant
from denseport.layouts.template import Template
from denseport.net.config import TRAIT_NAMES, DenseNetConfig, Traits
from denseport.preprocessing import PREPROCESSING

FOLDER = Path(__file__).parent
LAYERS = (
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
NORMS = frozenset(layer for layer in LAYERS if ".norm" in layer)
CONFIG_FACTS = frozenset(field.name for field in fields(DenseNetConfig)) - {"traits"}
# What the presence of tensors shows; a layout may know better, so that a tensor it must have is missed.
STRUCTURE = frozenset({"dimensions", "stem_kernel", "stem_norm", "bottleneck_norm", "final_norm", "conv_bias"})
DERIVED_FACTS = frozenset({"blocks", "bn_size", "compression"})
SECTIONS: Mapping[str, frozenset[str]] = {
    "names": frozenset(LAYERS),
    "plain": frozenset(LAYERS),
    "scales": NORMS,
    "numbered": frozenset({"stem", "conv", "norm", "dense"}),
    "traits": TRAIT_NAMES,
    "architecture": STRUCTURE,
    "builds": CONFIG_FACTS | DERIVED_FACTS,
}
FLAGS: Mapping[str, bool] = {"counters": False, "nameless": False, "detected": True}
TEXTS = ("title", "source", "note", "extends", "nested", "preprocessing")
KEYS = frozenset({*SECTIONS, *FLAGS, *TEXTS, "frameworks", "variants", "extra"})
MAX_FILE_BYTES = 1 << 20
MAX_NAME = 200


@cache
def known_layouts() -> Mapping[str, Layout]:
    """The layouts that ship with the package, by name."""
    return {file.stem: _known(file.stem).layout() for file in sorted(FOLDER.glob("*.toml"))}


def known_text(name: str) -> str:
    """The TOML text of a layout that ships with the package."""
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def find_layout(name: str | Path) -> Layout:
    """A layout by its name, or from a TOML file of one's own.

    Raises:
        LayoutError: Neither is there, or the file is not a valid layout; the message names file, key and line.
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

    def layout(self) -> Layout:
        for key in self.table.keys() - KEYS:
            raise self.wrong(key, f"is no key of a layout; the keys are {', '.join(sorted(KEYS))}")
        for key in TEXTS:
            if not isinstance(self.table.get(key, ""), str):
                raise self.wrong(key, "must be a string")
        base = self.base()
        sections = {section: {**base.get(section, {}), **self.section(section)} for section in SECTIONS}
        if self.table.get("names"):
            sections["numbered"] = self.section("numbered")
        for section in ("architecture", "builds"):  # `any` takes back what the extended layout says
            sections[section] = {fact: own for fact, own in sections[section].items() if own != "any"}
        names = {name: self.names(sections[name]) for name in ("names", "plain", "scales")}
        if sections["numbered"] and not {"conv", "norm", "dense"} <= sections["numbered"].keys():
            raise self.wrong("numbered", "must name all of conv, norm and dense")
        if names["scales"].keys() and not names["names"].keys() & NORMS <= names["scales"].keys():
            raise self.wrong("scales", "must name the scale layer of every normalisation that [names] has")
        if bool(names["names"]) == bool(sections["numbered"]):
            raise self.wrong("names", "is missing; a layout needs [names], or [numbered] where layers have no names")
        return Layout(
            name=Path(self.file).stem,
            title=self.table.get("title", base.get("title", "")),
            source=self.table.get("source", base.get("source", "")),
            note=self.table.get("note", ""),
            frameworks=tuple(FRAMEWORKS[name] for name in self.frameworks(base)),
            names=names["names"],
            plain=names["plain"],
            scales=names["scales"],
            numbered={kind: self.strings(kind, own) for kind, own in sections["numbered"].items()},
            traits=self.traits("traits", sections["traits"]),
            variants=tuple(self.variant(variant) for variant in self.table.get("variants", base.get("variants", []))),
            architecture=self.facts(sections["architecture"]),
            builds=_hashable(sections["builds"]),
            extra=self.strings("extra", extra) if (extra := self.table.get("extra", base.get("extra"))) else (),
            nested=self.table.get("nested", base.get("nested", "")),
            preprocessing=self.preprocessing(base),
            file="",
            **{flag: self.flag(flag, base.get(flag, default)) for flag, default in FLAGS.items()},
        )

    def base(self) -> dict[str, Any]:
        """The table of the layout that this one extends, with what that one extends, or an empty one."""
        name = self.table.get("extends")
        if name is None:
            return {}
        if not re.fullmatch(r"[a-z0-9.-]{1,100}", name) or f"{name}.toml" == Path(self.file).name:
            raise self.wrong("extends", "must name another layout that ships with denseport")
        try:
            extended = _known(name)
        except FileNotFoundError:
            raise self.wrong("extends", f"names {quoted(name)}, which is no layout that ships with denseport") from None
        base, own = extended.base(), extended.table
        merged = {section: {**base.get(section, {}), **own.get(section, {})} for section in SECTIONS}
        inherited = {key: value for key, value in own.items() if key not in (*SECTIONS, "nameless", "detected")}
        return {**base, **inherited, **merged}

    def section(self, section: str) -> dict[str, Any]:
        table = self.table.get(section, {})
        if not isinstance(table, dict):
            raise self.wrong(section, f"must be a table; write [{section}]")
        for key in table.keys() - SECTIONS[section]:
            raise self.wrong(key, f"is no key of [{section}]; the keys are {listed(sorted(SECTIONS[section]), 30)}")
        return table

    def frameworks(self, base: Mapping[str, Any]) -> list[str]:
        named = self.table.get("frameworks", base.get("frameworks"))
        if not isinstance(named, list) or not named or not all(name in FRAMEWORKS for name in map(str, named)):
            raise self.wrong("frameworks", f"must list one or more of {', '.join(FRAMEWORKS)}")
        return named

    def preprocessing(self, base: Mapping[str, Any]) -> str:
        name: str = self.table.get("preprocessing", base.get("preprocessing", "none"))
        if name not in PREPROCESSING:
            raise self.wrong("preprocessing", f"must be one of {', '.join(PREPROCESSING)}")
        return name

    def names(self, table: Mapping[str, Any]) -> Names:
        parsed: dict[str, tuple[Template, ...]] = {}
        for canonical, own in table.items():
            if own == []:  # a layer of the extended layout that this one has not
                continue
            try:
                parsed[canonical] = tuple(Template(spelling) for spelling in self.strings(canonical, own))
            except LayoutError as error:
                raise self.wrong(canonical, f"is wrong: {error}") from None
            if any(template.letters != Template(canonical).letters for template in parsed[canonical]):
                raise self.wrong(canonical, "must have the same indices on both sides")
        return parsed

    def strings(self, key: str, own: object) -> tuple[str, ...]:
        every = own if isinstance(own, list) else [own]
        if not every or not all(isinstance(text, str) and 0 < len(text) <= MAX_NAME for text in every):
            raise self.wrong(key, f"must be a string of 1 to {MAX_NAME} characters, or a list of such strings")
        return tuple(every)

    def traits(self, key: str, table: object) -> dict[str, Any]:
        if not isinstance(table, dict) or table.keys() - TRAIT_NAMES:
            raise self.wrong(key, f"must be a table of traits, which are {', '.join(sorted(TRAIT_NAMES))}")
        try:
            Traits(**table)
        except LayoutError as error:
            raise LayoutError(f"{self.file}: [{key}]: {error}") from None
        return table

    def variant(self, variant: object) -> Variant:
        match variant:
            case {"when": dict(when), "traits": dict(traits), **rest} if not rest and not when.keys() - CONFIG_FACTS:
                return Variant(_hashable(when), self.traits("variants", traits))
        raise self.wrong("variants", "must each have `when`, a table of architecture, and `traits`, a table of traits")

    def facts(self, table: Mapping[str, Any]) -> dict[str, Any]:
        facts = _hashable(table)
        for fact, value in facts.items():
            wanted = type(getattr(DenseNetConfig(), fact))
            if type(value) is not wanted:
                raise self.wrong(fact, f"must be a {wanted.__name__}")
        return facts

    def flag(self, flag: str, default: bool) -> bool:
        value = self.table.get(flag, default)
        if not isinstance(value, bool):
            raise self.wrong(flag, "must be true or false")
        return value

    def wrong(self, key: str, why: str) -> LayoutError:
        return LayoutError(f"{self.file}: {quoted(key)} {why}{self.line_of(key)}")

    def line_of(self, key: str) -> str:
        """Where a key stands in the file, for an error; "" where it does not."""
        for number, line in enumerate(self.text.splitlines(), 1):
            if re.match(rf"""\s*\[*["']?{re.escape(key)}["']?\s*[=\]]""", line):
                return f" (line {number})"
        return ""


@cache
def _known(name: str) -> _Parser:
    """The layout of that name which ships with the package; many extend the same few.

    Raises:
        FileNotFoundError: There is none.
    """
    return _Parser(known_text(name), f"{name}.toml")


def _hashable(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's lists as the tuples that `DenseNetConfig` holds."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
