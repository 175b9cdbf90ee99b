"""What the classes of a TorchScript program say of their modules: figures that stand in its text, which never runs.

A scripted class declares its constants; in a traced one they are the arguments of the one operator that it calls.

Source: torch/csrc/jit/serialization/python_print.cpp, export_module.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from denseport.formats.zip import ZipArchive

SCRIPTED = "__torch__."
MAX_TEXT = 1 << 20
MAX_TEXTS = 16 << 20

_MANGLED = re.compile(r"___torch_mangle_\d+\.")
_CLASS = re.compile(r"class (\w{1,200})\(Module\):")
_CONSTANT = re.compile(r"  (\w{1,100}) : Final\[.{1,100}?\] = (.{1,400})")
_LIST = r"\[([-\d, ]{1,40})\]"
_CALLS = (
    (re.compile(r"torch\.batch_norm\(.{1,200}, ([-\d.e]{1,30}), (?:True|False)\)"), ("eps",)),
    (
        re.compile(rf"torch\._convolution\([\w, ]{{1,200}}, {_LIST}, {_LIST}, {_LIST}, False, \[[0, ]*\], (\d+),"),
        ("stride", "padding", "dilation", "groups"),
    ),
    (
        re.compile(rf"torch\.max_pool\dd\(\w{{1,100}}, {_LIST}, {_LIST}, {_LIST}, {_LIST}(?:, (True))?"),
        ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    ),
    (
        re.compile(rf"torch\.avg_pool\dd\(\w{{1,100}}, {_LIST}, {_LIST}, {_LIST}(?:, (True))?"),
        ("kernel_size", "stride", "padding", "ceil_mode"),
    ),
    (re.compile(rf"torch\.adaptive_\w{{3}}_pool\dd\(\w{{1,100}}, {_LIST}\)"), ("output_size",)),
    (re.compile(r"torch\.leaky_relu_?\(\w{1,100}, ([-\d.e]{1,30})\)"), ("negative_slope",)),
    (re.compile(r'torch\.gelu\(\w{1,100}, approximate="(\w{1,20})"\)'), ("approximate",)),
)


def plain_name(dotted: str) -> str:
    """The name that a class has in Python, of one in a program."""
    return _MANGLED.sub("", dotted.removeprefix(SCRIPTED))


def figures(archive: ZipArchive, root: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The figures of each class of a program among the names that its pickle refers to.

    Args:
        archive: The program.
        root: The folder that all is in, with its slash.
        names: Dotted names.

    Raises:
        FormatError: An entry is broken.
    """
    files = dict.fromkeys(name.rpartition(".")[0] for name in names if name.startswith(SCRIPTED))
    found: dict[str, dict[str, Any]] = {}
    left = MAX_TEXTS
    for module in files:
        entry = archive.entries.get(f"{root}code/{module.replace('.', '/')}.py")
        if entry is None or entry.size > min(MAX_TEXT, left):
            continue
        left -= entry.size
        text = archive.content(entry, MAX_TEXT).decode("utf-8", "replace")
        of: dict[str, Any] = {}
        for line in text.splitlines():
            if line.startswith("class "):
                declared = _CLASS.match(line)
                of = found.setdefault(f"{module}.{declared[1]}", {}) if declared else {}
            elif line.startswith("  "):
                of |= _figures(line)
    return found


def _figures(line: str) -> dict[str, Any]:
    """What a line declares, or what it gives to an operator."""
    if constant := _CONSTANT.fullmatch(line):
        value = _value(constant[2])
        return {} if value is None else {constant[1]: value}
    if "torch." not in line or len(line) > 1000:
        return {}
    for call, names in _CALLS:
        if made := call.search(line):
            values = [_value(f"[{text}]" if "," in text else text) for text in map(str, made.groups())]
            return {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return {}


def _value(text: str) -> Any:
    """A number, a flag, a text or a list of numbers; None for anything else."""
    if text in ("True", "False"):
        return text == "True"
    if text[:1] in ("(", "["):
        values = [_value(each.strip()) for each in text[1:-1].split(",") if each.strip()]
        return None if any(type(value) not in (int, float) for value in values) else values
    if text.isidentifier() or (len(text) > 1 and text[0] == text[-1] == '"'):
        return None if text == "None" else text.strip('"')
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"-?\d{1,30}(\.\d{0,30})?(e[-+]?\d{1,3})?", text) and math.isfinite(float(text)):
        return float(text)
    return None
