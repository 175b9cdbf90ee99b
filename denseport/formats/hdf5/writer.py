"""Writes an HDF5 file front to back: values first, then what describes them; the same bytes for the same input.

Nothing but the plainest structures is used, all known since HDF5 1.8 of 2008, so that h5py of any age reads the file:
object headers of version 1, links inside the header of their group with their order of creation, contiguous values.

Source: "HDF5 File Format Specification Version 3.0", and what the library itself writes for such a file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from denseport.checkpoint import Tensor, dtype_name, pieces
from denseport.errors import FormatError, quoted
from denseport.formats.hdf5.file import SIGNATURE, UNDEFINED
from denseport.formats.hdf5.headers import FLOATS, RANK_AT_MOST, Message

SUPERBLOCK_SIZE = 96
GROUP_INFO, FILL_VALUE = 0x0A, 0x05
CONSTANT = 0b1
MESSAGES_AT_MOST = 65535
# The library takes no smaller collection of strings.
COLLECTION_AT_LEAST = 4096
STRINGS_OF_ONE_COLLECTION = 60_000

# Each type as the library encodes it, without its size in bytes where that differs.
FIXED_STRING = bytes.fromhex("13010000")
VARIABLE_STRING = bytes.fromhex("1901010010000000 1000000001000000 00000800")
RAW_16_BIT = bytes.fromhex("1500000002000000")
BOOLEAN = bytes.fromhex("1802000001000000 1008000001000000 00000800") + b"FALSE\0\0\0TRUE\0\0\0\0" + b"\0\1"
# Never filled in advance, of no special value.
PLAIN_FILL_VALUE = bytes.fromhex("0202020100000000")


@dataclass
class NewObject:
    """A group or dataset to be: messages that are settled, and strings whose place in the file is not."""

    messages: list[bytes] = field(default_factory=list)
    strings: dict[str, bytes] = field(default_factory=dict)


@dataclass
class NewGroup(NewObject):
    """A group to be, with its members in the order of their creation."""

    members: dict[str, NewObject] = field(default_factory=dict)


class Writer:
    """A new HDF5 file; a context manager that completes and closes it. A file that lies at `path` is overwritten.

    Attributes:
        root: The group at the top.

    Raises:
        OSError: The file cannot be made, written or closed, such as on a full disk.
    """

    def __init__(self, path: Path, shown: str | Path | None = None) -> None:
        self._path = shown or path
        self._file = path.open("wb")
        self._file.write(bytes(SUPERBLOCK_SIZE))
        self._end = SUPERBLOCK_SIZE
        self.root = NewGroup()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._complete()

    def group(self, path: str, within: NewGroup | None = None) -> NewGroup:
        """The group at a path; it and those above it are made where they are missing."""
        group = self.root if within is None else within
        for name in path.split("/"):
            member = group.members.setdefault(name, NewGroup())
            if not isinstance(member, NewGroup):
                raise FormatError(f"{self._path}: {quoted(path)} is needed both as a tensor and as a group; rename one")
            group = member
        return group

    def dataset(self, group: NewGroup, path: str, tensor: Tensor, name: str) -> None:
        """Writes a tensor's values, and a dataset for them below a group; bfloat16 is marked as Keras 3 marks it.

        Raises:
            FormatError: HDF5 has no plain type for the dtype, or not as many axes, or the place is taken.
        """
        kind = self._datatype(tensor.dtype, name)
        if len(tensor.shape) > RANK_AT_MOST:
            raise FormatError(f"{self._path}: {quoted(name)} has {len(tensor.shape)} axes; h5 holds {RANK_AT_MOST}")
        outer, _, leaf = path.rpartition("/")
        members = (self.group(outer, group) if outer else group).members
        if leaf in members:
            raise FormatError(f"{self._path}: {quoted(path)} is needed both as a tensor and as a group; rename one")
        address = self._values(tensor)
        messages = [
            _message(Message.DATASPACE, _dataspace(tensor.shape)),
            _message(Message.DATATYPE, kind, CONSTANT),
            _message(FILL_VALUE, PLAIN_FILL_VALUE, CONSTANT),
            _message(Message.LAYOUT, struct.pack("<BBQQ", 3, 1, address, tensor.nbytes)),
        ]
        members[leaf] = NewObject(messages)
        if dtype_name(tensor.dtype) == "bfloat16":
            self.string(members[leaf], "dtype", "bfloat16")

    def string(self, owner: NewObject, name: str, value: str) -> None:
        """Stores one string of any length as an attribute."""
        owner.strings[name] = value.encode()

    def byte_strings(self, owner: NewObject, name: str, values: np.ndarray) -> None:
        """Stores an array of byte strings, shape `(count,)`, dtype `S`, less than 64 KiB in all, as an attribute."""
        kind = FIXED_STRING + struct.pack("<I", values.dtype.itemsize)
        owner.messages.append(_attribute(name, kind, _dataspace(values.shape), values.tobytes()))

    def _values(self, tensor: Tensor) -> int:
        values = tensor.read()
        if not values.size:
            return UNDEFINED
        little = values.dtype.newbyteorder("<") if values.dtype.kind != "V" else values.dtype
        address = self._aligned()
        for piece in pieces(values):
            self._file.write(piece.astype(little, copy=False).view(np.uint8).data)
        self._end += tensor.nbytes
        return address

    def _datatype(self, dtype: np.dtype[Any], name: str) -> bytes:
        number = dtype_name(dtype)
        if number in ("bool", "bfloat16"):
            return BOOLEAN if number == "bool" else RAW_16_BIT
        if number in FLOATS:
            size, exponent_at, exponent_bits, mantissa_bits, bias = FLOATS[number]
            facts = (size, 0, 8 * size, exponent_at, exponent_bits, 0, mantissa_bits, bias)
            return struct.pack("<BBBxIHHBBBBI", 0x11, 0x20, 8 * size - 1, *facts)
        if dtype.kind in "iu":
            signed = 0b1000 if dtype.kind == "i" else 0
            return struct.pack("<BBxxIHH", 0x10, signed, dtype.itemsize, 0, 8 * dtype.itemsize)
        raise FormatError(
            f"{self._path}: {quoted(name)} is {number}, which h5 cannot hold; "
            "give --dtype float32, or a name ending in .safetensors"
        )

    def _complete(self) -> None:
        references = self._heap(_strings(self.root))
        root = self._object(self.root, references)
        base, end, free = 0, self._end, UNDEFINED
        self._file.seek(0)
        self._file.write(SIGNATURE)
        # Versions of all structures 0, addresses and sizes of 8 bytes, room in groups' nodes as the library has it.
        self._file.write(struct.pack("<8BHHI", 0, 0, 0, 0, 0, 8, 8, 0, 4, 16, 0))
        self._file.write(struct.pack("<QQQQ", base, free, end, UNDEFINED))
        self._file.write(struct.pack("<QQII16x", 0, root, 0, 0))

    def _object(self, made: NewObject, references: Iterator[bytes]) -> int:
        """Writes what is inside an object, then its header; returns the header's address."""
        messages = list(made.messages)
        for name in made.strings:
            messages.append(_attribute(name, VARIABLE_STRING, _dataspace(()), next(references)))
        if isinstance(made, NewGroup):
            count = len(made.members)
            messages.append(_message(Message.LINK_INFO, struct.pack("<BBQQQ", 0, 1, count, UNDEFINED, UNDEFINED)))
            messages.append(_message(GROUP_INFO, bytes(2)))
            for order, (name, member) in enumerate(made.members.items()):
                messages.append(_link(order, name, self._object(member, references)))
        if len(messages) > MESSAGES_AT_MOST:
            raise FormatError(f"{self._path}: a group of {len(messages)} layers is too large; choose .safetensors")
        body = b"".join(messages)
        return self._append(struct.pack("<BxHII4x", 1, len(messages), 1, len(body)) + body)

    def _heap(self, strings: Iterator[bytes]) -> Iterator[bytes]:
        """Writes all strings; returns what refers to each, in the same order."""
        every = list(strings)
        references = []
        for start in range(0, len(every), STRINGS_OF_ONE_COLLECTION):
            block = every[start : start + STRINGS_OF_ONE_COLLECTION]
            address = self._aligned()
            objects = bytearray()
            for index, value in enumerate(block, 1):
                objects += struct.pack("<HHIQ", index, 0, 0, len(value)) + _padded(value)
                references.append(struct.pack("<IQI", len(value), address, index))
            size = max(COLLECTION_AT_LEAST, 16 + len(objects) + 16)
            free = struct.pack("<HHIQ", 0, 0, 0, size - 16 - len(objects))
            self._append((b"GCOL\1\0\0\0" + struct.pack("<Q", size) + objects + free).ljust(size, b"\0"))
        return iter(references)

    def _append(self, data: bytes) -> int:
        address = self._aligned()
        self._file.write(data)
        self._end += len(data)
        return address

    def _aligned(self) -> int:
        """The next address that is a multiple of eight."""
        gap = -self._end % 8
        self._file.write(bytes(gap))
        self._end += gap
        return self._end


