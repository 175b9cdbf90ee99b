"""The options that everything shares which compares two files: `verify`, `convert` and `assert_parity`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from denseport.parity.processes import Workers


class Comparing(TypedDict, total=False):
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
    progress: Callable[[int, int], None] | None
    workers: Workers | None
