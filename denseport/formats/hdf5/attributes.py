"""Attributes, of which only strings and lists of strings have a meaning here."""

from __future__ import annotations

from denseport.errors import quoted
from denseport.formats.hdf5 import dense
from denseport.formats.hdf5.datatypes import Datatype, read_dataspace, read_datatype
from denseport.formats.hdf5.file import UNDEFINED, Fields, File
from denseport.formats.hdf5.headers import Header, Kind

STRING_REFERENCE = 16


class Attribute:
    """A named value on an object; only strings and lists of strings have a meaning here."""

    def __init__(self, file: File, header: Header, body: bytes) -> None:
        """Source: section IV.A.2.m, "The Attribute Message"."""
        self._file = file
        self._what = header.what
        fields = Fields(file, body, f"an attribute of {header.what}")
        version, flags, name_size, type_size, space_size = fields.unpack("BBHHH")
        if version not in (1, 2, 3):
            raise file.broken(f"{header.what} has an attribute of version {version}")
        fields.take(1 if version == 3 else 0)
        self.name = decoded(file, _padded(fields, name_size, version).split(b"\0")[0], header.what)
        self._what = f"attribute {quoted(self.name)} of {header.what}"
        self._shared = bool(flags & 0b11) and version > 1
        self._type = _padded(fields, type_size, version)
        self._space = _padded(fields, space_size, version)
        self._data = fields.take(fields.left)

    def text(self) -> str:
        """The value where it is a single string.

        Raises:
            FormatError: It is something else, or broken.
        """
        shape, strings = self._strings()
        if len(strings) != 1 or len(shape) > 1:
            raise self._file.broken(f"{self._what} is no single string")
        return strings[0]

    def texts(self) -> list[str]:
        """The value where it is a list of strings, or an empty list of anything.

        Raises:
            FormatError: It is something else, or broken.
        """
        shape, strings = self._strings()
        if len(shape) != 1:
            raise self._file.broken(f"{self._what} is no list of strings")
        return strings

    def _strings(self) -> tuple[tuple[int, ...], list[str]]:
        if self._shared:
            raise self._file.refused(f"{self._what} has a named datatype", "save it again with Keras")
        shape = read_dataspace(self._file, self._space, self._what)
        count = 1
        for side in shape:
            count *= side
        if not count:
            return shape, []
        kind = read_datatype(self._file, self._type, self._what)
        if kind.name not in ("string", "variable-length string"):
            raise self._file.broken(f"{self._what} holds {kind.name} where strings were expected")
        # The lesser of both guards the multiplication: a count of 2^60 has no data behind it.
        if not 0 < count <= len(self._data) or count * kind.size > len(self._data):
            raise self._file.broken(f"{self._what} declares {count} strings and stores {len(self._data)} bytes")
        stored = (self._data[start : start + kind.size] for start in range(0, count * kind.size, kind.size))
        if kind.name == "variable-length string":
            stored = (heap_string(self._file, reference, self._what) for reference in stored)
        else:
            stored = (_trimmed(data, kind) for data in stored)
        return shape, [decoded(self._file, data, self._what) for data in stored]


def read_attributes(file: File, header: Header) -> dict[str, Attribute]:
    """Every attribute of an object by name; those stored densely follow the others.

    Raises:
        FormatError: One of them cannot be read as far as its name, or a name occurs twice.
    """
    bodies = header.every(Kind.ATTRIBUTE, file)
    info = header.only(Kind.ATTRIBUTE_INFO, file)
    if info is not None:
        fields = Fields(file, info, header.what)
        _, flags = fields.unpack("BB")
        fields.take(2 if flags & 1 else 0)
        heap, names = fields.unpack("QQ")
        if heap != UNDEFINED:
            bodies += dense.objects(file, heap, names, dense.ATTRIBUTE_NAMES, header.what)
    attributes = {attribute.name: attribute for attribute in (Attribute(file, header, body) for body in bodies)}
    if len(attributes) != len(bodies):
        raise file.broken(f"{header.what} has two attributes of one name")
    return attributes


def heap_string(file: File, reference: bytes, what: str) -> bytes:
    """The bytes of a variable-length string, which lie in a collection of a global heap.

    Raises:
        FormatError: The reference leads nowhere, or its length is not the length that is stored.

    Source: section III.E, "Disk Format: Level 1E - Global Heap".
    """
    if len(reference) != STRING_REFERENCE:
        raise file.broken(f"{what} refers to its strings by {len(reference)} bytes")
    length, address, index = Fields(file, reference, what).unpack("IQI")
    if not length:
        return b""
    if address not in file.collections:
        file.collections[address] = _collection(file, address, what)
    start, stored = file.collections[address].get(index, (0, None))
    if stored != length:
        raise file.broken(f"{what} declares a string of {length} bytes where {stored or 'nothing'} is stored")
    return file.at(start, length, what).rstrip(b"\0")


def _collection(file: File, address: int, what: str) -> dict[int, tuple[int, int]]:
    """Where each object of a collection lies, and its length."""
    fields = Fields(file, file.at(address, 16, what), what)
    signature, size = fields.take(8), fields.integer(8)
    if signature[:5] != b"GCOL\x01":
        raise file.broken(f"{what} refers to address {address}, where no strings are stored")
    objects, position = {}, 16
    while position + 16 <= size:
        index, length = Fields(file, file.at(address + position, 16, what), what).unpack("H6xQ")
        if not index:
            break
        objects[index] = address + position + 16, length
        position += 16 + (length + 7) // 8 * 8
    return objects


def decoded(file: File, data: bytes, what: str) -> str:
    """Text out of the file.

    Raises:
        FormatError: It is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise file.broken(f"{what} has text that is not UTF-8: {quoted(data)}") from None


def _padded(fields: Fields, length: int, version: int) -> bytes:
    """A part of an attribute message, which version 1 pads to a multiple of eight bytes."""
    data = fields.take(length)
    if version == 1:
        fields.take(min(-length % 8, fields.left))
    return data


def _trimmed(data: bytes, kind: Datatype) -> bytes:
    if kind.padding == "space":
        return data.rstrip(b" ")
    return data.split(b"\0")[0] if kind.padding == "terminated" else data.rstrip(b"\0")
