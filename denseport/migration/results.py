"""What became of each file, and the file that says so: one JSON object a line, read when a run is taken up again."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from denseport.atomic import temporary_folder
from denseport.errors import FormatError, UsageError
from denseport.migration import places

FILE_NAME = "denseport-migration.jsonl"
SECONDS_BETWEEN_UPLOADS = 10.0
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
        return {**vars(self), "notes": list(self.notes)}

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


class Results:
    """Results by their target's name, the last one of each; whoever adds one finds it on the disk."""

    def __init__(self, file: BinaryIO, place: str, remote: bool) -> None:
        self._file = file
        self._place = place
        self._remote = remote
        self._uploaded = time.monotonic()
        self._pending = False
        self.by_target = {result.target: result for result in _read(file, place)}

    def add(self, result: Result) -> None:
        """Writes a result down."""
        line = json.dumps(result.to_dict()).encode() + b"\n"
        try:
            whole = os.write(self._file.fileno(), line) == len(line)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error.strerror) from None
        if not whole:
            raise self._unwritable("No space left on device")
        self.by_target[result.target] = result
        self._pending = True
        if time.monotonic() - self._uploaded > SECONDS_BETWEEN_UPLOADS:
            self.upload()

    def _unwritable(self, reason: str | None) -> UsageError:
        return UsageError(f"{self._place}: cannot be written ({reason}); free space, and run the migration again")

    def upload(self) -> None:
        """Sends the file, where it belongs to a remote folder, and something was added."""
        if not self._remote or not self._pending:
            return
        with places.replacing(self._place, force=True) as copy:
            copy.write_bytes(Path(self._file.name).read_bytes())
        self._uploaded = time.monotonic()
        self._pending = False


@contextmanager
def opened(dst: str) -> Iterator[Results]:
    """The results of the folder of targets, which is made where it is missing; one run at a time has a local one.

    A last line that was cut off when a run was killed is taken away. A remote file is sent every few seconds, whole: of
    a killed run, what came later is found out again.

    Raises:
        UsageError: The folder cannot be used, or another migration is at work in it.
        FormatError: A line is no result.
    """
    place = places.absolute(FILE_NAME, dst)
    with temporary_folder(Path(tempfile.gettempdir()), places.TEMPORARY) as folder:
        remote = places.is_remote(place)
        path = folder / FILE_NAME if remote else Path(place)
        if remote and places.digest(place) is not None:
            with places.fetched(place) as copy:
                path.write_bytes(copy.read_bytes())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b")
        except OSError as error:
            raise UsageError(f"{place}: cannot be written ({error.strerror}); choose another folder") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{dst}: another migration is at work there; wait for it, or end it") from None
            except OSError as error:
                raise UsageError(
                    f"{place}: cannot be locked ({error.strerror}); choose a folder on another file system"
                ) from None
            results = Results(file, place, remote)
            try:
                yield results
            finally:
                results.upload()


def _read(file: BinaryIO, place: str) -> Iterator[Result]:
    """The results of whole lines; what follows the last of them is cut off."""
    file.seek(0)
    end = 0
    for n, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            file.truncate(end)
            return
        end += len(line)
        try:
            yield Result.from_dict(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            raise FormatError(f"{place}: line {n} is no result of a migration; remove the line or the file") from None
