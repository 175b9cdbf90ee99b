"""Datatypes and dataspaces: which numbers or strings, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from denseport.formats.hdf5.file import Fields, File

RANK_AT_MOST = 32
SIMPLE_DATASPACE = 1

NAMES = {
    0: "integers",
    1: "floating-point numbers",
    2: "times",
    3: "string",
    4: "bit fields",
    5: "raw bytes",
    6: "compound values",
    7: "references",
    8: "enumerated values",
    9: "variable-length values",
    10: "arrays",
}
PADDINGS: dict[int, Literal["terminated", "null", "space"]] = {0: "terminated", 1: "null", 2: "space"}

# (bytes, exponent location, exponent bits, mantissa bits, exponent bias) of each floating-point type that is known.
FLOATS = {
    (2, 10, 5, 10, 15): "float16",
    (2, 7, 8, 7, 127): "bfloat16",
    (4, 23, 8, 23, 127): "float32",
    (8, 52, 11, 52, 1023): "float64",
}
# h5py keeps booleans as an enumeration of one byte with these members.
BOOLEAN_MEMBERS = {b"FALSE": 0, b"TRUE": 1}


@dataclass(frozen=True, slots=True)
class Datatype:
    """What one element is.

    Attributes:
        name: In words; `string` and `variable-length string` are those of attributes.
        size: Bytes of one element in the file.
        number: The numpy name of a number that weights can be made of (`float32`, `bfloat16`, `bool`), else "".
        order: Byte order in the file, as numpy writes it.
        padding: How a fixed-length string is filled up.
    """

    name: str
    size: int
    number: str = ""
    order: Literal["<", ">"] = "<"
    padding: Literal["terminated", "null", "space"] = "null"

    @property
    def stored(self) -> np.dtype[Any]:
        """The numpy dtype of a number as the file holds it; bfloat16 as its 16 bits, a boolean as a byte."""
        return np.dtype({"bfloat16": "uint16", "bool": "uint8"}.get(self.number, self.number)).newbyteorder(self.order)

    @property
    def native(self) -> np.dtype[Any]:
        """The numpy dtype of a number in memory."""
        if self.number == "bfloat16":
            from ml_dtypes import bfloat16  # only where it occurs: importing it takes longer than reading a small file

            dtype: np.dtype[Any] = np.dtype(bfloat16)
            return dtype
        return np.dtype(self.number)


def read_datatype(file: File, body: bytes, what: str) -> Datatype:
    """What a datatype message says.

    Raises:
        FormatError: It ends early, or is of no known class.

    Source: section IV.A.2.d, "The Datatype Message".
    """
    fields = Fields(file, body, what)
    (first,) = fields.unpack("B")
    bits, size = fields.integer(3), fields.integer(4)
    kind, version = first & 0x0F, first >> 4
    if kind not in NAMES or not size:
        raise file.broken(f"{what} has a datatype of class {kind} and {size} bytes")
    order: Literal["<", ">"] = ">" if bits & 1 else "<"
    if kind == 0:
        offset, precision = fields.unpack("HH")
        plain = offset == 0 and precision == 8 * size and size in (1, 2, 4, 8)
        return Datatype(NAMES[kind], size, f"{'' if bits & 0b1000 else 'u'}int{8 * size}" if plain else "", order)
    if kind == 1:
        return Datatype(NAMES[kind], size, _float(fields, bits, size), order)
    if kind == 3:
        return Datatype(NAMES[kind], size, padding=PADDINGS.get(bits & 0x0F, "null"))
    if kind == 8 and size == 1 and _members(fields, bits & 0xFFFF, version) == BOOLEAN_MEMBERS:
        return Datatype("booleans", size, "bool")
    if kind == 9 and bits & 0x0F == 1:
        return Datatype("variable-length string", size)
    return Datatype(NAMES[kind], size)


def _float(fields: Fields, bits: int, size: int) -> str:
    offset, precision, exponent_at, exponent_bits, mantissa_at, mantissa_bits, bias = fields.unpack("HHBBBBI")
    implied_one, sign_at = bits >> 4 & 0b11 == 2, bits >> 8 & 0xFF
    plain = (offset, precision, mantissa_at, sign_at) == (0, 8 * size, 0, 8 * size - 1) and implied_one
    vax = bits & 0x40
    return FLOATS.get((size, exponent_at, exponent_bits, mantissa_bits, bias), "") if plain and not vax else ""


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


def read_dataspace(file: File, body: bytes, what: str) -> tuple[int, ...]:
    """The shape that a dataspace message gives; a scalar has none.

    Raises:
        FormatError: It ends early, is of an unknown version, has too many sides, or holds nothing at all ("null").

    Source: section IV.A.2.b, "The Dataspace Message".
    """
    fields = Fields(file, body, what)
    version, rank, _, kind = fields.unpack("BBBB")
    if version not in (1, 2) or rank > RANK_AT_MOST:
        raise file.broken(f"{what} has a shape of version {version} and {rank} sides")
    if version == 1:
        fields.take(4)
    elif kind > SIMPLE_DATASPACE:
        raise file.refused(f"{what} is empty (a null dataspace)", "save it again with Keras")
    return fields.unpack(f"{rank}Q")
