"""Zip archives from strangers: every header is checked before any content is used, and nothing is ever extracted.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from types import MappingProxyType

from denseport.errors import FormatError, quoted
from denseport.formats.source_file import COPY_AGAIN, SourceFile

# The records that make an archive, as `struct` lays them out, little-endian; each starts with its signature.
#
# version, flags, method, time, date, crc, stored size, size, length of name, length of extra fields
LOCAL_SIGNATURE, LOCAL = b"PK\x03\x04", Struct("<4s5H3I2H")
# crc, stored size, size
DESCRIPTOR_SIGNATURE, DESCRIPTOR, DESCRIPTOR64 = b"PK\x07\x08", Struct("<4s3I"), Struct("<4sI2Q")
# version made by, version, flags, method, time, date, crc, stored size, size, lengths of name, extra fields and
# comment, disk, internal attributes, external attributes, position of the local header
CENTRAL_SIGNATURE, CENTRAL = b"PK\x01\x02", Struct("<4s6H3I5H2I")
# length of what follows, version made by, version, disk, directory's disk, entries here, entries, directory's size and
# position
END64_SIGNATURE, END64 = b"PK\x06\x06", Struct("<4sQ2H2I4Q")
# disk, position of the zip64 end record, disks
END64_LOCATOR_SIGNATURE, END64_LOCATOR = b"PK\x06\x07", Struct("<4sIQI")
# disk, directory's disk, entries here, entries, directory's size and position, length of comment
END_SIGNATURE, END = b"PK\x05\x06", Struct("<4s4H2IH")

DESCRIPTOR_FOLLOWS, UTF8 = 1 << 3, 1 << 11
ZIP64_EXTRA = 1
# A field that is full stands in the zip64 extra field or end record instead.
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF

MAX_ENTRIES = 1 << 15
MAX_DIRECTORY = 16 << 20
# Deflate turns 1 MB into 1 GB. Weights are noise and shrink by a tenth, so that a much larger promise is no checkpoint.
MAX_INFLATION = 16
FREE_INFLATION = 128 << 20

_DESCRIPTORS = (Struct("<3I"), DESCRIPTOR, Struct("<I2Q"), DESCRIPTOR64)

_ENCRYPTED = 1 << 0
_DEFLATE_LEVEL = 1 << 1 | 1 << 2
_STORED, _DEFLATED = 0, 8

# What is in memory at once of an entry that is read for its checksum alone.
_PIECE = 1 << 20

_REZIP = "write the archive again with zip or Python's zipfile"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in an archive: `size` bytes that take `stored_size` bytes from `start` on, deflated or as they are."""

    name: str
    start: int
    size: int
    stored_size: int
    deflated: bool
    crc: int


