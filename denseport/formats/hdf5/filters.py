"""Filters of chunks: gzip, lzf, shuffle and fletcher32, undone within the bytes that a chunk may have."""

from __future__ import annotations

import zlib

import numpy as np

from denseport.formats.hdf5.file import Fields, Part

DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
FILTER_NAMES = {4: "szip", 5: "nbit", 6: "scale-offset", 32001: "blosc", 32015: "zstd"}
REPACK = "repack it: h5repack -f GZIP=4 old.h5 new.h5"
# Fletcher32's, which may have been added before compressing.
CHECKSUM_BYTES = 4
# What a byte of lzf costs, which is taken apart one by one, beside a byte of anything else.
LZF_COST = 8
# In lzf, smaller control bytes count literal bytes; in others, three bits say how much to repeat, and this that more
# follows.
LITERALS = 1 << 5
LONG = 0b111


class Pipeline:
    """The filters of a dataset's chunks, none where there is no message.

    Raises:
        FormatError: A filter is another one, or one is applied twice.

    Source: section IV.A.2.l, "The Data Storage - Filter Pipeline Message".
    """

    def __init__(self, part: Part, message: bytes | None) -> None:
        self._part = part
        # Each filter and its first parameter, in the order in which they were applied.
        self._filters = [] if message is None else self._read(message)

    def __bool__(self) -> bool:
        return bool(self._filters)

    @property
    def cost(self) -> int:
        """What a byte costs, beside one that is not filtered."""
        return LZF_COST if any(number == LZF for number, _ in self._filters) else 1

    def undone(self, data: bytes | bytearray, skipped: int, nbytes: int) -> bytes | bytearray:
        """The `nbytes` bytes that a chunk stands for; `skipped` has a bit for each filter that was not applied to it.

        Raises:
            FormatError: The chunk does not hold what it should.
        """
        for index, (number, parameter) in reversed(list(enumerate(self._filters))):
            if skipped >> index & 1:
                continue
            if number == FLETCHER32:
                if len(data) < 4 or not is_fletcher32(data[:-4], int.from_bytes(data[-4:], "little")):
                    raise self._part.broken("has a chunk with a wrong checksum")
                data = data[:-4]
            elif number == DEFLATE:
                data = self._inflated(data, nbytes + CHECKSUM_BYTES)
            elif number == LZF:
                try:
                    data = lzf_decompressed(data, nbytes + CHECKSUM_BYTES)
                except ValueError as error:
                    raise self._part.broken(f"has a chunk that is not valid lzf data: {error}") from None
            elif parameter > 1:
                data = _unshuffled(data, parameter)
        if len(data) != nbytes:
            raise self._part.broken(f"has a chunk of {len(data)} bytes where {nbytes} are needed")
        return data

    def _read(self, message: bytes) -> list[tuple[int, int]]:
        fields = Fields(self._part, message)
        version, count = fields.unpack("BB")
        if version not in (1, 2):
            raise self._part.broken(f"has filters of version {version}")
        fields.take(6 if version == 1 else 0)
        found = []
        for _ in range(count):
            (number,) = fields.unpack("H")
            named = version == 1 or number >= 256
            (name_size,) = fields.unpack("H") if named else (0,)
            _, parameters = fields.unpack("HH")
            fields.take(name_size + (-name_size % 8 if version == 1 else 0))
            values = fields.unpack(f"{parameters}I")
            fields.take(4 if version == 1 and parameters % 2 else 0)
            found.append((number, values[0] if values else 0))
        unknown = [number for number, _ in found if number not in (DEFLATE, SHUFFLE, FLETCHER32, LZF)]
        if unknown:
            name = FILTER_NAMES.get(unknown[0], f"number {unknown[0]}")
            raise self._part.refused(f"is filtered by {name}, which is not read here", REPACK)
        if len({number for number, _ in found}) != len(found):
            raise self._part.refused("is filtered twice in one way", REPACK)
        return found

    def _inflated(self, data: bytes | bytearray, most: int) -> bytes:
        inflater = zlib.decompressobj()
        try:
            grown = inflater.decompress(data, most + 1)
        except zlib.error:
            raise self._part.broken("has a chunk that gzip cannot read") from None
        if len(grown) > most or not inflater.eof:
            raise self._part.broken(f"has a compressed chunk that ends early or grows beyond {most} bytes")
        return grown


def is_fletcher32(data: bytes | bytearray, checksum: int) -> bool:
    """Whether `checksum` belongs to the bytes, read as big-endian words of 16 bits.

    Both halves are sums modulo 65,535, in which 0 and 65,535 are the same.

    Source: HDF5 `src/H5checksum.c`, `H5_checksum_fletcher32`.
    """
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2")
    first = second = 0
    for start in range(0, len(words), 1 << 16):
        block = words[start : start + (1 << 16)].astype(np.uint64)
        count = len(block)
        second += count * first + int(block @ np.arange(count, 0, -1, dtype=np.uint64))
        first += int(block.sum())
    return (checksum & 0xFFFF) % 0xFFFF == first % 0xFFFF and (checksum >> 16) % 0xFFFF == second % 0xFFFF


def lzf_decompressed(data: bytes | bytearray, most: int) -> bytearray:
    """The bytes that an lzf stream stands for, `most` of them at most.

    Raises:
        ValueError: The stream ends early, repeats bytes before its start, or grows beyond `most`.

    Source: LibLZF 3.6 `lzf_d.c`; h5py `lzf/lzf_filter.c`, which stores the bare stream.
    """
    grown = bytearray()
    position = 0
    try:
        while position < len(data):
            control = data[position]
            position += 1
            if control < LITERALS:
                literals = data[position : position + control + 1]
                if len(literals) <= control:
                    raise ValueError("it ends early")
                grown += literals
                position += len(literals)
            else:
                length = control >> 5
                if length == LONG:
                    length += data[position]
                    position += 1
                distance = ((control & 0b11111) << 8 | data[position]) + 1
                position += 1
                _repeat(grown, distance, length + 2)
            if len(grown) > most:
                raise ValueError(f"it grows beyond {most} bytes")
    except IndexError:
        raise ValueError("it ends early") from None
    return grown


def _repeat(grown: bytearray, distance: int, length: int) -> None:
    """Appends what stands `distance` bytes before the end, again and again where that is less than `length`."""
    start = len(grown) - distance
    if start < 0:
        raise ValueError("it repeats bytes before its start")
    part = grown[start : start + length]
    grown += (part * (length // len(part) + 1))[:length] if len(part) < length else part


def _unshuffled(data: bytes | bytearray, width: int) -> bytes:
    """Puts the bytes of each element together again; what does not fill an element stays at the end."""
    count = len(data) // width
    planes = np.frombuffer(data, np.uint8, count * width).reshape(width, count)
    return planes.T.tobytes() + data[count * width :]
