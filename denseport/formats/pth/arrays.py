"""numpy's arrays and numbers in pickles: their dtype, shape and bytes, read without running numpy's own functions.

Source: numpy/_core/src/multiarray/methods.c `array_reduce`, `array_setstate`; descriptor.c `arraydescr_reduce`;
numpy/_core/numeric.py `_frombuffer`.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

import numpy as np

from denseport.formats.pth.records import MalformedPickleError, Record

_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|[?bhilqBHILQefd]")


class NumpyDtype:
    """A dtype by numpy's code for it; arrays of codes that are no plain numbers hold no weights.

    Attributes:
        code: Such as `f4`.
        order: `<`, `>`, `=` or `|`.
    """

    __slots__ = ("code", "order")

    def __init__(self, code: object) -> None:
        self.code = code if type(code) is str and _NUMBERS.fullmatch(code) else ""
        self.order = "="

    def set_state(self, state: object) -> None:
        """Takes the byte order from what numpy stores behind the code."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise MalformedPickleError("the state of a numpy dtype has no byte order")
        self.order = state[1]

    def to_numpy(self) -> np.dtype[Any]:
        """The dtype of the stored bytes; only where there is a code."""
        return np.dtype(self.order + self.code)


class ArrayRecord:
    """An array: the bytes of its values, with nothing checked before `is_tensor`."""

    __slots__ = ("content", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self.shape: object = None
        self.dtype: object = None
        self.fortran: object = False
        self.content: object = None

    def set_state(self, state: object) -> None:
        """Takes what numpy stores of an array: version, shape, dtype, order and bytes; the first may be missing."""
        if type(state) is not tuple or len(state) not in (4, 5):
            raise MalformedPickleError("the state of a numpy array is no tuple of five")
        self.shape, self.dtype, self.fortran, self.content = state[-4:]

    @property
    def is_tensor(self) -> bool:
        """Whether it holds plain numbers, as many as its shape says.

        Raises:
            MalformedPickleError: It claims to, and does not.
        """
        if type(self.dtype) is not NumpyDtype or not self.dtype.code:
            return False
        if type(self.content) is str:  # Python 2 did not tell text and bytes apart
            self.content = self.content.encode("utf-8", "surrogateescape")
        shape, content = self.shape, self.content
        if type(shape) is not tuple or any(type(side) is not int or not 0 <= side < 1 << 48 for side in shape):
            raise MalformedPickleError("a numpy array has a shape of something else than sizes")
        if type(content) is not bytes or len(shape) > 32:
            raise MalformedPickleError("a numpy array has no bytes, or too many dimensions")
        if prod(shape) * self.dtype.to_numpy().itemsize != len(content) or prod(max(1, n) for n in shape) >= 1 << 48:
            raise MalformedPickleError(f"a numpy array of shape {shape} has {len(content)} bytes")
        return True

    def to_numpy(self) -> np.ndarray:
        """The array, read-only, in native byte order; only of one that `is_tensor`."""
        values = np.frombuffer(self.content, self.dtype.to_numpy())  # type: ignore
        shaped: np.ndarray = values.reshape(self.shape, order="F" if self.fortran else "C")
        return shaped.astype(shaped.dtype.newbyteorder("="), copy=False)


def reconstruct(_class: object, _shape: object, _code: object) -> ArrayRecord:
    """An empty array, whose state follows."""
    return ArrayRecord()


def from_buffer(content: object, dtype: object, shape: object, order: object) -> ArrayRecord:
    """An array of protocol 5."""
    array = ArrayRecord()
    array.set_state((shape, dtype, order == "F", content))
    return array


def dtype(code: object, _align: object = False, _copy: object = True) -> NumpyDtype:
    """A dtype, whose state may follow."""
    return NumpyDtype(code)


def scalar(dtype: object, content: object = None) -> object:
    """A number, as Python's own; a record of anything else."""
    array = ArrayRecord()
    array.set_state(((), dtype, False, content))
    if content is None or not array.is_tensor:
        return Record("numpy.generic", (dtype, content))
    return array.to_numpy().item()
