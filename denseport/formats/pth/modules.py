"""The modules of whole models that were pickled: their tensors by name, and what they say of themselves as plain data.

Source: torch/nn/modules/module.py `Module.__getstate__`, `_save_to_state_dict`, `_named_members`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from denseport.formats.pth.records import Name, Record
from denseport.formats.pth.scripts import SCRIPTED, plain_name

MAX_LEVELS = 64
MAX_MODULES = 1 << 14
# Sizes, strides and figures of a channel each.
MAX_VALUES = 64
MAX_TEXT = 200
_PLAIN = frozenset({bool, int, float, str, list, tuple, Name})


def is_module(value: object) -> bool:
    """Whether a record is that of a module."""
    return type(value) is Record and type(value.state) is dict and _part(value, "_modules") is not None


def members(module: Record) -> Iterator[tuple[object, object]]:
    """The parameters, the buffers that a state dict holds, and the modules within a module, by name."""
    for name, value in (_part(module, "_parameters") or {}).items():
        if value is not None:
            yield name, value
    passing = module.attributes.get("_non_persistent_buffers_set")
    for name, value in (_part(module, "_buffers") or {}).items():
        if value is not None and not (type(passing) is set and type(name) is str and name in passing):
            yield name, value
    yield from (_part(module, "_modules") or {}).items()


def _part(module: Record, name: str) -> Mapping[object, object] | None:
    part = module.attributes.get(name)
    if type(part) is Record:  # a subclass of dict
        part = part.entries or {}
    return part if type(part) is dict else None


def described(value: object, figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The modules within a value as a tree of plain data, or {} where there is none.

    A node has the `class` of a module, its `attributes` as far as they are figures and texts, and its `modules` by
    name. Around modules, the keys of dicts are nodes without a class. What lies deeper than any model is left out.

    Args:
        value: What was pickled.
        figures: Of the classes of a TorchScript program, by dotted name.
    """
    return _Description(figures).of(value, MAX_LEVELS) or {}


class _Description:
    """One look at the modules of a file, each as often as it is named, but `MAX_MODULES` times in all."""

    def __init__(self, figures: Mapping[str, Mapping[str, Any]]) -> None:
        self._figures = figures
        self._left = MAX_MODULES

    def of(self, value: object, levels: int) -> dict[str, Any] | None:
        """The node of a value, or None where it is no module and holds none."""
        within = _within(value)
        if within is None or not levels or not self._left:
            return None
        self._left -= 1
        nodes = {str(name): self.of(each, levels - 1) for name, each in within.items() if type(name) in (str, int)}
        modules = {name: node for name, node in nodes.items() if node}
        if not isinstance(value, Record):
            return {"class": "", "attributes": {}, "modules": modules} if modules else None
        attributes = {**_attributes(value), **self._figures.get(value.dotted, {})}
        return {"class": plain_name(value.dotted), "attributes": attributes, "modules": modules}


def _within(value: object) -> Mapping[object, object] | None:
    """Where to look for the modules in a value; None for one that is no module and no dict."""
    if type(value) is dict:
        return value
    if type(value) is not Record or type(value.state) is not dict:
        return None
    return value.state if value.dotted.startswith(SCRIPTED) else _part(value, "_modules")


def _attributes(module: Record) -> dict[str, Any]:
    """What a module says of itself in figures, texts and lists of them, and the names of functions."""
    found = {}
    for name, value in module.attributes.items():
        if type(value) in _PLAIN and type(name) is str and name[:1] != "_" and len(name) <= MAX_TEXT:
            plain = _plain(value)
            if plain is not None:
                found[name] = plain
    return found


def _plain(value: object) -> Any:
    kind = type(value)
    if kind is bool or (kind is int and abs(value) < 1 << 62) or (kind is float and math.isfinite(value)):  # type: ignore
        return value
    if kind is str and len(value) <= MAX_TEXT:  # type: ignore[arg-type]
        return value
    if kind is Name:
        return {"name": value.dotted}  # type: ignore[attr-defined]
    if kind in (list, tuple) and len(value) <= MAX_VALUES:  # type: ignore[arg-type]
        values = [_plain(each) if type(each) in (bool, int, float) else None for each in value]  # type: ignore
        return None if None in values else values
    return None
