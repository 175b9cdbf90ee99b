"""From what a PyTorch pickle says of its tensors to arrays over the stored bytes, with every claim checked first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from denseport.checkpoint import Tensor
from denseport.errors import FormatError, quoted
from denseport.formats.pth.objects import Storage, TensorRecord
from denseport.formats.source_file import COPY_AGAIN

# Weights are tied a few times at most. Sharing and strides of 0 multiply what must be read without adding to the file,
# so that a file may hold 16 times its size; small ones, where that costs nothing, more.
MAX_EXPANSION = 16
FREE_TENSOR = 16 << 20
FREE_TOTAL = 128 << 20
MAX_DIMENSIONS = 32  # numpy's before 2.0


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """The `size` bytes of a storage; `read(start, size)` gives some; `inflated`: by making all of them, each time."""

    size: int
    read: Callable[[int, int], bytes]
    inflated: bool = False


class TensorReader:
    """Makes tensors of records; `stored` has the bytes of each storage by key, in the byte order `byteorder`."""

    def __init__(self, path: str | Path, file_size: int, stored: Mapping[str, StoredBytes], byteorder: str) -> None:
        self._path = path
        self._stored = stored
        self._swapped = byteorder != sys.byteorder
        self._limit = max(MAX_EXPANSION * file_size, FREE_TOTAL)
        self._total = 0

    def tensor(self, name: str, record: TensorRecord) -> Tensor:
        """The tensor of a record; its values are read-only.

        Raises:
            FormatError: The tensor looks outside its storage, the storage is missing or of another length than
                declared, or the tensors made so far are far larger than the file.
        """
        storage = record.storage
        if type(storage) is not Storage:
            raise self._refused(name, f"is made of a {type(storage).__name__}, not a storage; {COPY_AGAIN}")
        if storage.key not in self._stored:
            raise self._refused(
                name, f"has its values in storage {quoted(storage.key)}, which the file lacks; {COPY_AGAIN}"
            )
        stored = self._stored[storage.key]
        storage_dtype = storage.type.to_numpy()
        dtype = storage_dtype if record.dtype is None else record.dtype.to_numpy()
        if stored.size // storage_dtype.itemsize != storage.count:
            declared = storage.count * storage_dtype.itemsize
            raise self._refused(name, f"should have a storage of {declared} bytes, not {stored.size}; {COPY_AGAIN}")
        shape, strides = self._sizes(name, record.shape), self._sizes(name, record.strides)
        (offset,) = self._sizes(name, (record.offset,))
        if len(shape) != len(strides):
            raise self._refused(name, f"has {len(shape)} sizes and {len(strides)} strides; {COPY_AGAIN}")
        size = prod(shape)
        if not size:
            if prod(max(1, length) for length in shape) >= 1 << 48:
                raise self._refused(name, f"has sizes beyond any memory; {COPY_AGAIN}")
            return Tensor(dtype, shape, partial(np.empty, shape, dtype))
        window = storage.length * storage_dtype.itemsize
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if (last + 1) * dtype.itemsize > window:
            raise self._refused(name, f"reaches to element {last}, outside its storage of {window} bytes; {COPY_AGAIN}")
        extent = (last + 1 - offset) * dtype.itemsize
        # Few elements that lie far apart are read with all that lies between them.
        self._account(name, max(size * dtype.itemsize, extent), stored)
        start = storage.start * storage_dtype.itemsize + offset * dtype.itemsize
        # The stride of a single element says nothing, and may be too large for numpy.
        byte_strides = tuple(
            stride * dtype.itemsize if length > 1 else dtype.itemsize
            for length, stride in zip(shape, strides, strict=True)
        )
        in_parts = _is_contiguous(shape, strides) and not stored.inflated
        part = partial(self._part, stored, dtype, start) if in_parts else None
        return Tensor(dtype, shape, partial(self._read, stored, dtype, shape, start, extent, byte_strides), part)

    def _account(self, name: str, size: int, stored: StoredBytes) -> None:
        if size > max(MAX_EXPANSION * stored.size, FREE_TENSOR):
            raise self._refused(name, f"expands {stored.size} stored bytes to {size}; save tensor.contiguous()")
        self._total += max(size, stored.size) if stored.inflated else size
        if self._total > self._limit:
            reason = (
                f"brings the tensors to over {self._limit} bytes, far more than the file has; save them uncompressed"
            )
            raise self._refused(name, f"{reason} and tensor.contiguous()")

    def _sizes(self, name: str, values: object) -> tuple[int, ...]:
        if type(values) is tuple and len(values) > MAX_DIMENSIONS:
            raise self._refused(name, f"has {len(values)} dimensions, more than {MAX_DIMENSIONS}; {COPY_AGAIN}")
        if type(values) is tuple and all(type(value) is int and 0 <= value < 1 << 62 for value in values):
            return values
        raise self._refused(name, f"has an offset, size or stride that is no natural number; {COPY_AGAIN}")

    def _read(
        self,
        stored: StoredBytes,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        start: int,
        extent: int,
        strides: tuple[int, ...],
    ) -> np.ndarray:
        content = stored.read(start, extent)
        if not self._swapped or dtype.itemsize == 1:
            return np.ndarray(shape, dtype, content, 0, strides)
        # ml_dtypes' dtypes have no other byte order, so that bytes are swapped as integers.
        raw = np.dtype(f"u{dtype.itemsize}")
        foreign = np.ndarray(shape, raw.newbyteorder(), content, 0, strides)
        return foreign.astype(raw).view(dtype)

    def _part(self, stored: StoredBytes, dtype: np.dtype[Any], start: int, first: int, stop: int) -> np.ndarray:
        size, step = stop - first, dtype.itemsize
        return self._read(stored, dtype, (size,), start + first * step, size * step, (step,))

    def _refused(self, name: str, reason: str) -> FormatError:
        return FormatError(f"{self._path}: tensor {quoted(name)} {reason}")


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the values lie one after the other in C order; strides count elements."""
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != expected:
            return False
        expected *= length
    return True
