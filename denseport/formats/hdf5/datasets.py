"""Datasets: shape, dtype and where the values lie, all checked before a single value is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from denseport.checkpoint import dtype_of
from denseport.errors import quoted
from denseport.formats.hdf5.attributes import read_attributes
from denseport.formats.hdf5.btrees import leaves, records
from denseport.formats.hdf5.file import UNDEFINED, Fields, File
from denseport.formats.hdf5.filters import REPACK, Pipeline
from denseport.formats.hdf5.headers import Datatype, Header, Message, read_dataspace, read_datatype

COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = range(4)
SINGLE, IMPLICIT, FIXED_ARRAY, EXTENSIBLE_ARRAY, TREE = range(1, 6)
EDGES_UNFILTERED = 0b01
CHUNK_RECORDS, FILTERED_CHUNK_RECORDS = 10, 11

BYTES_AT_MOST = 1 << 48
CHUNKS_AT_MOST = 1 << 20
# In the file, for its address alone.
BYTES_OF_ONE_CHUNK = 8
# What gzip adds to bytes that it cannot compress is far less than this and as much again.
MOST_OVERHEAD = 1 << 10
# h5py gives a dataset that may grow chunks of up to a mebibyte, however small it is now.
CHUNK_BYTES_ALWAYS_ALLOWED = 1 << 20

RAW_BFLOAT16 = Datatype("raw bytes", 2, "bfloat16")
WITHOUT_OPTION = "load it in Keras and save it again with model.save_weights, without such an option"

Fill = Callable[[np.ndarray], None]


class Dataset:
    """An array in the file.

    Attributes:
        path: Where it was found, from the root.
        shape: As the file declares it.
        dtype: Of what `read` returns, in native byte order.
        part: Reads the values from one position up to another of the flattened array; None where they do not lie in
            the file one after the other.

    Raises:
        FormatError: The dataset holds no numbers, or its bytes are not all where it says, no more and no fewer.
    """

    def __init__(self, header: Header, path: str) -> None:
        self._header = header
        self.path = path
        space, kind, layout = (header.required(each) for each in (Message.DATASPACE, Message.DATATYPE, Message.LAYOUT))
        self.shape = read_dataspace(header, space)
        self._type = self._number(read_datatype(header, kind))
        self.dtype: np.dtype[Any] = dtype_of(self._type.number)
        # The sides are multiplied without the zeros: numpy refuses (0, 2^62) where it would not fit without them.
        if prod(side or 1 for side in self.shape) * self._type.size > BYTES_AT_MOST:
            raise header.broken(f"declares the absurd shape {self.shape}")
        self._nbytes = prod(self.shape) * self._type.size
        if header.every(Message.EXTERNAL_FILES):
            raise header.refused("keeps its values in other files", "save the weights into one file")
        self.part: Callable[[int, int], np.ndarray] | None = None
        self._fill = self._layout(layout)

    def read(self) -> np.ndarray:
        """The values, shape `shape`, dtype `dtype`; a new array each time.

        Raises:
            FormatError: A chunk does not hold what it should, or the file changed since it was opened.
        """
        values: np.ndarray = np.empty(self.shape, self._type.stored)
        if self._nbytes:
            self._fill(values)
        native = values.dtype.newbyteorder("=")
        return values.astype(native, copy=False).view(self.dtype) if self._type.number != "bool" else values != 0

    def _number(self, kind: Datatype) -> Datatype:
        if kind.name == "raw bytes" and kind.size == RAW_BFLOAT16.size:
            # By this attribute, Keras 3 tells bfloat16 from other raw values.
            mark = read_attributes(self._header).get("dtype")
            if mark is not None and mark.text() == "bfloat16":
                return RAW_BFLOAT16
            raise self._header.refused(
                "holds raw 16-bit values and does not say of which type",
                "save it as .weights.h5 with model.save_weights, which says so",
            )
        if not kind.number:
            raise self._header.refused(f"holds {kind.name} of {kind.size} bytes, no weights", WITHOUT_OPTION)
        return kind

    def _layout(self, message: bytes) -> Fill:
        """How the values get into an array, once it is certain that they are all there.

        Source: section IV.A.2.i, "The Data Layout Message".
        """
        fields = Fields(self._header, message)
        version, kind = fields.unpack("BB")
        if version in (1, 2):
            return self._old_layout(fields, rank=kind)
        if version not in (3, 4):
            raise self._header.refused(f"has a layout of version {version}", WITHOUT_OPTION)
        if kind == COMPACT:
            return self._compact(fields.take(*fields.unpack("H")))
        if kind == CONTIGUOUS:
            return self._contiguous(*fields.unpack("QQ"))
        if kind == CHUNKED and version == 3:
            rank, address = fields.unpack("BQ")
            return self._chunks(fields.unpack(f"{rank}I")).by_tree(address)
        if kind == CHUNKED:
            flags, rank, width = fields.unpack("BBB")
            if flags & EDGES_UNFILTERED:
                raise self._header.refused("leaves chunks at its edges unfiltered", REPACK)
            return self._chunks(tuple(fields.integer(width) for _ in range(rank))).by_index(fields, flags)
        if kind == VIRTUAL:
            raise self._header.refused("is virtual", "save the weights themselves into one file")
        raise self._header.broken(f"has an unknown storage class, {kind}")

    def _old_layout(self, fields: Fields, rank: int) -> Fill:
        (kind,) = fields.unpack("B5x")
        (address,) = fields.unpack("Q") if kind != COMPACT else (UNDEFINED,)
        if kind == CHUNKED:
            return self._chunks(fields.unpack(f"{rank}I")).by_tree(address)
        fields.take(4 * rank)
        if kind == COMPACT:
            return self._compact(fields.take(*fields.unpack("I")))
        return self._contiguous(address, self._nbytes)

    def _chunks(self, sides: tuple[int, ...]) -> Chunks:
        return Chunks(self._header, self.shape, self._type.stored, sides)

    def _compact(self, data: bytes) -> Fill:
        self._expect(len(data))

        def fill(values: np.ndarray) -> None:
            values[...] = np.frombuffer(data, values.dtype).reshape(values.shape)

        return fill

    def _contiguous(self, address: int, size: int) -> Fill:
        if address == UNDEFINED:
            size = 0
        self._expect(size)
        # Not `self`: a dataset that holds what holds the dataset would keep the file open until garbage is collected.
        file = self._header.file
        if size and address > file.size - size:
            raise self._header.broken("lies outside the file")

        def fill(values: np.ndarray) -> None:
            file.fill(values.reshape(-1).view(np.uint8).data, address)

        if self._type.number != "bool":
            self.part = partial(_part, file, address, self._type.stored, self.dtype)
        return fill

    def _expect(self, stored: int) -> None:
        self._header.file.admit(self._nbytes, self._header.name)
        if stored != self._nbytes:
            raise self._header.broken(
                f"of shape {quoted(self.shape)} needs {self._nbytes} bytes and {stored} are stored"
            )


class Chunk(NamedTuple):
    """Where one chunk lies: its first element, address, stored bytes, and the filters that were not applied to it."""

    start: tuple[int, ...]
    address: int
    size: int
    skipped: int


class Chunks:
    """The chunks of one dataset, whose places an index tells.

    Raises:
        FormatError: A filter is not read here, or the chunks are out of proportion to the dataset; and from the
            methods, a chunk is missing, surplus or outside the file.
    """

    def __init__(self, header: Header, shape: tuple[int, ...], stored: np.dtype[Any], sides: tuple[int, ...]) -> None:
        """`sides` are those of a chunk, and the size of an element last."""
        self._header = header
        self._file = header.file
        self._shape = shape
        self._stored = stored
        self._pipeline = Pipeline(header, header.only(Message.FILTERS))
        whole = len(sides) == len(shape) + 1 and all(sides) and sides[-1] == stored.itemsize
        if not whole or prod(sides) > max(2 * prod(shape) * stored.itemsize, CHUNK_BYTES_ALWAYS_ALLOWED):
            raise header.broken(f"of shape {shape} has chunks of the shape {quoted(sides[:-1])}")
        self._sides, self._nbytes = sides[:-1], prod(sides)
        count = prod(-(-side // part) for side, part in zip(shape, self._sides, strict=True))
        if count > CHUNKS_AT_MOST:
            raise header.refused(f"has more than {CHUNKS_AT_MOST} chunks", REPACK)
        if count > self._file.size // BYTES_OF_ONE_CHUNK + 1:
            raise header.broken(f"declares {count} chunks, more than the file has room for")
        # Chunks may reach far beyond the shape, and all lie in one place.
        self._file.admit(count * self._nbytes * self._pipeline.cost, header.name)

    def by_tree(self, address: int) -> Fill:
        """What fills an array from the chunks of a version 1 B-tree; there are none where it has no address."""
        return self._filled_by(self._of_tree_1(address) if address != UNDEFINED else ())

    def by_index(self, fields: Fields, flags: int) -> Fill:
        """What fills an array from the chunks of an index, which the rest of a layout message of version 4 tells."""
        (index,) = fields.unpack("B")
        if index == SINGLE:
            size, skipped = fields.unpack("QI") if flags & 0b10 else (self._nbytes, 0)
            return self._filled_by([Chunk((0,) * len(self._shape), fields.integer(8), size, skipped)])
        if index == IMPLICIT:
            (address,) = fields.unpack("Q")
            starts = enumerate(self._grid())
            return self._filled_by(Chunk(at, address + n * self._nbytes, self._nbytes, 0) for n, at in starts)
        if index == FIXED_ARRAY:
            return self._filled_by(self._of_fixed_array(*fields.unpack("BQ")))
        if index == TREE:
            fields.take(6)
            return self._filled_by(self._of_tree_2(*fields.unpack("Q")))
        raise self._header.refused(f"has chunks that may grow in number (index {index})", REPACK)

    def _of_tree_1(self, address: int) -> Iterator[Chunk]:
        rank = len(self._shape)
        for key, chunk in leaves(self._header, address, 1, 8 + 8 * (rank + 1)):
            size, skipped, *start, _ = Fields(self._header, key).unpack(f"II{rank + 1}Q")
            yield Chunk(tuple(start), chunk, size, skipped)

    def _of_tree_2(self, address: int) -> Iterator[Chunk]:
        rank = len(self._shape)
        for record in records(self._header, address, FILTERED_CHUNK_RECORDS if self._pipeline else CHUNK_RECORDS):
            fields = Fields(self._header, record)
            place = self._place(fields, fields.left - 12 - 8 * rank)
            scaled = fields.unpack(f"{rank}Q")
            yield Chunk(tuple(n * part for n, part in zip(scaled, self._sides, strict=True)), *place)

    def _of_fixed_array(self, page_bits: int, address: int) -> Iterator[Chunk]:
        """Source: section VI.C, "Fixed Array Index"."""
        fields = Fields(self._header, self._header.verified(address, 28))
        signature, client, entry_size, bits, count, block = fields.take(5), *fields.unpack("BBBQQ")
        if signature != b"FAHD\0" or client != bool(self._pipeline) or bits != page_bits or count > CHUNKS_AT_MOST:
            raise self._header.broken(f"has no chunk index at address {address}")
        if entry_size < (13 if self._pipeline else 8):
            raise self._header.broken(f"has a chunk index of entries of {entry_size} bytes")
        entries = self._array_entries(block, client, entry_size, count, 1 << min(page_bits, 32))
        for start, entry in zip(self._grid(), entries, strict=False):
            yield Chunk(start, *self._place(Fields(self._header, entry), entry_size - 12))

    def _array_entries(self, block: int, client: int, entry_size: int, count: int, page: int) -> Iterator[bytes]:
        """The entries of a fixed array, whose data block is cut into pages with checksums where it is long."""
        pages = -(-count // page) if count > page else 0
        prefix = 14 + -(-pages // 8)
        if self._header.at(block, 6) != b"FADB\0" + bytes((client,)):
            raise self._header.broken(f"has no chunk index at address {block}")
        position = block + prefix + (4 if pages else 0)
        if pages:
            self._header.verified(block, prefix + 4)
        for first in range(0, count, page):
            length = min(page, count - first) * entry_size
            start, end = (position, position + length + 4) if pages else (block, position + length + 4)
            data = self._header.verified(start, end - start)[position - start :]
            position = end
            yield from (data[at : at + entry_size] for at in range(0, length, entry_size))

    def _place(self, fields: Fields, size_width: int) -> tuple[int, int, int]:
        """Address, stored bytes and filters not applied, of which only filtered chunks state the last two."""
        address = fields.integer(8)
        if not self._pipeline:
            return address, self._nbytes, 0
        return address, fields.integer(size_width), fields.integer(4)

    def _grid(self) -> Iterator[tuple[int, ...]]:
        if 0 not in self._shape:
            starts = (range(0, side, part) for side, part in zip(self._shape, self._sides, strict=True))
            yield from itertools.product(*starts)

    def _filled_by(self, chunks: Iterable[Chunk]) -> Fill:
        """Checks that the chunks are those of the grid, each once, each in the file; returns what fills an array."""
        missing = set(self._grid())
        kept = []
        for chunk in chunks:
            if chunk.start not in missing:
                raise self._header.broken(f"has a chunk at {quoted(chunk.start)} twice or outside")
            missing.remove(chunk.start)
            if chunk.address > self._file.size - chunk.size:
                raise self._header.broken("has a chunk that is not stored or lies outside the file")
            if chunk.size > 2 * self._nbytes + MOST_OVERHEAD or (not self._pipeline and chunk.size != self._nbytes):
                raise self._header.broken(f"needs {self._nbytes} bytes a chunk and {chunk.size} are stored")
            kept.append(chunk)
        if missing:
            raise self._header.broken(f"lacks {len(missing)} of its chunks: its values were never written")
        kept.sort(key=lambda chunk: chunk.address)
        return partial(self._fill, kept)

    def _fill(self, chunks: list[Chunk], values: np.ndarray) -> None:
        for chunk in chunks:
            raw = bytearray(chunk.size)
            self._file.fill(memoryview(raw), chunk.address)
            content = self._pipeline.undone(raw, chunk.skipped, self._nbytes)
            block = np.frombuffer(content, self._stored).reshape(self._sides)
            part = values[tuple(slice(at, at + side) for at, side in zip(chunk.start, self._sides, strict=True))]
            part[...] = block[tuple(slice(side) for side in part.shape)]


def _part(file: File, address: int, stored: np.dtype[Any], dtype: np.dtype[Any], start: int, stop: int) -> np.ndarray:
    values: np.ndarray = np.empty(stop - start, stored)
    file.fill(values.view(np.uint8).data, address + start * stored.itemsize)
    return values.astype(stored.newbyteorder("="), copy=False).view(dtype)
