"""Parity as an assertion, for a team's own tests."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from denseport.options import Verifying
from denseport.parity import ParityReport, Workers, verify


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
        taps = "".join(f"\n  {tap.name:20}{tap.relative_error:.1e}" for tap in report.taps)
        tensors = report.divergence.tensors if report.divergence else ()
        fed = "".join(f"\n  {tensor.name}: {tensor.finding}" for tensor in tensors)
        raise AssertionError(
            f"{report.failure}\nfed by{fed or ' nothing that is known'}\nalong the net{taps or ' nothing was seen'}"
        )
    return report
