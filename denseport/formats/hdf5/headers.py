"""Object headers: the messages that say what a group or a dataset is."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from denseport.formats.hdf5.file import Fields, File

SHARED = 0b10
# Kind, length and flags of a message of version 1.
MESSAGE = struct.Struct("<HHB3x")


class Kind(IntEnum):
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


KNOWN = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Header:
    """The messages of one object.

    Attributes:
        address: Where the object's header lies; tells objects apart.
        what: The object in words, for errors.
        messages: Flags and body of each known message, by kind and in the order of the file.
    """

    address: int
    what: str
    messages: dict[int, list[tuple[int, bytes]]]

    def every(self, kind: Kind, file: File) -> list[bytes]:
        """The bodies of all messages of one kind.

        Raises:
            FormatError: One of them is shared with other objects, such as a named datatype.
        """
        bodies = []
        for flags, body in self.messages.get(kind, ()):
            if flags & SHARED:
                raise file.refused(
                    f"{self.what} shares its {kind.name.lower()} with other objects", "save it again with Keras"
                )
            bodies.append(body)
        return bodies

    def only(self, kind: Kind, file: File) -> bytes | None:
        """The body of the message of a kind that occurs at most once.

        Raises:
            FormatError: It occurs more often, or is shared.
        """
        if kind not in self.messages:
            return None
        found = self.every(kind, file)
        if len(found) > 1:
            raise file.broken(f"{self.what} has {len(found)} messages of kind {kind.name.lower()}")
        return found[0]


def read_header(file: File, address: int, what: str) -> Header:
    """The messages of the object whose header lies at an address.

    Raises:
        FormatError: There is no object header, or it contradicts itself.

    Source: section IV.A.1, "Data Object Header Prefix"; IV.A.2.q, "The Object Header Continuation Message".
    """
    start = file.at(address, 16, what)
    header = Header(address, what, {})
    if start.startswith(b"OHDR\x02"):
        _version_2(file, start, header)
    elif start[0] == 1:
        _version_1(file, start, header)
    else:
        raise file.broken(f"{what} has no object header at address {address}")
    return header


def _version_1(file: File, start: bytes, header: Header) -> None:
    blocks = [(header.address + 16, int.from_bytes(start[8:12], "little"))]
    while blocks:
        # Without `Fields`: a file of weights has thousands of these, and most of the time to open it goes here.
        data, position = file.at(*blocks.pop(), header.what), 0
        while len(data) - position >= MESSAGE.size:
            kind, length, flags = MESSAGE.unpack_from(data, position)
            position += MESSAGE.size + length
            if position > len(data):
                raise file.broken(f"{header.what} ends early")
            _keep(file, header, blocks, kind, flags, data[position - length : position])


def _version_2(file: File, start: bytes, header: Header) -> None:
    flags = start[5]
    position = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 0b11)
    prefix = file.at(header.address, position + width, header.what)
    length = int.from_bytes(prefix[position:], "little")
    whole = file.at(header.address, len(prefix) + length + 4, header.what)
    creation_order = 2 if flags & 0x04 else 0
    blocks: list[tuple[int, int]] = []
    content = file.verify(whole, header.what)[len(prefix) :]
    while True:
        fields = Fields(file, content, header.what)
        while fields.left >= 4 + creation_order:
            kind, size, message_flags = fields.unpack("BHB")
            fields.take(creation_order)
            _keep(file, header, blocks, kind, message_flags, fields.take(size))
        if not blocks:
            return
        content = file.verify(file.at(*blocks.pop(), header.what), header.what)
        if content[:4] != b"OCHK":
            raise file.broken(f"{header.what} continues where there is no continuation")
        content = content[4:]


def _keep(file: File, header: Header, blocks: list[tuple[int, int]], kind: int, flags: int, body: bytes) -> None:
    if kind == Kind.CONTINUATION:
        address, length = Fields(file, body, header.what).unpack("QQ")
        blocks.insert(0, (address, length))
    elif kind in KNOWN:
        header.messages.setdefault(kind, []).append((flags, body))
