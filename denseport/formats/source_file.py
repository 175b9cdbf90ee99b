"""The file that is read: nothing of it is in memory before it is needed, and a change under way is an error."""

from __future__ import annotations

import errno
import os
import stat
import weakref
from pathlib import Path

from denseport.errors import FormatError, UsageError
from denseport.formats.wrapped import COPY_AGAIN, GZIP, inflated, member

__all__ = ["COPY_AGAIN", "SourceFile"]


class SourceFile:
    """The bytes of a file, read on demand.

    It is not mapped into memory: when somebody truncates a mapped file, the next look at it ends the process. Of a tar
    archive of one file these are that file's; of what gzip was put around, those within, which alone are in memory.

    Attributes:
        path: What messages call it: where it lies, or `shown`.
        size: Number of its bytes when it was opened.
        wrapped: What it was found in: `gzip`, `tar`, both or nothing.

    Raises:
        UsageError: It cannot be opened, or is no regular file.
        FormatError: The file is empty.
    """

    def __init__(self, path: Path, shown: str | Path | None = None) -> None:
        self.path = shown or path
        try:
            # A pipe is opened without waiting for somebody who writes into it.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self._closing = weakref.finalize(self, os.close, self._descriptor)
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            self.size = status.st_size
        except OSError as error:
            raise UsageError(
                f"{self.path}: cannot be read ({error.strerror}); check the path and its permissions"
            ) from None
        self._start, self._content = 0, b""
        self.wrapped: tuple[str, ...] = ()
        if not self.size:
            raise FormatError(f"{self.path}: the file is empty; {COPY_AGAIN}")
        try:
            self._unwrap()
        except FormatError:
            self.close()
            raise

    def _unwrap(self) -> None:
        """Looks into gzip and tar, once each."""
        if self.read(0, len(GZIP)) == GZIP:
            self._content = inflated(self.path, self.read, self.size)
            self.size = len(self._content)
            self.wrapped = ("gzip",)
            if not self.size:
                raise FormatError(f"{self.path}: the file within is empty; {COPY_AGAIN}")
        if found := member(self.path, self.read, self.size):
            self._start, self.size = found
            self.wrapped = (*self.wrapped, "tar")

    def read(self, start: int, size: int) -> bytes:
        """The `size` bytes from `start` on, or of those before the end of the file.

        Raises:
            FormatError: The file has become shorter, or the disk fails.
            UsageError: The file has been closed.
        """
        self._check_open()
        size = max(0, min(size, self.size - start))
        start += self._start
        if self._content:
            return self._content[start : start + size]
        content = b""
        while len(content) < size:  # Linux reads 2 GiB at once
            try:
                more = os.pread(self._descriptor, size - len(content), start + len(content))
            except OSError as error:
                raise self._failed(error) from None
            if not more:
                raise self._shorter()
            content = content + more if content else more
        return content

    def fill(self, buffer: memoryview, start: int) -> None:
        """Fills a buffer of bytes from `start` on, without a copy.

        Raises:
            FormatError: The file has not so many bytes any longer, or the disk fails.
            UsageError: The file has been closed.
        """
        self._check_open()
        start += self._start
        if self._content:
            if start + len(buffer) > len(self._content):
                raise self._shorter()
            buffer[:] = self._content[start : start + len(buffer)]
            return
        while buffer:
            try:
                count = os.preadv(self._descriptor, [buffer], start)
            except OSError as error:
                raise self._failed(error) from None
            if not count:
                raise self._shorter()
            buffer, start = buffer[count:], start + count

    def _check_open(self) -> None:
        if not self._closing.alive:  # the descriptor may be another file's by now
            raise UsageError(f"{self.path}: is closed already; read its tensors before that")

    def _failed(self, error: OSError) -> FormatError:
        return FormatError(f"{self.path}: cannot be read ({error.strerror}); check the disk")

    def _shorter(self) -> FormatError:
        return FormatError(f"{self.path}: became shorter while it was read; read it again when it is whole")

    def close(self) -> None:
        """Closes the file; arrays that were read stay."""
        self._closing()
