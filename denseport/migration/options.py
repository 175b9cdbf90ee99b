"""The options that a row of a manifest may have: what `denseport.convert` takes, as values of TOML or texts of CSV."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denseport.comparison_options import ComparisonOptions
from denseport.conversion import Dtype, Head
from denseport.errors import UsageError, quoted
from denseport.load import sha256

# A list of names is a text in CSV, with spaces between them.
KINDS: Mapping[str, type] = {
    "from_format": str,
    "to_format": str,
    "from_layout": str,
    "to_layout": str,
    "head": str,
    "classes": int,
    "dtype": str,
    "allow_trait_mismatch": bool,
    "compensate_epsilon": bool,
    "allow_nonfinite": bool,
    "verify": bool,
    "device": str,
    "tolerance": float,
    "inputs": str,
    "preprocess": str,
    "exact": bool,
    "against": list,
    "keras_backend": str,
    "allow_tf32": bool,
    "train_steps": int,
}
LARGEST = 2**53  # beyond it, not every program reads the number from JSON as it was
NAMING_FILES = ("from_layout", "to_layout", "inputs")
DEFAULTS: Mapping[str, Any] = {
    **{name: False for name, kind in KINDS.items() if kind is bool},
    "verify": True,
    "head": "keep",
    "dtype": "keep",
    "device": "auto",
    "against": [],
    "train_steps": 0,
}
SWITCHES = {"true": True, "false": False}


class Options(ComparisonOptions, total=False):
    """How files are converted and verified; `denseport.convert` and `denseport.verify` say what each option means."""

    from_format: str | None
    to_format: str | None
    from_layout: str | Path | None
    to_layout: str | Path | None
    head: Head
    classes: int | None
    dtype: Dtype
    allow_trait_mismatch: bool
    compensate_epsilon: bool
    allow_nonfinite: bool
    verify: bool


def from_toml(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options as TOML has them, checked.

    Raises:
        UsageError: A key is unknown or a value of another kind; the message begins with `where`.
    """
    for name, value in values.items():
        kind = _kind(name, where)
        right = type(value) is kind or (kind is float and type(value) is int)
        if not right or (kind is list and not all(isinstance(each, str) for each in value)):
            raise _wrong(name, f"a {type(value).__name__}", where)
        if isinstance(value, int | float) and not abs(value) < LARGEST:
            raise UsageError(f"{where}: {name} is out of range")
    return dict(values)


def from_csv(texts: Mapping[str, str], where: str) -> dict[str, Any]:
    """Options as CSV has them, parsed; an empty text is an option that is not given.

    Raises:
        UsageError: A key is unknown or a text says no value of its kind; the message begins with `where`.
    """
    return {name: _parsed(name, text, where) for name, text in texts.items() if text}


def check_names(names: Sequence[str], where: str) -> None:
    """Raises UsageError where one of the names is no option's."""
    for name in names:
        _kind(name, where)


def given(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Options that are not None, as values for JSON; files that were named relative to `folder` become absolute."""
    plain = {name: value for name, value in options.items() if value is not None}
    for name in NAMING_FILES:
        if name in plain:
            named = _names_a_file(name, plain[name])
            plain[name] = str(folder.absolute() / plain[name] if named else plain[name])
    if "against" in plain:
        plain["against"] = list(plain["against"])
    return plain


def without_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that say what holds anyway."""
    return {name: value for name, value in options.items() if name not in DEFAULTS or value != DEFAULTS[name]}


def identity(options: Mapping[str, Any], contents: dict[str, list[str]]) -> str:
    """A SHA-256 that changes with the options, and with the content of every file that they name.

    `contents` remembers that of each file while rows share it; it is empty at first.
    """
    files = {name: str(options[name]) for name in NAMING_FILES if _names_a_file(name, options.get(name))}
    for file in files.values():
        if file not in contents:
            contents[file] = _content(file)
    known = {name: contents[file] for name, file in files.items()}
    return hashlib.sha256(json.dumps([options, known], sort_keys=True).encode()).hexdigest()


def _names_a_file(name: str, value: str | Path | None) -> bool:
    """Whether the value of one of `NAMING_FILES` is a file or folder, and no layout's name."""
    return value is not None and (name == "inputs" or str(value).endswith(".toml"))


def _content(name: str) -> list[str]:
    """The hashes of a file, or of every file in a folder; nothing where there is none."""
    path = Path(name)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [f"{file.relative_to(path)} {sha256(file)}" for file in files if file.is_file()]


def _kind(name: str, where: str) -> type:
    try:
        return KINDS[name]
    except KeyError:
        raise UsageError(
            f"{where}: {quoted(name)} is no option; there are source, target, {', '.join(KINDS)}"
        ) from None


def _parsed(name: str, text: str, where: str) -> Any:
    kind = _kind(name, where)
    try:
        value = SWITCHES[text.lower()] if kind is bool else text.split() if kind is list else kind(text)
    except (KeyError, ValueError):
        raise _wrong(name, quoted(text), where) from None
    return from_toml({name: value}, where)[name]


def _wrong(name: str, found: str, where: str) -> UsageError:
    wanted = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of names"}
    return UsageError(f"{where}: {name} must be {wanted[KINDS[name]]}, not {found}")
