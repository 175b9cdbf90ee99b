"""What a migration did: a result for each file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAILED, CONVERTED, UNCHANGED = "failed", "converted", "unchanged"


@dataclass(frozen=True)
class Result:
    """What became of one file.

    Attributes:
        source: Its path or URL.
        target: The target's name in the folder of targets.
        options: What `denseport.convert` was given.
        options_sha256: A hash of the options, and of the files that they name.
        status: `converted`, `unchanged` where it had been before, or `failed`.
        source_sha256: The source's hash; None where it failed.
        target_sha256: The hash of what a migration has written last to the target; None where none has.
        variant: The architecture's name; None where it failed.
        relative_error: How far the frameworks are apart; None where that was not asked for, or was not found out.
        error: Why it failed.
        notes: What a user should know.
        seconds: Wall time.
    """

    source: str
    target: str
    options: Mapping[str, Any]
    options_sha256: str
    status: str
    source_sha256: str | None = None
    target_sha256: str | None = None
    variant: str | None = None
    relative_error: float | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "notes": list(self.notes)
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Result:
        """The result that `to_dict` gave.

        Raises:
            TypeError: A key is missing or unknown, or a value of another kind.
        """
        result = cls(**{**plain, "notes": tuple(plain.get("notes", ()))})
        texts = (result.source, result.target, result.status, *result.notes)
        if not all(isinstance(text, str) for text in texts) or not isinstance(result.error, str | None):
            raise TypeError("a text")
        if not isinstance(result.relative_error, float | int | None):
            raise TypeError("a number")
        return result


@dataclass(frozen=True)
class MigrationReport:
    """What a migration did.

    Attributes:
        results: One a file, in the order in which they were given.
        results_file: Where they are written down.
        seconds: Wall time.
    """

    results: tuple[Result, ...]
    results_file: str
    seconds: float

    @property
    def failed(self) -> tuple[Result, ...]:
        """The results of the files that could not be converted."""
        return tuple(result for result in self.results if result.status == FAILED)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "results": [result.to_dict() for result in self.results],
            "results_file": self.results_file,
            "failed": len(self.failed),
            "seconds": self.seconds,
        }
