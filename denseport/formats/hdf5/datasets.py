"""Datasets: shape, dtype and where the values lie, all checked before a single value is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from denseport.errors import quoted
from denseport.formats.hdf5.chunks import Chunks
from denseport.formats.hdf5.datatypes import Datatype, read_dataspace, read_datatype
from denseport.formats.hdf5.file import UNDEFINED, Fields, File
from denseport.formats.hdf5.headers import Header, Kind

COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = range(4)
BYTES_AT_MOST = 1 << 48
RAW_BFLOAT16 = Datatype("raw bytes", 2, "bfloat16")
RESAVE = "save it again with Keras, without such an option"


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

    def __init__(self, file: File, header: Header, path: str, mark: Callable[[], str | None]) -> None:
        """`mark` gives the attribute `dtype`, by which Keras 3 tells that raw 16-bit values are bfloat16."""
        self._file = file
        self._what = header.what
        self.path = path
        space, kind, layout = (self._message(header, each) for each in (Kind.DATASPACE, Kind.DATATYPE, Kind.LAYOUT))
        self.shape = read_dataspace(file, space, self._what)
        self._type = self._number(read_datatype(file, kind, self._what), mark)
        self.dtype: np.dtype[Any] = self._type.native
        # The sides are multiplied without the zeros: numpy refuses (0, 2^62) where it would not fit without them.
        if math.prod(side or 1 for side in self.shape) * self._type.size > BYTES_AT_MOST:
            raise file.broken(f"{self._what} declares the absurd shape {self.shape}")
        self._nbytes = math.prod(self.shape) * self._type.size
        if header.every(Kind.EXTERNAL_FILES, file):
            raise file.refused(f"{self._what} keeps its values in other files", "save the weights into one file")
        self.part: Callable[[int, int], np.ndarray] | None = None
        self._fill = self._layout(layout, header.only(Kind.FILTERS, file))

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

    def _message(self, header: Header, kind: Kind) -> bytes:
        body = header.only(kind, self._file)
        if body is None:
            raise self._file.broken(f"{self._what} has no {kind.name.lower()}")
        return body

    def _number(self, kind: Datatype, mark: Callable[[], str | None]) -> Datatype:
        if kind.name == "raw bytes" and kind.size == RAW_BFLOAT16.size:
            if mark() == "bfloat16":
                return RAW_BFLOAT16
            raise self._file.refused(
                f"{self._what} holds raw 16-bit values and does not say of which type",
                "save it with Keras as .weights.h5, which says so",
            )
        if not kind.number:
            raise self._file.refused(f"{self._what} holds {kind.name} of {kind.size} bytes, no weights", RESAVE)
        return kind

    def _layout(self, body: bytes, filters: bytes | None) -> Callable[[np.ndarray], None]:
        """How the values get into an array, once it is certain that they are all there.

        Source: section IV.A.2.i, "The Data Layout Message".
        """
        fields = Fields(self._file, body, self._what)
        version, kind = fields.unpack("BB")
        if version in (1, 2):
            return self._old_layout(fields, rank=kind, filters=filters)
        if version not in (3, 4):
            raise self._file.refused(f"{self._what} has a layout of version {version}", RESAVE)
        if kind == COMPACT:
            return self._compact(fields.take(*fields.unpack("H")))
        if kind == CONTIGUOUS:
            return self._contiguous(*fields.unpack("QQ"))
        if kind == CHUNKED:
            return Chunks(self._file, self._what, self.shape, self._type.stored, filters).locate(fields, version)
        if kind == VIRTUAL:
            raise self._file.refused(f"{self._what} is virtual", "save the weights themselves into one file")
        raise self._file.broken(f"{self._what} has an unknown storage class, {kind}")

    def _old_layout(self, fields: Fields, rank: int, filters: bytes | None) -> Callable[[np.ndarray], None]:
        (kind,) = fields.unpack("B5x")
        (address,) = fields.unpack("Q") if kind != COMPACT else (UNDEFINED,)
        if kind == CHUNKED:
            chunks = Chunks(self._file, self._what, self.shape, self._type.stored, filters)
            return chunks.located_by_tree(address, fields.unpack(f"{rank}I"))
        fields.take(4 * rank)
        if kind == COMPACT:
            return self._compact(fields.take(*fields.unpack("I")))
        return self._contiguous(address, self._nbytes)

    def _compact(self, data: bytes) -> Callable[[np.ndarray], None]:
        self._expect(len(data))

        def fill(values: np.ndarray) -> None:
            values[...] = np.frombuffer(data, values.dtype).reshape(values.shape)

        return fill

    def _contiguous(self, address: int, size: int) -> Callable[[np.ndarray], None]:
        if address == UNDEFINED:
            size = 0
        self._expect(size)
        if size and address > self._file.size - size:
            raise self._file.broken(f"{self._what} lies outside the file")

        # Not `self`: a dataset that holds what holds the dataset would keep the file open until garbage is collected.
        file, what = self._file, self._what

        def fill(values: np.ndarray) -> None:
            file.fill(values.reshape(-1).view(np.uint8).data, address, what)

        if self._type.number != "bool":
            self.part = partial(_part, file, address, what, self._type.stored, self.dtype)
        return fill

    def _expect(self, stored: int) -> None:
        self._file.admit(self._nbytes, self._what)
        if stored != self._nbytes:
            raise self._file.broken(
                f"{self._what} of shape {quoted(self.shape)} needs {self._nbytes} bytes and {stored} are stored"
            )


def _part(
    file: File, address: int, what: str, stored: np.dtype[Any], dtype: np.dtype[Any], start: int, stop: int
) -> np.ndarray:
    values: np.ndarray = np.empty(stop - start, stored)
    file.fill(values.view(np.uint8).data, address + start * stored.itemsize, what)
    return values.astype(stored.newbyteorder("="), copy=False).view(dtype)
