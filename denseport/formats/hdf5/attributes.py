"""Attributes, of which only strings and lists of strings have a meaning here."""

from __future__ import annotations

from math import prod

from denseport.errors import quoted
from denseport.formats.hdf5.btrees import ATTRIBUTE_NAMES, densely_stored
from denseport.formats.hdf5.file import Fields, Part
from denseport.formats.hdf5.headers import SPACES, TERMINATED, Datatype, Header, Message, read_dataspace, read_datatype

STRING_REFERENCE = 16


class Attribute:
    """A named value on an object.

    Source: section IV.A.2.m, "The Attribute Message".
    """

    def __init__(self, header: Header, body: bytes) -> None:
        fields = Fields(Part(header.file, f"an attribute of {header.name}"), body)
        version, flags, name_size, type_size, space_size = fields.unpack("BBHHH")
        if version not in (1, 2, 3):
            raise header.broken(f"has an attribute of version {version}")
        fields.take(1 if version == 3 else 0)
        self.name = decoded(header, _padded(fields, name_size, version).split(b"\0")[0])
        self._part = Part(header.file, f"attribute {quoted(self.name)} of {header.name}")
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
            raise self._part.broken("is no single string")
        return strings[0]

    def texts(self) -> list[str]:
        """The value where it is a list of strings, or an empty list of anything.

        Raises:
            FormatError: It is something else, or broken.
        """
        shape, strings = self._strings()
        if len(shape) != 1:
            raise self._part.broken("is no list of strings")
        return strings

    def _strings(self) -> tuple[tuple[int, ...], list[str]]:
        part = self._part
        if self._shared:
            raise part.refused("has a named datatype")
        shape = read_dataspace(part, self._space)
        count = prod(shape)
        if not count:
            return shape, []
        kind = read_datatype(part, self._type)
        if kind.name not in ("string", "variable-length string"):
            raise part.broken(f"holds {kind.name} where strings were expected")
        # The lesser of both guards the multiplication: a count of 2^60 has no data behind it.
        if count > len(self._data) or count * kind.size > len(self._data):
            raise part.broken(f"declares {count} strings and stores {len(self._data)} bytes")
        stored = (self._data[start : start + kind.size] for start in range(0, count * kind.size, kind.size))
        if kind.name == "variable-length string":
            stored = (_heap_string(part, reference) for reference in stored)
        else:
            stored = (_trimmed(data, kind) for data in stored)
        return shape, [decoded(part, data) for data in stored]


def read_attributes(header: Header) -> dict[str, Attribute]:
    """Every attribute of an object by name; those stored densely follow the others.

    Raises:
        FormatError: One of them cannot be read as far as its name, or a name occurs twice.
    """
    bodies = [*header.every(Message.ATTRIBUTE), *densely_stored(header, Message.ATTRIBUTE_INFO, 2, ATTRIBUTE_NAMES)]
    attributes = {attribute.name: attribute for attribute in (Attribute(header, body) for body in bodies)}
    if len(attributes) != len(bodies):
        raise header.broken("has two attributes of one name")
    return attributes


def decoded(part: Part, data: bytes) -> str:
    """Text out of the file.

    Raises:
        FormatError: It is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise part.broken(f"has text that is not UTF-8: {quoted(data)}") from None


def _heap_string(part: Part, reference: bytes) -> bytes:
    """The bytes of a variable-length string, which lie in a collection of a global heap.

    Source: section III.E, "Disk Format: Level 1E - Global Heap".
    """
    if len(reference) != STRING_REFERENCE:
        raise part.broken(f"refers to its strings by {len(reference)} bytes")
    length, address, index = Fields(part, reference).unpack("IQI")
    if not length:
        return b""
    collections = part.file.collections
    if address not in collections:
        collections[address] = _collection(part, address)
    start, stored = collections[address].get(index, (0, None))
    if stored != length:
        raise part.broken(f"declares a string of {length} bytes where {stored or 'nothing'} is stored")
    return part.at(start, length).rstrip(b"\0")


def _collection(part: Part, address: int) -> dict[int, tuple[int, int]]:
    """Where each object of a collection lies, and its length."""
    fields = part.fields(address, 16)
    signature, size = fields.take(8), fields.integer(8)
    if signature[:5] != b"GCOL\x01":
        raise part.broken(f"refers to address {address}, where no strings are stored")
    objects, position = {}, 16
    while position + 16 <= size:
        index, length = part.fields(address + position, 16).unpack("H6xQ")
        if not index:
            break
        objects[index] = address + position + 16, length
        position += 16 + (length + 7) // 8 * 8
    return objects


def _padded(fields: Fields, length: int, version: int) -> bytes:
    """A part of an attribute message, which version 1 pads to a multiple of eight bytes."""
    data = fields.take(length)
    if version == 1:
        fields.take(min(-length % 8, fields.left))
    return data


def _trimmed(data: bytes, kind: Datatype) -> bytes:
    if kind.padding == SPACES:
        return data.rstrip(b" ")
    return data.split(b"\0")[0] if kind.padding == TERMINATED else data.rstrip(b"\0")
