"""Many small files at once, on one process and on two, beside a conversion called for each of them."""

from __future__ import annotations

import sys
from pathlib import Path

from . import preparation
from .measure import Command, in_turn
from .rows import Row, Target

MANY, FEW = 200, 20  # with parity, a file takes seconds where `convert` is called for each
TWO_PROCESSES = f"denseport migrate, {MANY} small files, --jobs 2"
WITH_PARITY = f"denseport migrate, {FEW} small files, with parity"
ONE_PROCESS = "denseport migrate --jobs 1"
ONE_BY_ONE = "denseport convert for each"
TARGETS = (
    Target(TWO_PROCESSES, ONE_PROCESS, time=1 / 1.8),
    Target(WITH_PARITY, ONE_BY_ONE, time=1 / 5),
)
FOR_EACH = 'for file in "$1"/*; do "$0" -m denseport convert "$file" "$2/$(basename "$file").h5" || exit; done'


def rows(runs: int, folder: Path) -> list[Row]:
    """Two folders: many files without parity, and fewer with it.

    Raises:
        CommandError: A command has failed.
    """
    many = preparation.small_checkpoints(MANY, folder)
    few = preparation.small_checkpoints(FEW, folder)
    one_by_one = folder / "one-by-one"
    one_by_one.mkdir(exist_ok=True)
    without_parity = [
        _migrate("denseport", many, folder, 2, "--no-verify"),
        _migrate(ONE_PROCESS, many, folder, 1, "--no-verify"),
    ]
    written = [one_by_one / f"{file.name}.h5" for file in few.iterdir()]
    with_parity = [
        _migrate("denseport", few, folder, 1),
        _migrate("denseport migrate --jobs 2", few, folder, 2),
        Command(ONE_BY_ONE, ["sh", "-c", FOR_EACH, sys.executable, few, one_by_one], written, runs_at_most=1),
    ]
    return in_turn(TWO_PROCESSES, without_parity, runs) + in_turn(WITH_PARITY, with_parity, runs)


def _migrate(name: str, source: Path, folder: Path, jobs: int, *options: str) -> Command:
    target = folder / f"migrated-{source.name}-{jobs}"
    arguments = ["migrate", "--to", "h5", "--jobs", str(jobs), *options, source, target]
    return Command(name, [sys.executable, "-m", "denseport", *arguments], [target])