def _strings(made: NewObject) -> Iterator[bytes]:
    """The strings of an object and of all within it, in the order in which `_object` asks for them."""
    yield from made.strings.values()
    if isinstance(made, NewGroup):
        for member in made.members.values():
            yield from _strings(member)


def _message(kind: int, body: bytes, flags: int = 0) -> bytes:
    body = _padded(body)
    return struct.pack("<HHB3x", kind, len(body), flags) + body


def _attribute(name: str, kind: bytes, space: bytes, data: bytes) -> bytes:
    label = name.encode() + b"\0"
    sizes = struct.pack("<BxHHH", 1, len(label), len(kind), len(space))
    return _message(Message.ATTRIBUTE, sizes + _padded(label) + _padded(kind) + _padded(space) + data)


def _link(order: int, name: str, address: int) -> bytes:
    """A hard link with its order of creation and a name in UTF-8, whose length takes two bytes."""
    label = name.encode()
    return _message(
        Message.LINK, struct.pack("<BBQBH", 1, 0b10101, order, 1, len(label)) + label + struct.pack("<Q", address)
    )


def _dataspace(shape: tuple[int, ...]) -> bytes:
    """A shape whose sides may not grow; the library repeats them as the most they may be."""
    return struct.pack(f"<BBB5x{len(shape)}Q", 1, len(shape), 0, *shape)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)
