"""The options that everything shares which compares files: `verify`, `convert`, `migrate` and `assert_parity`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from denseport.parity import Workers


class ComparisonOptions(TypedDict, total=False):
    """How two files are compared; `denseport.verify` says what each option means."""

    device: str
    tolerance: float | None
    inputs: str | Path | None
    preprocess: str | None
    exact: bool
    against: Sequence[str]
    keras_backend: str | None
    allow_tf32: bool
    train_steps: int


class Comparing(ComparisonOptions, total=False):
    """The same, and what belongs to one call: who is told how far it is, and the processes that are used."""

    progress: Callable[[int, int], None] | None
    workers: Workers | None
