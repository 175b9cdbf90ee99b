"""What denseport raises, and how names and figures are written for people.

Every error names the file, the tensor and the remedy, and knows its exit code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class DenseportError(Exception):
    """Base of every error that denseport raises on purpose; its message is meant for the user."""

    exit_code: ClassVar[int] = 2


class FormatError(DenseportError):
    """A file is not what its format says: truncated, malformed, hostile or of an unknown kind."""


class LayoutError(DenseportError):
    """Names and shapes fit no layout, or more than one, or a layout cannot hold the architecture."""


class UsageError(DenseportError):
    """Options that contradict each other, or a path that cannot be used."""


class FrameworkMissingError(DenseportError):
    """A framework or library that the request needs is not installed; the message names the extra."""


class VerificationError(DenseportError):
    """What was written is not what was read, or the two frameworks' outputs are too far apart.

    `report` is the `ParityReport` or the `ConversionReport` of the check that failed, where there is one.
    """

    exit_code = 1

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


def quoted(name: object, width: int = 100) -> str:
    """A name out of a file, escaped and cut so that it cannot disturb a terminal or flood a message."""
    text = str(name)
    escaped = text[: width + 1].encode("unicode_escape").decode("ascii")
    return escaped if len(text) <= width and len(escaped) <= 2 * width else escaped[: width - 3] + "..."


def printable(text: str) -> str:
    """A line in which no character, of a file's name say, can disturb a terminal; all others stay as they are."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def listed(names: Iterable[object], limit: int = 20, width: int = 100) -> str:
    """The first `limit` names, escaped, cut and joined by commas; the rest are counted."""
    every = list(names)
    shown = ", ".join(quoted(name, width) for name in every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


def misfits(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What strict loading would say of keys and their shapes: missing, unexpected, of another size; [] if they fit."""
    found = {
        "missing keys": [name for name in expected if name not in given],
        "unexpected keys": [name for name in given if name not in expected],
        "size mismatch for": [
            f"{name} {shape} should be {expected[name]}"
            for name, shape in given.items()
            if name in expected and shape != expected[name]
        ],
    }
    return [f"{what} {listed(names, width=200)}" for what, names in found.items() if names]


def figure(error: float | None) -> str:
    """An error as people read it, with two digits; one that is not finite is None in JSON."""
    if error is None or not math.isfinite(error):
        return "NaN or Inf"
    return f"{error:.1e}" if error else "0"


def limit(tolerance: float) -> str:
    """A tolerance as people read it, which is a round figure as a rule."""
    return figure(tolerance).replace(".0e", "e")