@dataclass(frozen=True, slots=True)
class _Header:
    """What the central directory says of an entry; `local` is the position of its other header."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    stored_size: int
    size: int
    local: int


class ZipArchive:
    """The entries of a zip file by name, in the order of its directory; folders are left out.

    Raises:
        FormatError: The archive is cut off, contradicts itself, is encrypted or split, promises far more than it
            stores, or holds duplicate, overlapping or unsafe entries or bytes outside its structure.
    """

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._verified: set[str] = set()
        names: set[str] = set()
        entries: dict[str, Entry] = {}
        extents: list[tuple[int, int, str]] = []
        count, directory, directory_end = self._end_record()
        for header in self._directory(count, directory, directory_end):
            name = header.name
            if name in names:
                raise self._refused(f"holds two entries named {quoted(name)}; {_REZIP}")
            names.add(name)
            self._check_kind(header)
            start, end = self._content_extent(header, directory)
            extents.append((header.local, end, name))
            if not name.endswith("/"):
                deflated = header.method == _DEFLATED
                entries[name] = Entry(name, start, header.size, header.stored_size, deflated, header.crc)
        self._check_extents(extents)
        self.entries: Mapping[str, Entry] = MappingProxyType(entries)
        inflated = sum(entry.size for entry in entries.values() if entry.deflated)
        if inflated > max(MAX_INFLATION * file.size, FREE_INFLATION):
            raise self._refused(
                f"a zip archive of {file.size} bytes claims to hold {inflated}; store the entries uncompressed"
            )

    def content(self, entry: Entry, limit: int) -> bytes:
        """A copy of a small entry, its checksum verified.

        Raises:
            FormatError: The entry is longer than `limit`, or broken.
        """
        if entry.size > limit:
            raise self._entry_refused(
                entry.name, f"has {entry.size} bytes, more than the {limit} it may have; {_REZIP}"
            )
        return self.read(entry, 0, entry.size)

    def read(self, entry: Entry, start: int, size: int) -> bytes:
        """`size` bytes of the entry from its byte `start` on.

        The checksum of a stored entry is verified the first time, that of a deflated one every time it is inflated.

        Raises:
            FormatError: The bytes are not those that were written.
        """
        if entry.deflated:
            content = self._inflated(entry)
            self._compare(entry, zlib.crc32(content))
            return content[start : start + size]
        if entry.name not in self._verified and size < entry.size:
            self.verify(entry)
        content = self._file.read(entry.start + start, size)
        if entry.name not in self._verified:
            self._compare(entry, zlib.crc32(content))
            self._verified.add(entry.name)
        return content

    def verify(self, entry: Entry) -> None:
        """Reads a stored entry piece by piece for its checksum alone.

        Raises:
            FormatError: The bytes are not those that were written.
        """
        crc = 0
        for start in range(0, entry.size, _PIECE):
            crc = zlib.crc32(self._file.read(entry.start + start, min(_PIECE, entry.size - start)), crc)
        self._compare(entry, crc)
        self._verified.add(entry.name)

    def _compare(self, entry: Entry, crc: int) -> None:
        # Zero means that none was computed: torch.serialization.set_crc32_options(False).
        if entry.crc and entry.crc != crc:
            raise self._entry_refused(entry.name, f"does not match its checksum; {COPY_AGAIN}")

    def _inflated(self, entry: Entry) -> bytes:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = stream.decompress(self._file.read(entry.start, entry.stored_size), entry.size + 1)
        except zlib.error:
            raise self._entry_refused(entry.name, f"is not valid deflate data; {COPY_AGAIN}") from None
        if len(content) != entry.size or not stream.eof or stream.unused_data:
            raise self._entry_refused(entry.name, f"does not inflate to its {entry.size} bytes; {COPY_AGAIN}")
        return content

    def _end_record(self) -> tuple[int, int, int]:
        """The number of entries, and where the central directory starts and ends."""
        first = max(0, self._file.size - END.size - FULL16)
        data = self._file.read(first, END.size + FULL16)
        candidates = []
        position = data.find(END_SIGNATURE)
        while 0 <= position <= len(data) - END.size:
            if position + END.size + int.from_bytes(data[position + 20 : position + 22], "little") == len(data):
                candidates.append(first + position)
            position = data.find(END_SIGNATURE, position + 1)
        if not candidates:
            raise self._refused(f"the zip archive is cut off, or something follows its end; {COPY_AGAIN}")
        if len(candidates) > 1:
            raise self._refused(f"the zip archive ends in more than one way; {_REZIP}")
        end = candidates[0]
        _, disk, directory_disk, disk_count, count, directory_size, directory, _ = END.unpack(
            self._file.read(end, END.size)
        )
        plain = (disk, directory_disk, disk_count, count, directory_size, directory)
        located = end - END64_LOCATOR.size
        if located >= 0 and self._file.read(located, 4) == END64_LOCATOR_SIGNATURE:
            end = self._end64_position(located)
            _, _, _, _, *wide = END64.unpack(self._file.read(end, END64.size))
            for narrow, value, full in zip(plain, wide, (FULL16,) * 4 + (FULL32,) * 2, strict=True):
                if narrow not in (full, value):
                    raise self._refused(f"the zip archive's two end records contradict each other; {_REZIP}")
            disk, directory_disk, disk_count, count, directory_size, directory = wide
        elif FULL16 in plain[:4] or FULL32 in plain[4:]:
            raise self._refused(f"the zip archive lacks its zip64 end record; {COPY_AGAIN}")
        if disk or directory_disk or disk_count != count:
            raise self._refused("is one part of a split zip archive; join the parts")
        if directory + directory_size != end:
            raise self._refused(f"the zip archive's directory is not where its end record says; {COPY_AGAIN}")
        if not count:
            raise self._refused(f"is an empty zip archive; {COPY_AGAIN}")
        if count > MAX_ENTRIES:
            raise self._refused(f"the zip archive has {count} entries, more than {MAX_ENTRIES}; {_REZIP}")
        return count, directory, end

    def _end64_position(self, locator: int) -> int:
        _, disk, position, disks = END64_LOCATOR.unpack(self._file.read(locator, END64_LOCATOR.size))
        if disk or disks > 1:
            raise self._refused("is one part of a split zip archive; join the parts")
        if position + END64.size > locator or self._file.read(position, 4) != END64_SIGNATURE:
            raise self._refused(f"the zip archive's zip64 end record is missing; {COPY_AGAIN}")
        if position + 12 + int.from_bytes(self._file.read(position + 4, 8), "little") != locator:
            raise self._refused(f"the zip archive's zip64 end record has the wrong length; {COPY_AGAIN}")
        return int(position)

    def _directory(self, count: int, start: int, end: int) -> Iterator[_Header]:
        if end - start > MAX_DIRECTORY:
            raise self._refused(
                f"the zip archive's directory has {end - start} bytes, more than {MAX_DIRECTORY}; {_REZIP}"
            )
        directory, position = self._file.read(start, end - start), 0
        for _ in range(count):
            if position + CENTRAL.size > len(directory):
                raise self._refused(f"the zip archive's directory is cut off; {COPY_AGAIN}")
            (signature, _, _, flags, method, _, _, crc, stored_size, size, *lengths, disk, _, _, local) = (
                CENTRAL.unpack_from(directory, position)
            )
            following = position + CENTRAL.size + sum(lengths)
            if signature != CENTRAL_SIGNATURE or following > len(directory):
                raise self._refused(f"the zip archive's directory is malformed; {COPY_AGAIN}")
            name_start = position + CENTRAL.size
            extra_start = name_start + lengths[0]
            raw_name = directory[name_start:extra_start]
            extra = directory[extra_start : extra_start + lengths[1]]
            name = self._name(raw_name, flags)
            if FULL32 in (size, stored_size, local):
                size, stored_size, local = self._widened(name, extra, size, stored_size, local)
            if disk:
                raise self._refused("is one part of a split zip archive; join the parts")
            yield _Header(name, raw_name, flags, method, crc, stored_size, size, local)
            position = following
        if position != len(directory):
            raise self._refused(f"the zip archive's directory holds more than its {count} entries; {_REZIP}")

    def _name(self, raw: bytes, flags: int) -> str:
        try:
            name = raw.decode("utf-8" if flags & UTF8 else "cp437")
        except UnicodeDecodeError:
            raise self._entry_refused(raw, f"has a name that is not UTF-8; {_REZIP}") from None
        parts = name.removesuffix("/").split("/")
        # An empty first part is an absolute path, a colon in it a Windows drive.
        if {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name or ":" in parts[0]:
            raise self._entry_refused(name, f"has an unsafe name; {_REZIP}")
        return name

    def _widened(self, name: str, extra: bytes, *fields: int) -> list[int]:
        """The fields, those that are full replaced by what the zip64 extra field holds for them, in order."""
        position = 0
        while position + 4 <= len(extra):
            kind = int.from_bytes(extra[position : position + 2], "little")
            end = position + 4 + int.from_bytes(extra[position + 2 : position + 4], "little")
            if kind == ZIP64_EXTRA and 8 * fields.count(FULL32) <= min(end, len(extra)) - position - 4:
                wide = iter(Struct(f"<{fields.count(FULL32)}Q").unpack_from(extra, position + 4))
                return [next(wide) if field == FULL32 else field for field in fields]
            position = end
        raise self._entry_refused(name, f"lacks its zip64 sizes; {COPY_AGAIN}")

    def _check_kind(self, header: _Header) -> None:
        if header.flags & _ENCRYPTED:
            raise self._entry_refused(header.name, "is encrypted; decrypt the archive first")
        allowed = _DEFLATE_LEVEL | DESCRIPTOR_FOLLOWS | UTF8
        if header.flags & ~allowed or header.method not in (_STORED, _DEFLATED):
            kind = f"method {header.method}, flags {header.flags:#x}"
            raise self._entry_refused(header.name, f"is neither stored nor deflated ({kind}); {_REZIP}")
        if header.name.endswith("/") and header.size:
            raise self._entry_refused(header.name, f"is a folder with content; {_REZIP}")
        if header.method == _STORED and header.size != header.stored_size:
            raise self._entry_refused(
                header.name, f"claims {header.size} bytes and stores {header.stored_size}; {COPY_AGAIN}"
            )

    def _content_extent(self, header: _Header, directory: int) -> tuple[int, int]:
        """Where the content starts, and where all that belongs to the entry ends; its two headers must agree."""
        if header.local + LOCAL.size > directory:
            raise self._entry_refused(header.name, f"lies outside the archive; {COPY_AGAIN}")
        found = self._file.read(header.local, LOCAL.size + len(header.raw_name))
        signature, _, flags, method, _, _, crc, stored_size, size, name_length, extra_length = LOCAL.unpack_from(found)
        name_end = header.local + LOCAL.size + name_length
        start = name_end + extra_length
        end = start + header.stored_size
        if signature != LOCAL_SIGNATURE or end > directory:
            raise self._entry_refused(header.name, f"lies outside the archive; {COPY_AGAIN}")
        if FULL32 in (stored_size, size):
            size, stored_size = self._widened(header.name, self._file.read(name_end, extra_length), size, stored_size)
        # Where a descriptor follows, the local header may have been written before any of this was known.
        unknown = {0} if header.flags & DESCRIPTOR_FOLLOWS else set()
        if (
            (name_length, found[LOCAL.size :]) != (len(header.raw_name), header.raw_name)
            or method != header.method
            or (flags ^ header.flags) & (_ENCRYPTED | DESCRIPTOR_FOLLOWS)
            or crc not in {header.crc} | unknown
            or stored_size not in {header.stored_size} | unknown
            or size not in {header.size} | unknown
        ):
            raise self._entry_refused(header.name, f"contradicts the archive's directory; {_REZIP}")
        if header.flags & DESCRIPTOR_FOLLOWS:
            end += self._descriptor_length(header, self._file.read(end, min(_DESCRIPTORS[-1].size, directory - end)))
        return start, end

    def _descriptor_length(self, header: _Header, found: bytes) -> int:
        """How long the data descriptor is, which comes in 32 or 64 bits, with or without a signature."""
        values = (header.crc, header.stored_size, header.size)
        for descriptor in _DESCRIPTORS:
            if len(found) >= descriptor.size and descriptor.unpack_from(found) in (
                values,
                (DESCRIPTOR_SIGNATURE, *values),
            ):
                return descriptor.size
        raise self._entry_refused(header.name, f"contradicts its data descriptor; {_REZIP}")

    def _check_extents(self, extents: list[tuple[int, int, str]]) -> None:
        extents.sort()
        if extents[0][0]:
            raise self._refused(f"{extents[0][0]} bytes precede the zip archive; {_REZIP}")
        for (_, end, name), (following, _, next_name) in pairwise(extents):
            if following < end:
                raise self._refused(f"entries {quoted(name)} and {quoted(next_name)} overlap; {_REZIP}")

    def _refused(self, reason: str) -> FormatError:
        return FormatError(f"{self._file.path}: {reason}")

    def _entry_refused(self, name: str | bytes, reason: str) -> FormatError:
        return self._refused(f"zip entry {quoted(name)} {reason}")
