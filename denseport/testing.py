"""Parity as an assertion, for a team's own tests."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from denseport import text
from denseport.options import Verifying
from denseport.parity.report import ParityReport
from denseport.parity.verification import verify
from denseport.running.workers import Workers
from denseport.terminal import plain


def assert_parity(
    a: str | Path, b: str | Path, *, workers: Workers | None = None, **options: Unpack[Verifying]
) -> ParityReport:
    """Asserts that two files compute the same, each in a framework of its own, and returns the report.

    Args:
        a: The reference file.
        b: The other file.
        workers: Processes to run in, for many assertions in a row; where None, each starts its own.
        options: Those of `denseport.options.Verifying`: `tolerance`, `exact`, `inputs`, `against`, ...

    Raises:
        AssertionError: They do not; the message says by how much, where the nets part, and which tensors are to blame.
        DenseportError: They cannot be compared; see `denseport.verify`.
    """
    report = verify(a, b, workers=workers, **options)
    if not report.passed:
        raise AssertionError("\n".join([report.failure, *plain(text.parity(report, every_tap=True))]))
    return report
