"""The presets that are known, found by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from denseport.errors import UsageError, listed, quoted
from denseport.presets.parse import parse
from denseport.presets.preset import Preset

OWN_PRESETS = "DENSEPORT_PRESETS"


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
