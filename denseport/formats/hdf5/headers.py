"""Object headers: the messages that say what a group or a dataset is, and the dataspaces and datatypes among them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np

from denseport.formats.hdf5.file import Fields, File, Part

SHARED = 0b10
# Type, length and flags of a message of version 1.
MESSAGE_START = struct.Struct("<HHB3x")
RANK_AT_MOST = 32
SIMPLE_DATASPACE = 1

# The classes of datatypes, by their numbers.
CLASSES = (
    *("integers", "floating-point numbers", "times", "string", "bit fields", "raw bytes"),
    *("compound values", "references", "enumerated values", "variable-length values", "arrays"),
)

# (bytes, exponent location, exponent bits, mantissa bits, exponent bias) of each floating-point type that is known.
FLOATS = {
    "float16": (2, 10, 5, 10, 15),
    "bfloat16": (2, 7, 8, 7, 127),
    "float32": (4, 23, 8, 23, 127),
    "float64": (8, 52, 11, 52, 1023),
}
TERMINATED, SPACES = 0, 2
# h5py keeps booleans as an enumeration of one byte with these members.
BOOLEAN_MEMBERS = {b"FALSE": 0, b"TRUE": 1}


class Message(IntEnum):
    """The messages that are read here, by their numbers; all others are skipped."""

    DATASPACE = 0x01
    LINK_INFO = 0x02
    DATATYPE = 0x03
    LINK = 0x06
    EXTERNAL_FILES = 0x07
    LAYOUT = 0x08
    FILTERS = 0x0B
    ATTRIBUTE = 0x0C
    CONTINUATION = 0x10
    SYMBOL_TABLE = 0x11
    ATTRIBUTE_INFO = 0x15


KNOWN = frozenset(Message)


class Header(Part):
    """The messages of the object whose header lies at an address, which tells objects apart.

    Attributes:
        messages: Flags and body of each known message, by kind and in the order of the file.

    Raises:
        FormatError: There is no object header, or it contradicts itself.

    Source: section IV.A.1, "Data Object Header Prefix"; IV.A.2.q, "The Object Header Continuation Message".
    """

    def __init__(self, file: File, address: int, name: str) -> None:
        super().__init__(file, name)
        self.address = address
        self.messages: dict[int, list[tuple[int, bytes]]] = {}
        # Of further blocks of messages, the one to read next is the last.
        self._blocks: list[tuple[int, int]] = []
        start = self.at(address, 16)
        if start.startswith(b"OHDR\x02"):
            self._read_version_2(start)
        elif start[0] == 1:
            self._read_version_1(start)
        else:
            raise self.broken(f"has no object header at address {address}")

    def every(self, kind: Message) -> list[bytes]:
        """The bodies of all messages of one kind.

        Raises:
            FormatError: One of them is shared with other objects, such as a named datatype.
        """
        bodies = []
        for flags, body in self.messages.get(kind, ()):
            if flags & SHARED:
                raise self.refused(f"shares its {kind.name.lower()} with other objects")
            bodies.append(body)
        return bodies

    def only(self, kind: Message) -> bytes | None:
        """The body of the message of a kind that occurs at most once.

        Raises:
            FormatError: It occurs more often, or is shared.
        """
        found = self.every(kind)
        if len(found) > 1:
            raise self.broken(f"has {len(found)} messages of kind {kind.name.lower()}")
        return found[0] if found else None

    def required(self, kind: Message) -> bytes:
        """The body of the message of a kind that occurs once.

        Raises:
            FormatError: It is missing, occurs more often, or is shared.
        """
        body = self.only(kind)
        if body is None:
            raise self.broken(f"has no {kind.name.lower()}")
        return body

    def _read_version_1(self, start: bytes) -> None:
        self._blocks = [(self.address + 16, int.from_bytes(start[8:12], "little"))]
        while self._blocks:
            # Without `Fields`: a file of weights has thousands of these, and most of the time to open it goes here.
            data, position = self.at(*self._blocks.pop()), 0
            while len(data) - position >= MESSAGE_START.size:
                kind, length, flags = MESSAGE_START.unpack_from(data, position)
                position += MESSAGE_START.size + length
                if position > len(data):
                    raise self.broken("ends early")
                self._keep(kind, flags, data[position - length : position])

    def _read_version_2(self, start: bytes) -> None:
        flags = start[5]
        position = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 0b11)
        prefix = self.at(self.address, position + width)
        length = int.from_bytes(prefix[position:], "little")
        creation_order = 2 if flags & 0x04 else 0
        content = self.verified(self.address, len(prefix) + length + 4)[len(prefix) :]
        while True:
            fields = Fields(self, content)
            while fields.left >= 4 + creation_order:
                kind, size, message_flags = fields.unpack("BHB")
                fields.take(creation_order)
                self._keep(kind, message_flags, fields.take(size))
            if not self._blocks:
                return
            content = self.verified(*self._blocks.pop())
            if content[:4] != b"OCHK":
                raise self.broken("continues where there is no continuation")
            content = content[4:]

    def _keep(self, kind: int, flags: int, body: bytes) -> None:
        if kind == Message.CONTINUATION:
            address, length = Fields(self, body).unpack("QQ")
            self._blocks.insert(0, (address, length))
        elif kind in KNOWN:
            self.messages.setdefault(kind, []).append((flags, body))


@dataclass(frozen=True, slots=True)
class Datatype:
    """What one element is.

    Attributes:
        name: In words; `string` and `variable-length string` are those of attributes.
        size: Bytes of one element in the file.
        number: The numpy name of a number that weights can be made of (`float32`, `bfloat16`, `bool`), else "".
        order: Byte order in the file, as numpy writes it.
        padding: How a fixed-length string is filled up: `TERMINATED` by NUL, with `SPACES`, else with NULs.
    """

    name: str
    size: int
    number: str = ""
    order: Literal["<", ">"] = "<"
    padding: int = 1

    @property
    def stored(self) -> np.dtype[Any]:
        """The numpy dtype of a number as the file holds it; bfloat16 as its 16 bits, a boolean as a byte."""
        return np.dtype({"bfloat16": "uint16", "bool": "uint8"}.get(self.number, self.number)).newbyteorder(self.order)


def read_datatype(part: Part, body: bytes) -> Datatype:
    """What a datatype message says.

    Raises:
        FormatError: It ends early, or is of no known class.

    Source: section IV.A.2.d, "The Datatype Message".
    """
    fields = Fields(part, body)
    (first,) = fields.unpack("B")
    bits, size = fields.integer(3), fields.integer(4)
    kind, version = first & 0x0F, first >> 4
    if kind >= len(CLASSES) or not size:
        raise part.broken(f"has a datatype of class {kind} and {size} bytes")
    order: Literal["<", ">"] = ">" if bits & 1 else "<"
    if kind == 0:
        offset, precision = fields.unpack("HH")
        plain = offset == 0 and precision == 8 * size and size in (1, 2, 4, 8)
        return Datatype(CLASSES[kind], size, f"{'' if bits & 0b1000 else 'u'}int{8 * size}" if plain else "", order)
    if kind == 1:
        return Datatype(CLASSES[kind], size, _float(fields, bits, size), order)
    if kind == 3:
        return Datatype(CLASSES[kind], size, padding=bits & 0x0F)
    if kind == 8 and size == 1 and _members(fields, bits & 0xFFFF, version) == BOOLEAN_MEMBERS:
        return Datatype("booleans", size, "bool")
    if kind == 9 and bits & 0x0F == 1:
        return Datatype("variable-length string", size)
    return Datatype(CLASSES[kind], size)


def _float(fields: Fields, bits: int, size: int) -> str:
    offset, precision, exponent_at, exponent_bits, mantissa_at, mantissa_bits, bias = fields.unpack("HHBBBBI")
    implied_one, sign_at = bits >> 4 & 0b11 == 2, bits >> 8 & 0xFF
    plain = (offset, precision, mantissa_at, sign_at) == (0, 8 * size, 0, 8 * size - 1) and implied_one
    vax = bits & 0x40
    known = (name for name, facts in FLOATS.items() if facts == (size, exponent_at, exponent_bits, mantissa_bits, bias))
    return next(known, "") if plain and not vax else ""


def _members(fields: Fields, count: int, version: int) -> dict[bytes, int]:
    """The members of an enumeration of one byte; none where there are more than two."""
    if count != len(BOOLEAN_MEMBERS):
        return {}
    fields.take(12)
    names = []
    for _ in range(count):
        name = b""
        while not name.endswith(b"\0"):
            name += fields.take(8 if version < 3 else 1)
        names.append(name.rstrip(b"\0"))
    return dict(zip(names, fields.take(count), strict=True))


def read_dataspace(part: Part, body: bytes) -> tuple[int, ...]:
    """The shape that a dataspace message gives; a scalar has none.

    Raises:
        FormatError: It ends early, is of an unknown version, has too many sides, or holds nothing at all ("null").

    Source: section IV.A.2.b, "The Dataspace Message".
    """
    fields = Fields(part, body)
    version, rank, _, kind = fields.unpack("BBBB")
    if version not in (1, 2) or rank > RANK_AT_MOST:
        raise part.broken(f"has a shape of version {version} and {rank} sides")
    if version == 1:
        fields.take(4)
    elif kind > SIMPLE_DATASPACE:
        raise part.refused("is empty (a null dataspace)")
    return fields.unpack(f"{rank}Q")
