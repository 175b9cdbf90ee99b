"""The bytes of an HDF5 file: every access lies inside the file, and all of them together are bounded."""

from __future__ import annotations

import os
import struct
import weakref
from functools import lru_cache
from pathlib import Path

from denseport.errors import FormatError
from denseport.formats.hdf5.checksum import lookup3

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 0xFFFF_FFFF_FFFF_FFFF

# Structures of an honest file are read a few times at most. A hostile one makes them refer to each other, so that a
# few kilobytes stand for an endless walk: each read is charged, and a file cannot be charged for more than this.
READS_OF_EACH_BYTE = 4
READS_AT_LEAST = 1 << 20
READS_AT_MOST = 64 << 20
CHARGE_OF_ONE_READ = 32

# Weights hardly shrink under gzip (about 1.1 times); a small file that declares far more than it stores is a bomb.
GROWTH_AT_MOST = 16
GROWTH_AT_LEAST = 64 << 20


class File:
    """An HDF5 file open for reading; within another file, where `start` and `length` say so.

    Attributes:
        path: What messages call it: where it lies, or `shown`.
        size: Number of bytes from the superblock to the end of the file.
        root: Address of the root group's object header.
        version: Version of the superblock: 0 and 1 up to HDF5 1.6 and by default since, 2 and 3 where asked for.
        close: Closes the file; may be called twice.
        collections: Of strings, by address: where each string lies and its length.

    Raises:
        FormatError: The file cannot be opened, is no HDF5 file, is shorter or longer than its writer left it, which
            cuts it to what it has written, or was not closed.

    Source: section II.A, "Disk Format: Level 0A - Format Signature and Superblock".
    """

    def __init__(self, path: Path, start: int = 0, length: int | None = None, shown: str | Path | None = None) -> None:
        self.path = shown or path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FormatError(f"{self.path}: cannot be opened ({error.strerror})") from None
        self.close = weakref.finalize(self, os.close, self._descriptor)
        length = os.fstat(self._descriptor).st_size if length is None else length
        self._base = start
        self.size = length
        self._reads_left = READS_AT_LEAST + min(READS_OF_EACH_BYTE * length, READS_AT_MOST)
        self._growth_left = GROWTH_AT_LEAST + GROWTH_AT_MOST * length
        superblock = self._superblock_address(length)
        self._base += superblock
        self.size -= superblock
        self.version, self.root = self._superblock()
        self.collections: dict[int, dict[int, tuple[int, int]]] = {}

    def at(self, address: int, length: int, what: str) -> bytes:
        """The `length` bytes at an address of the file.

        Raises:
            FormatError: They do not lie in the file, or the file's structures lead round and round.
        """
        if length < 0 or address < 0 or address > self.size - length:
            raise self.broken(f"{what} lies outside the file (address {address}, {length} bytes)")
        self.charge(length + CHARGE_OF_ONE_READ)
        try:
            data = os.pread(self._descriptor, length, self._base + address)
        except OSError as error:
            raise self.broken(f"{what} cannot be read ({error.strerror})") from None
        if len(data) != length:
            raise self.broken(f"{what} ends early: the file changed while it was read")
        return data

    def fill(self, buffer: memoryview, address: int, what: str) -> None:
        """Fills a buffer of bytes from an address whose extent was checked before.

        Raises:
            FormatError: The file is no longer as long as it was.
            ValueError: It was closed; its descriptor may be another file's by now.
        """
        if not self.close.alive:
            raise ValueError(f"{self.path} was closed before {what} was read")
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], self._base + address + done)
            except OSError as error:
                raise self.broken(f"{what} cannot be read ({error.strerror})") from None
            if not count:
                raise self.broken(f"{what} ends early: the file changed while it was read")
            done += count

    def charge(self, count: int) -> None:
        """Counts work that the file causes.

        Raises:
            FormatError: It is out of all proportion to the file.
        """
        self._reads_left -= count
        if self._reads_left < 0:
            raise self.broken("its structures refer to each other again and again")

    def admit(self, nbytes: int, what: str) -> None:
        """Counts the bytes that a dataset grows to in memory.

        Raises:
            FormatError: All datasets together declare far more than the file can hold.
        """
        self._growth_left -= nbytes
        if self._growth_left < 0:
            raise self.refused(
                f"{what} and those before it declare far more bytes than the file holds",
                "a file of weights does not grow like that; get it from a source you trust",
            )

    def verify(self, data: bytes, what: str) -> bytes:
        """The bytes before a structure's checksum, which are its last four.

        Raises:
            FormatError: The checksum is wrong.
        """
        if len(data) < 4 or lookup3(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise self.broken(f"{what} has a wrong checksum")
        return data[:-4]

    def broken(self, what: str) -> FormatError:
        """The error for a file that contradicts itself."""
        return FormatError(f"{self.path}: {what}; the file is damaged, copy or download it again")

    def refused(self, what: str, remedy: str) -> FormatError:
        """The error for a file that uses what is not read here."""
        return FormatError(f"{self.path}: {what}; {remedy}")

    def _superblock_address(self, length: int) -> int:
        address = 0
        while address + len(SIGNATURE) <= length:
            if self.at(address, len(SIGNATURE), "the signature") == SIGNATURE:
                return address
            address = max(2 * address, 512)
        raise FormatError(f"{self.path}: is no HDF5 file; give the file that Keras saved")

    def _superblock(self) -> tuple[int, int]:
        data = self.at(0, min(self.size, 96), "the superblock")
        fields = Fields(self, data, "the superblock", start=8)
        (version,) = fields.unpack("B")
        if version in (0, 1):
            _, _, _, _, offset_size, length_size = fields.unpack("6B")
            fields.take(9 if version == 0 else 13)
            base, _, end, _ = fields.unpack("4Q")
            _, root = fields.unpack("2Q")
        elif version in (2, 3):
            offset_size, length_size, flags = fields.unpack("3B")
            base, _, end, root = fields.unpack("4Q")
            self.verify(data[:48], "the superblock")
            if version == 3 and flags & 0b101:
                raise self.broken("it was not closed by the program that wrote it")
        else:
            raise self.refused(f"superblock version {version} is not known", "save it again with an older HDF5")
        if (offset_size, length_size) != (8, 8):
            raise self.refused(
                f"it has addresses of {offset_size} and sizes of {length_size} bytes", "save it with Keras"
            )
        if end - base != self.size:
            what = "is truncated" if end - base > self.size else "goes on behind its end"
            raise self.broken(f"it {what}: {end - base} bytes were written, {self.size} are there")
        return version, root


class Fields:
    """The fields of one structure from first to last; a structure that ends early is an error, never a crash."""

    def __init__(self, file: File, data: bytes, what: str, start: int = 0) -> None:
        self._file = file
        self._data = data
        self._what = what
        self.position = start

    @property
    def left(self) -> int:
        """The number of bytes that follow."""
        return len(self._data) - self.position

    def unpack(self, layout: str) -> tuple[int, ...]:
        """The next fields, by the letters of `struct`, little-endian and without padding."""
        compiled, start = _compiled(layout), self.position
        self.position += compiled.size
        if self.position > len(self._data):
            raise self._ends_early()
        return compiled.unpack_from(self._data, start)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        start = self.position
        self.position += length
        if self.position > len(self._data):
            raise self._ends_early()
        return self._data[start : self.position]

    def integer(self, width: int) -> int:
        """The next unsigned integer, of any width in bytes."""
        return int.from_bytes(self.take(width), "little")

    def _ends_early(self) -> FormatError:
        return self._file.broken(f"{self._what} ends early")


@lru_cache
def _compiled(layout: str) -> struct.Struct:
    return struct.Struct("<" + layout)
