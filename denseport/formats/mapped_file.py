"""A file mapped read-only into memory, so that arrays are views over it and nothing is loaded before it is used."""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

from denseport.errors import FormatError, UsageError


class MappedFile:
    """The bytes of a file.

    Raises:
        UsageError: The file cannot be opened.
        FormatError: The file is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
        except ValueError:  # the only value at fault can be the length
            raise FormatError(f"{path}: the file is empty; copy or download it again") from None
        self.size = len(self._bytes)

    @property
    def bytes(self) -> mmap.mmap:
        """The mapping itself.

        Raises:
            UsageError: The file has been closed.
        """
        if self._bytes.closed:
            raise UsageError(f"{self.path}: is closed already; read its tensors before that")
        return self._bytes

    def view(self, start: int, size: int) -> memoryview:
        """`size` bytes from `start` on. The view keeps the mapping open, and an array made of it keeps the view."""
        with memoryview(self.bytes) as everything:
            return everything[start : start + size]

    def close(self) -> None:
        """Releases the mapping, or leaves that to the last array that still looks into it."""
        with contextlib.suppress(BufferError):
            self._bytes.close()
