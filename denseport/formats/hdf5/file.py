"""The bytes of an HDF5 file: every access lies inside the file, and all of them together are bounded."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path

from denseport.errors import FormatError
from denseport.formats.source_file import SourceFile

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

RESAVE = "load it in Keras and save it again with model.save_weights"
_WORD = 0xFFFF_FFFF


class File:
    """An HDF5 file open for reading; within another file, where `start` and `length` say so.

    Attributes:
        path: What messages call it: where it lies, or `shown`.
        size: Number of bytes from the superblock to the end of the file.
        root: Address of the root group's object header.
        close: Closes the file; may be called twice.
        collections: Of strings, by address: where each string lies and its length.

    Raises:
        UsageError: The file cannot be opened.
        FormatError: It is no HDF5 file, is shorter or longer than its writer left it, which cuts it to what it has
            written, or was not closed.

    Source: section II.A, "Disk Format: Level 0A - Format Signature and Superblock".
    """

    def __init__(self, path: Path, start: int = 0, length: int | None = None, shown: str | Path | None = None) -> None:
        self._source = SourceFile(path, shown)
        self.path, self.close = self._source.path, self._source.close
        self._base = start
        self.size = self._source.size - start if length is None else min(length, self._source.size - start)
        self._reads_left = READS_AT_LEAST + min(READS_OF_EACH_BYTE * self.size, READS_AT_MOST)
        self._growth_left = GROWTH_AT_LEAST + GROWTH_AT_MOST * self.size
        superblock = self._superblock_address()
        self._base += superblock
        self.size -= superblock
        self.root = self._root_address()
        self.collections: dict[int, dict[int, tuple[int, int]]] = {}

    def at(self, address: int, length: int, what: str) -> bytes:
        """The `length` bytes at an address of the file, which are part of `what`.

        Raises:
            FormatError: They do not lie in the file, or the file's structures lead round and round.
        """
        if length < 0 or address < 0 or address > self.size - length:
            raise self.broken(f"{what} lies outside the file (address {address}, {length} bytes)")
        self.charge(length + CHARGE_OF_ONE_READ)
        return self._source.read(self._base + address, length)

    def fill(self, buffer: memoryview, address: int) -> None:
        """Fills a buffer of bytes from an address whose extent was checked before.

        Raises:
            FormatError: The file is no longer as long as it was.
            UsageError: It was closed.
        """
        self._source.fill(buffer, self._base + address)

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

    def _superblock_address(self) -> int:
        address = 0
        while address + len(SIGNATURE) <= self.size:
            if self.at(address, len(SIGNATURE), "the signature") == SIGNATURE:
                return address
            address = max(2 * address, 512)
        raise FormatError(f"{self.path}: is no HDF5 file; give the file that Keras saved")

    def _root_address(self) -> int:
        data = self.at(0, min(self.size, 96), "the superblock")
        fields = Fields(Part(self, "the superblock"), data, start=8)
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
            raise self.refused(f"it has addresses of {offset_size} and sizes of {length_size} bytes", RESAVE)
        if end - base != self.size:
            what = "is truncated" if end - base > self.size else "goes on behind its end"
            raise self.broken(f"it {what}: {end - base} bytes were written, {self.size} are there")
        return root


class Part:
    """Anything in a file that a message may be about, and what the message calls it."""

    def __init__(self, file: File, name: str) -> None:
        self.file = file
        self.name = name

    def at(self, address: int, length: int) -> bytes:
        """As `File.at`."""
        return self.file.at(address, length, self.name)

    def verified(self, address: int, length: int) -> bytes:
        """The bytes at an address before the checksum, which is the last four of the `length` bytes.

        Raises:
            FormatError: As for `File.at` and `File.verify`.
        """
        return self.file.verify(self.at(address, length), self.name)

    def fields(self, address: int, length: int) -> Fields:
        """The fields of the structure at an address."""
        return Fields(self, self.at(address, length))

    def broken(self, fault: str) -> FormatError:
        """The error for a file that contradicts itself here."""
        return self.file.broken(f"{self.name} {fault}")

    def refused(self, fault: str, remedy: str = RESAVE) -> FormatError:
        """The error for a file that uses what is not read here."""
        return self.file.refused(f"{self.name} {fault}", remedy)


class Fields:
    """The fields of one structure from first to last; a structure that ends early is an error, never a crash."""

    def __init__(self, part: Part, data: bytes, start: int = 0) -> None:
        self._part = part
        self._data = data
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
            raise self._part.broken("ends early")
        return compiled.unpack_from(self._data, start)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        start = self.position
        self.position += length
        if self.position > len(self._data):
            raise self._part.broken("ends early")
        return self._data[start : self.position]

    def integer(self, width: int) -> int:
        """The next unsigned integer, of any width in bytes."""
        return int.from_bytes(self.take(width), "little")


@lru_cache
def _compiled(layout: str) -> struct.Struct:
    return struct.Struct("<" + layout)


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash of 32 bits, which ends each newer structure (those of HDF5 1.8 and later).

    Source: HDF5 `src/H5checksum.c`, `H5_checksum_lookup3`; http://burtleburtle.net/bob/c/lookup3.c, `hashlittle`.
    """
    a = b = c = (0xDEADBEEF + len(data)) & _WORD
    if not data:
        return c
    words = struct.unpack(f"<{-(-len(data) // 12) * 3}I", data + bytes(-len(data) % 12))
    for index in range(0, len(words), 3):
        a, b, c = a + words[index] & _WORD, b + words[index + 1] & _WORD, c + words[index + 2] & _WORD
        if index + 3 < len(words):
            for bits in (4, 6, 8, 16, 19, 4):
                a = (a - c & _WORD) ^ (c << bits | c >> 32 - bits) & _WORD
                a, b, c = b, c + b & _WORD, a
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - (b << bits | b >> 32 - bits) & _WORD
        a, b, c = b, c, a
    return b
