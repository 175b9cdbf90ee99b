"""Chunked datasets: finding every chunk, and undoing the filters of each within the bytes that it may have."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from denseport.errors import quoted
from denseport.formats.hdf5 import dense
from denseport.formats.hdf5.checksum import is_fletcher32
from denseport.formats.hdf5.file import UNDEFINED, Fields, File
from denseport.formats.hdf5.lzf import decompressed
from denseport.formats.hdf5.trees import leaves

DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
FILTER_NAMES = {4: "szip", 5: "nbit", 6: "scale-offset", 32001: "blosc", 32015: "zstd"}
RESAVE = "save it again with Keras, or with h5repack -f GZIP=4"

SINGLE, IMPLICIT, FIXED_ARRAY, EXTENSIBLE_ARRAY, TREE = range(1, 6)
EDGES_UNFILTERED = 0b01
CHUNK_RECORDS, FILTERED_CHUNK_RECORDS = 10, 11

COUNT_AT_MOST = 1 << 20
# In the file, for its address alone.
BYTES_OF_ONE_CHUNK = 8
# What gzip adds to bytes that it cannot compress is far less than this and as much again.
MOST_OVERHEAD = 1 << 10
# Fletcher32's, which may have been added before compressing.
CHECKSUM_BYTES = 4
# What a byte of lzf costs, which is taken apart one by one, beside a byte of anything else.
LZF_COST = 8
# h5py gives a dataset that may grow chunks of up to a mebibyte, however small it is now.
CHUNK_BYTES_ALWAYS_ALLOWED = 1 << 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where one chunk lies: its first element, address, stored bytes, and the filters that were not applied to it."""

    start: tuple[int, ...]
    address: int
    size: int
    skipped: int


