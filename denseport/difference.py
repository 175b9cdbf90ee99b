"""Two files compared tensor by tensor, across formats and layouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from denseport.checkpoint import Tensor, largest_difference
from denseport.errors import LayoutError
from denseport.options import Differing, checked
from denseport.source import Source


@dataclass(frozen=True)
class TensorDifference:
    """One tensor that is not the same in both files.

    Attributes:
        name: Its canonical name, or its own where the two files were compared by their own names.
        kind: `only in a`, `only in b`, `shape`, `dtype` (the values are equal) or `values`.
        a: Shape and dtype in the first file, or "".
        b: Shape and dtype in the second file, or "".
        largest: max|a - b| where the values differ, else None; None too where either holds NaN or Inf.
    """

    name: str
    kind: str
    a: str
    b: str
    largest: float | None = None


@dataclass(frozen=True)
class Difference:
    """What two files do not have in common.

    Attributes:
        a: The first file.
        b: The second file.
        by_layout: Whether tensors were matched by canonical name; else by the names in the files.
        same: How many tensors are equal bit by bit.
        different: Those that are not.
    """

    a: str
    b: str
    by_layout: bool
    same: int
    different: tuple[TensorDifference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"equal": not self.different, **dataclasses.asdict(self)}


def diff(a: str | Path, b: str | Path, **options: Unpack[Differing]) -> Difference:
    """Compares two files' tensors by their canonical names and axes, or by their own where either fits no layout.

    Args:
        a: A file; `b` another.
        options: What is said of both nets: see `denseport.options.Differing`.

    Raises:
        UsageError, FormatError: A file is not there or cannot be read, or there is no such option.
    """
    chosen = checked(Differing, options)
    traits = chosen["traits"]
    with (
        Source(Path(a), net=chosen["net_a"], traits=traits) as first,
        Source(Path(b), net=chosen["net_b"], traits=traits) as second,
    ):
        canonical = _canonical(first), _canonical(second)
        if all(canonical):
            second.number_head_like(first.detection.config)
            canonical = canonical[0], _canonical(second)
        by_layout = all(canonical)
        ours, theirs = canonical if by_layout else (first.checkpoint.tensors, second.checkpoint.tensors)
        different = [difference for name in {**ours, **theirs} if (difference := _compare(name, ours, theirs))]
        same = len(ours.keys() | theirs.keys()) - len(different)
        return Difference(str(a), str(b), by_layout, same, tuple(different))


def _canonical(source: Source) -> Mapping[str, Tensor]:
    """The tensors by canonical name; none where no layout fits."""
    try:
        return source.weights.tensors
    except LayoutError:
        return {}


def _compare(name: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> TensorDifference | None:
    a, b = ours.get(name), theirs.get(name)
    if a is None or b is None:
        return TensorDifference(name, "only in b" if a is None else "only in a", _describe(a), _describe(b))
    if a.shape != b.shape:
        return TensorDifference(name, "shape", _describe(a), _describe(b))
    if a.same_bits(b):
        return None
    wide = a.read().astype(np.float64), b.read().astype(np.float64)
    if a.dtype != b.dtype and np.array_equal(*wide, equal_nan=True):
        return TensorDifference(name, "dtype", _describe(a), _describe(b))
    return TensorDifference(name, "values", _describe(a), _describe(b), largest_difference(*wide))


def _describe(tensor: Tensor | None) -> str:
    return "" if tensor is None else f"{tensor.dtype} {tensor.shape}"
