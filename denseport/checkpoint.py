"""Named tensors that are not read until they are needed: what formats give and take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

PIECE_BYTES = 4 << 20
STRIP = 32


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array whose dtype and shape are known and whose values come on `read()`.

    `read` may return a read-only array, in any memory order; it always has exactly
    `dtype` (native byte order) and `shape`. `part(start, stop)`, where a file can do so, reads only those values of
    the flattened array, and returns them flat.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    part: Callable[[int, int], np.ndarray] | None = None

    @classmethod
    def of(cls, array: np.ndarray) -> Tensor:
        """The tensor that holds `array` itself, not a copy."""
        return cls(array.dtype, array.shape, lambda: array)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes that the values take in memory."""
        return self.size * self.dtype.itemsize

    def transposed(self, axes: tuple[int, ...]) -> Tensor:
        """The same values with axes permuted as by `numpy.transpose`; nothing is copied."""
        if axes == tuple(range(len(self.shape))):
            return self
        read = self.read
        return Tensor(self.dtype, tuple(self.shape[axis] for axis in axes), lambda: read().transpose(axes))

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        """The same dtype and shape; `change` is made of the values when they are read."""
        return Tensor(self.dtype, self.shape, lambda: change(self.read()))

    def same_bits(self, other: Tensor) -> bool:
        """Whether the other has the same dtype, shape and bits, so that a NaN equals itself.

        Where the other can be read in parts, it never is in memory as a whole.
        """
        if self.dtype != other.dtype or self.shape != other.shape:
            return False
        bits = np.dtype(f"u{self.dtype.itemsize}")
        part = other.part or _parts_of(other.read())
        position = 0
        for piece in pieces(self.read()):
            if not np.array_equal(piece.view(bits), part(position, position + piece.size).view(bits)):
                return False
            position += piece.size
        return True


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name in the order of the file, with what else the file said.

    Attributes:
        tensors: Name to tensor, as the format spells the names.
        metadata: The strings that travel with the weights (safetensors metadata, h5 attributes, a pth record).
        format: `pth`, `h5`, `safetensors` or `keras`.
        container: The kind and version of the container, in words for a report.
        path: What the file is called in messages, or None where the tensors came from memory.
        wrapper: The part of the file whose tensors these are (`model_weights`), or "" where they are all of them.
        others: What else the file holds (`epoch`, `optimizer`), by name.
        backend: The Keras backend that wrote the file, where it says so: on Theano, kernels are rotated by 180 degrees.
        description: What stands beside the weights and describes their net, as plain JSON data; or empty.
        described_by: Whose description it is: `keras`, a model's configuration; `timm` or `keras-hub`, JSON objects by
            the names of their files; or "".
        paths: Where the file has each layer, by the layer's name, where Keras loads by such paths and not by names.
        notes: What a user should know of how it was read.
        weightless: Layers that the file lists and that have no weights, by name or, in `.weights.h5`, class and number.
        nameless: True where the file does not record its layers' names, so that only classes and order tell them apart.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    format: str = ""
    container: str = ""
    path: str | Path | None = None
    wrapper: str = ""
    others: tuple[str, ...] = ()
    weightless: tuple[str, ...] = ()
    nameless: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)
    backend: str = ""
    description: Mapping[str, Any] = field(default_factory=dict)
    described_by: str = ""
    notes: tuple[str, ...] = ()
    close: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def label(self) -> str:
        """What messages call the file."""
        return str(self.path or "the given tensors")

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The names of the dtypes that occur, sorted."""
        return tuple(sorted({str(tensor.dtype) for tensor in self.tensors.values()}))


def pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    """The values in C order as flat arrays of a few MiB, so that a transposed array is never copied as a whole."""
    if values.nbytes <= PIECE_BYTES:
        yield _in_c_order(values).reshape(-1)
    elif values.nbytes // len(values) > PIECE_BYTES:
        for row in values:
            yield from pieces(row)
    else:
        rows = PIECE_BYTES * len(values) // values.nbytes
        for start in range(0, len(values), rows):
            yield _in_c_order(values[start : start + rows]).reshape(-1)


def block(shape: tuple[int, ...], start: int, stop: int) -> tuple[int | slice, ...]:
    """The index of the values from `start` to `stop` of a flattened array, which are one of its `pieces`."""
    index: list[int | slice] = []
    for axis in range(len(shape)):
        inner = math.prod(shape[axis + 1 :])
        if stop - start >= inner:
            return (*index, slice(start // inner, stop // inner))
        index.append(start // inner)
        start, stop = start % inner, stop - start // inner * inner
    return tuple(index)


def _in_c_order(values: np.ndarray) -> np.ndarray:
    """The values contiguously; a transposed array is copied in strips, which stay in the processor's cache."""
    if values.ndim < 2 or values.flags.c_contiguous or values.shape[-1] <= STRIP:
        return np.ascontiguousarray(values)
    copy = np.empty(values.shape, values.dtype)
    for start in range(0, values.shape[-1], STRIP):
        copy[..., start : start + STRIP] = values[..., start : start + STRIP]
    return copy


def _parts_of(values: np.ndarray) -> Callable[[int, int], np.ndarray]:
    flat = values.reshape(-1)
    return lambda start, stop: flat[start:stop]


def largest_difference(a: np.ndarray, b: np.ndarray) -> float | None:
    """max|a - b| in float64, zero where there are no values; None where either holds NaN or Inf."""
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0))
    return largest if math.isfinite(largest) else None


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name of a dtype, which numpy puts together anew each time it is asked."""
    return dtype.name


def dtype_of(name: str) -> np.dtype[Any]:
    """The numpy dtype of a name; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)