class Chunks:
    """The chunks of one dataset.

    Raises:
        FormatError: A filter is not gzip, lzf, shuffle or fletcher32, or one is applied twice.
    """

    def __init__(
        self, file: File, what: str, shape: tuple[int, ...], stored: np.dtype[Any], filters: bytes | None
    ) -> None:
        self._file = file
        self._what = what
        self._shape = shape
        self._stored = stored
        self._filters = self._pipeline(filters) if filters is not None else []
        self._sides: tuple[int, ...] = ()
        self._nbytes = 0

    def locate(self, fields: Fields, version: int) -> Callable[[np.ndarray], None]:
        """Reads the rest of a layout message of version 3 or 4; returns what fills an array.

        Raises:
            FormatError: A chunk is missing, surplus, outside the file, or out of proportion.
        """
        if version == 3:
            rank, address = fields.unpack("BQ")
            return self.located_by_tree(address, fields.unpack(f"{rank}I"))
        flags, rank, width = fields.unpack("BBB")
        if flags & EDGES_UNFILTERED:
            raise self._file.refused(f"{self._what} leaves chunks at its edges unfiltered", RESAVE)
        self._accept(tuple(fields.integer(width) for _ in range(rank)))
        (index,) = fields.unpack("B")
        if index == SINGLE:
            size, skipped = fields.unpack("QI") if flags & 0b10 else (self._nbytes, 0)
            return self._filled_by([Chunk((0,) * len(self._shape), fields.integer(8), size, skipped)])
        if index == IMPLICIT:
            (address,) = fields.unpack("Q")
            return self._filled_by(
                Chunk(start, address + number * self._nbytes, self._nbytes, 0)
                for number, start in enumerate(self._grid())
            )
        if index == FIXED_ARRAY:
            return self._filled_by(self._fixed_array(*fields.unpack("BQ")))
        if index == TREE:
            fields.take(6)
            return self._filled_by(self._tree_2(*fields.unpack("Q")))
        raise self._file.refused(f"{self._what} has chunks that may grow in number (index {index})", RESAVE)

    def located_by_tree(self, address: int, sides: tuple[int, ...]) -> Callable[[np.ndarray], None]:
        """The chunks of a version 1 B-tree; `sides` end with the size of one element.

        Raises:
            FormatError: As for `locate`.
        """
        self._accept(sides)
        return self._filled_by(self._tree_1(address) if address != UNDEFINED else ())

    def _pipeline(self, body: bytes) -> list[tuple[int, int]]:
        """Each filter and its first parameter, in the order in which they were applied.

        Source: section IV.A.2.l, "The Data Storage - Filter Pipeline Message".
        """
        fields = Fields(self._file, body, self._what)
        version, count = fields.unpack("BB")
        if version not in (1, 2):
            raise self._file.broken(f"{self._what} has filters of version {version}")
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
            raise self._file.refused(f"{self._what} is filtered by {name}, which is not read here", RESAVE)
        if len({number for number, _ in found}) != len(found):
            raise self._file.refused(f"{self._what} is filtered twice in one way", RESAVE)
        return found

    def _accept(self, sides: tuple[int, ...]) -> None:
        """Takes the sides of a chunk, the size of an element last, if they are in proportion to the dataset."""
        nbytes = math.prod(self._shape) * self._stored.itemsize
        whole = len(sides) == len(self._shape) + 1 and all(sides) and sides[-1] == self._stored.itemsize
        if not whole or math.prod(sides) > max(2 * nbytes, CHUNK_BYTES_ALWAYS_ALLOWED):
            raise self._file.broken(f"{self._what} of shape {self._shape} has chunks of the shape {quoted(sides[:-1])}")
        self._sides, self._nbytes = sides[:-1], math.prod(sides)
        count = math.prod(-(-side // part) for side, part in zip(self._shape, self._sides, strict=True))
        if count > COUNT_AT_MOST:
            raise self._file.refused(f"{self._what} has more than {COUNT_AT_MOST} chunks", RESAVE)
        if count > self._file.size // BYTES_OF_ONE_CHUNK + 1:
            raise self._file.broken(f"{self._what} declares {count} chunks, more than the file has room for")
        # Chunks may reach far beyond the shape, and all lie in one place.
        lzf = any(number == LZF for number, _ in self._filters)
        self._file.admit(count * self._nbytes * (LZF_COST if lzf else 1), self._what)

    def _grid(self) -> Iterator[tuple[int, ...]]:
        if 0 not in self._shape:
            starts = (range(0, side, part) for side, part in zip(self._shape, self._sides, strict=True))
            yield from itertools.product(*starts)

    def _tree_1(self, address: int) -> Iterator[Chunk]:
        rank = len(self._shape)
        for key, chunk in leaves(self._file, address, 1, 8 + 8 * (rank + 1), self._what):
            fields = Fields(self._file, key, self._what)
            size, skipped, *start, _ = fields.unpack(f"II{rank + 1}Q")
            yield Chunk(tuple(start), chunk, size, skipped)

    def _tree_2(self, address: int) -> Iterator[Chunk]:
        kind = FILTERED_CHUNK_RECORDS if self._filters else CHUNK_RECORDS
        rank = len(self._shape)
        for record in dense.records(self._file, address, kind, self._what):
            fields = Fields(self._file, record, self._what)
            chunk, size, skipped = fields.integer(8), self._nbytes, 0
            if self._filters:
                size, skipped = fields.integer(fields.left - 4 - 8 * rank), fields.integer(4)
            scaled = fields.unpack(f"{rank}Q")
            yield Chunk(tuple(n * part for n, part in zip(scaled, self._sides, strict=True)), chunk, size, skipped)

    def _fixed_array(self, page_bits: int, address: int) -> Iterator[Chunk]:
        """Source: section VI.C, "Fixed Array Index"."""
        header = self._file.verify(self._file.at(address, 28, self._what), self._what)
        fields = Fields(self._file, header, self._what)
        signature, client, entry_size, bits, count, block = fields.take(5), *fields.unpack("BBBQQ")
        if signature != b"FAHD\0" or client != bool(self._filters) or bits != page_bits or count > COUNT_AT_MOST:
            raise self._file.broken(f"{self._what} has no chunk index at address {address}")
        if entry_size < (13 if self._filters else 8):
            raise self._file.broken(f"{self._what} has a chunk index of entries of {entry_size} bytes")
        entries = self._array_entries(block, client, entry_size, count, 1 << min(page_bits, 32))
        for start, entry in zip(self._grid(), entries, strict=False):
            fields = Fields(self._file, entry, self._what)
            chunk, size, skipped = fields.integer(8), self._nbytes, 0
            if self._filters:
                size, skipped = fields.integer(entry_size - 12), fields.integer(4)
            yield Chunk(start, chunk, size, skipped)

    def _array_entries(self, block: int, client: int, entry_size: int, count: int, page: int) -> Iterator[bytes]:
        """The entries of a fixed array, whose data block is cut into pages with checksums where it is long."""
        pages = -(-count // page) if count > page else 0
        prefix = 14 + -(-pages // 8)
        if self._file.at(block, 6, self._what) != b"FADB\0" + bytes((client,)):
            raise self._file.broken(f"{self._what} has no chunk index at address {block}")
        position = block + prefix + (4 if pages else 0)
        if pages:
            self._file.verify(self._file.at(block, prefix + 4, self._what), self._what)
        for first in range(0, count, page):
            length = min(page, count - first) * entry_size
            start, end = (position, position + length + 4) if pages else (block, position + length + 4)
            data = self._file.verify(self._file.at(start, end - start, self._what), self._what)[position - start :]
            position = end
            yield from (data[at : at + entry_size] for at in range(0, length, entry_size))

    def _filled_by(self, chunks: Iterator[Chunk] | list[Chunk] | tuple[()]) -> Callable[[np.ndarray], None]:
        """Checks that the chunks are those of the grid, each once, each in the file; returns what fills an array."""
        missing = set(self._grid())
        kept = []
        for chunk in chunks:
            if chunk.start not in missing:
                raise self._file.broken(f"{self._what} has a chunk at {quoted(chunk.start)} twice or outside")
            missing.remove(chunk.start)
            if chunk.address > self._file.size - chunk.size:
                raise self._file.broken(f"{self._what} has a chunk that is not stored or lies outside the file")
            if chunk.size > 2 * self._nbytes + MOST_OVERHEAD or (not self._filters and chunk.size != self._nbytes):
                raise self._file.broken(f"{self._what} needs {self._nbytes} bytes a chunk and {chunk.size} are stored")
            kept.append(chunk)
        if missing:
            raise self._file.broken(f"{self._what} lacks {len(missing)} of its chunks: its values were never written")
        kept.sort(key=lambda chunk: chunk.address)

        def fill(values: np.ndarray) -> None:
            for chunk in kept:
                raw = bytearray(chunk.size)
                self._file.fill(memoryview(raw), chunk.address, self._what)
                block = np.frombuffer(self._unfiltered(raw, chunk.skipped), self._stored).reshape(self._sides)
                part = values[tuple(slice(at, at + side) for at, side in zip(chunk.start, self._sides, strict=True))]
                part[...] = block[tuple(slice(side) for side in part.shape)]

        return fill

    def _unfiltered(self, data: bytes | bytearray, skipped: int) -> bytes | bytearray:
        for index, (number, parameter) in reversed(list(enumerate(self._filters))):
            if skipped >> index & 1:
                continue
            if number == FLETCHER32:
                if len(data) < 4 or not is_fletcher32(data[:-4], int.from_bytes(data[-4:], "little")):
                    raise self._file.broken(f"{self._what} has a chunk with a wrong checksum")
                data = data[:-4]
            elif number == DEFLATE:
                data = self._inflated(data)
            elif number == LZF:
                data = self._decompressed(data)
            elif parameter > 1:
                data = _unshuffled(data, parameter)
        if len(data) != self._nbytes:
            raise self._file.broken(f"{self._what} has a chunk of {len(data)} bytes where {self._nbytes} are needed")
        return data

    def _decompressed(self, data: bytes | bytearray) -> bytearray:
        try:
            return decompressed(data, self._nbytes + CHECKSUM_BYTES)
        except ValueError as error:
            raise self._file.broken(f"{self._what} has a chunk that is not valid lzf data: {error}") from None

    def _inflated(self, data: bytes | bytearray) -> bytes:
        most = self._nbytes + CHECKSUM_BYTES
        inflater = zlib.decompressobj()
        try:
            grown = inflater.decompress(data, most + 1)
        except zlib.error:
            raise self._file.broken(f"{self._what} has a chunk that gzip cannot read") from None
        if len(grown) > most or not inflater.eof:
            raise self._file.broken(f"{self._what} has a compressed chunk that ends early or grows beyond {most} bytes")
        return grown


def _unshuffled(data: bytes | bytearray, width: int) -> bytes:
    """Puts the bytes of each element together again; what does not fill an element stays at the end."""
    count = len(data) // width
    planes = np.frombuffer(data, np.uint8, count * width).reshape(width, count)
    return planes.T.tobytes() + data[count * width :]
