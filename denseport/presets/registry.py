"""The presets that are known, found by name: read from TOML, with every mistake named by file, preset and key."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from denseport.errors import DenseportError, UsageError, listed, quoted
from denseport.layouts import find_layout
from denseport.net.config import VARIANTS, DenseNetConfig
from denseport.preprocessing import Preprocessing, find_preprocessing
from denseport.presets.preset import Preset, file_name

OWN_PRESETS = "DENSEPORT_PRESETS"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
HASH = re.compile(r"none|sha256:[0-9a-f]{8,64}|md5:[0-9a-f]{32}")
TEXTS = ("variant", "layout", "url", "hash", "preprocessing", "licence", "source")
REQUIRED: Mapping[str, type] = {**dict.fromkeys(TEXTS, str), "crop": int}
TYPES: Mapping[str, type] = {
    **REQUIRED,
    "architecture": dict,
    "top": bool,
    "crop_fraction": float,
    "interpolation": str,
    "classes": str,
    "parameters": int,
    "counts_statistics": bool,
    "top1": float,
    "top5": float,
}
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}


def known() -> Mapping[str, Preset]:
    """Every preset by name: those that ship with the package, and those of the file that DENSEPORT_PRESETS names.

    Raises:
        UsageError: That file cannot be read, or is no file of presets.
    """
    if own := os.environ.get(OWN_PRESETS):
        return {**_shipped(), **_read(own)}
    return _shipped()


def find(name: str) -> Preset:
    """A preset by its name, or by what follows the publisher where that says which one.

    Raises:
        UsageError: There is none, or there are several.
    """
    presets = known()
    if name in presets:
        return presets[name]
    several = [preset for preset in presets.values() if preset.name.partition("/")[2] == name]
    if len(several) == 1:
        return several[0]
    if several:
        raise UsageError(f"{quoted(name)}: several presets are called so: {listed(preset.name for preset in several)}")
    near = difflib.get_close_matches(name, [*presets, *(full.partition("/")[2] for full in presets)], cutoff=0.5)
    hint = f"near it are {listed(dict.fromkeys(near))}" if near else "`denseport presets` lists them"
    raise UsageError(f"{quoted(name)}: there is no such preset; {hint}")


def is_preset(name: str) -> bool:
    """Whether `find` has a preset or several of this name."""
    return any(name in (full, full.partition("/")[2]) for full in known())


@cache
def _shipped() -> Mapping[str, Preset]:
    return parse(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"), "presets.toml")


def _read(file: str) -> Mapping[str, Preset]:
    try:
        return parse(Path(file).read_text(encoding="utf-8"), file)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"{OWN_PRESETS} is {file}, which cannot be read ({why}); correct the setting") from None


def parse(text: str, file: str) -> dict[str, Preset]:
    """The presets of a TOML file's text by their names; `file` is what a message calls it.

    Raises:
        UsageError: It is no TOML, or a preset is not as it must be.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: is no TOML ({error})") from None
    if unknown := tables.keys() - {"publishers", "presets"}:
        raise UsageError(f"{file}: has {quoted(min(unknown))}; only publishers and presets can be there")
    publishers, presets = (_tables(tables.get(name, {}), f"{file}: {name}") for name in ("publishers", "presets"))
    return {name: _preset(name, publishers, own, f"{file}: {quoted(name)}") for name, own in presets.items()}


def _tables(value: object, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise UsageError(f"{where} must be tables")
    return value


def _preset(name: str, publishers: Mapping[str, dict[str, Any]], own: dict[str, Any], where: str) -> Preset:
    if not NAME.fullmatch(name):
        raise UsageError(f"{where} must be called publisher/name, in letters, digits, '.', '_' and '-'")
    facts = {**publishers.get(name.partition("/")[0], {}), **own}
    _check(facts, where)
    try:
        return Preset(
            name=name,
            config=_config(facts, where),
            layout=facts["layout"],
            url=facts["url"],
            hash=facts["hash"].removeprefix("none"),
            preprocessing=_preprocessing(facts),
            side=facts["crop"],
            top1=facts.get("top1"),
            top5=facts.get("top5"),
            published_parameters=facts.get("parameters"),
            counts_statistics=facts.get("counts_statistics", False),
            classes=facts.get("classes", "") if facts.get("top", True) else "",
            licence=facts["licence"],
            source=facts["source"],
        )
    except DenseportError as error:
        raise UsageError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def _check(facts: Mapping[str, Any], where: str) -> None:
    """Raises UsageError where a key is missing, unknown, or of another type than it must be."""
    for key in REQUIRED:
        if key not in facts:
            raise UsageError(f"{where} has no {key}")
    for key, value in facts.items():
        if key not in TYPES:
            raise UsageError(f"{where}: nothing is called {quoted(key)}; known: {', '.join(TYPES)}")
        wanted = int | float if TYPES[key] is float else TYPES[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and TYPES[key] is not bool):
            raise UsageError(f"{where}: {key} must be {WORDS[TYPES[key]]}, not {quoted(value)}")
    if not HASH.fullmatch(facts["hash"]):
        raise UsageError(f"{where}: hash must be sha256: or md5: and hexadecimal digits, or none")
    if not _can_be_fetched(facts["url"]):
        raise UsageError(f"{where}: url must be http or https, and end in a file's name, not {quoted(facts['url'])}")


def _can_be_fetched(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc and FILE_NAME.fullmatch(file_name(url)))


def _config(facts: Mapping[str, Any], where: str) -> DenseNetConfig:
    if facts["variant"] not in VARIANTS:
        raise UsageError(f"{where}: variant must be one of {', '.join(VARIANTS)}, not {quoted(facts['variant'])}")
    known = {field.name for field in dataclasses.fields(DenseNetConfig)} - {"traits"}
    architecture: Mapping[str, Any] = facts.get("architecture", {})
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in architecture.items()}
    for key, value in changes.items():
        if key not in known:
            raise UsageError(f"{where}: architecture has no {quoted(key)}; known: {', '.join(sorted(known))}")
        usual = getattr(DenseNetConfig(), key)
        whole = type(value) is not tuple or all(type(number) is int for number in value)
        if type(value) is not type(usual) or not whole:
            raise UsageError(f"{where}: architecture's {key} must be like {usual}, not {quoted(value)}")
    config = VARIANTS[facts["variant"]].replace(**changes)
    config = config if facts.get("top", True) else config.without_head()
    return config.replace(**find_layout(facts["layout"]).traits_of(config))


def _preprocessing(facts: Mapping[str, Any]) -> Preprocessing:
    named = find_preprocessing(facts["preprocessing"])
    changes = {key: facts[key] for key in ("crop", "crop_fraction", "interpolation") if key in facts}
    return dataclasses.replace(named, **changes)
