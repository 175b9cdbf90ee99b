"""What a parity check found, as figures."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from denseport.errors import VerificationError


@dataclass(frozen=True)
class FrameworkRun:
    """One file as one framework ran it.

    Attributes:
        file: The file.
        layout: Its layout.
        framework: `torch` or `keras`.
        version: The framework's version, with Keras' backend.
        device: Where it ran, in the framework's words.
        seconds: Wall time of the whole process.
        peak_memory: Peak resident memory of the process in bytes.
    """

    file: str
    layout: str
    framework: str
    version: str
    device: str
    seconds: float
    peak_memory: int


@dataclass(frozen=True)
class Comparison:
    """The outputs of both frameworks for one batch of images.

    Attributes:
        input_shape: (N, *spatial, C).
        relative_error: max|a - b| / max|a|; infinite where either holds NaN or Inf.
        absolute_error: max|a - b|.
        top1_agreement: Share of the images for which both have the same largest output.
        accuracy: Share of the labels that each framework's largest output meets, where there are labels.
        rounding_error: max|a - a'| / max|a|, where a' is the first file in its own precision and `a` the first file
            with its weights rounded to the second's narrower dtype; None where none was rounded.
        trait_error: max|a - b'| / max|a|, where b' is the second file under its own layout's traits; None where these
            are the first one's.
    """

    input_shape: tuple[int, ...]
    relative_error: float
    absolute_error: float
    top1_agreement: float
    accuracy: tuple[float, float] | None = None
    rounding_error: float | None = None
    trait_error: float | None = None


@dataclass(frozen=True)
class ParityReport:
    """Whether two files compute the same, and by what figures.

    Attributes:
        a: The run of the first file, the reference.
        b: The run of the second file.
        comparisons: One for each batch of images.
        tolerance: The largest relative error that passes.
        seconds: Wall time of the whole check.
    """

    a: FrameworkRun
    b: FrameworkRun
    comparisons: tuple[Comparison, ...]
    tolerance: float
    seconds: float

    @property
    def relative_error(self) -> float:
        """The largest relative error of all comparisons."""
        return max(comparison.relative_error for comparison in self.comparisons)

    @property
    def passed(self) -> bool:
        """Whether the largest relative error is finite and within the tolerance."""
        return self.relative_error <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, verdict and figure included; an infinite figure is None."""
        plain = dataclasses.asdict(self)
        for comparison in plain["comparisons"]:
            for name, value in comparison.items():
                if isinstance(value, float) and not math.isfinite(value):
                    comparison[name] = None
        figure = self.relative_error if math.isfinite(self.relative_error) else None
        return {"passed": self.passed, "relative_error": figure, **plain}

    def about(self, file: Path) -> ParityReport:
        """The same report under the name that the second file is going to have."""
        return dataclasses.replace(self, b=dataclasses.replace(self.b, file=str(file)))

    def raise_if_failed(self, report: Any) -> None:
        """Raises VerificationError with `report` attached where the check has not passed."""
        if self.passed:
            return
        figure = f"{self.relative_error:.1e}" if math.isfinite(self.relative_error) else "NaN or Inf"
        raise VerificationError(
            f"{self.b.file}: its outputs in {self.b.framework} are {figure} relative from those of {self.a.file} in "
            f"{self.a.framework}, above the tolerance {self.tolerance:.0e}; see `denseport diff`",
            report,
        )


def compare(
    a: np.ndarray,
    b: np.ndarray,
    input_shape: tuple[int, ...],
    labels: np.ndarray | None = None,
    *,
    unrounded: np.ndarray | None = None,
    own_traits: np.ndarray | None = None,
) -> Comparison:
    """Compares two frameworks' outputs, both (N, C), for the same images; `labels` are (N,) where there are any."""
    top1 = a.argmax(1), b.argmax(1)
    return Comparison(
        input_shape=input_shape,
        relative_error=relative_error(a, b),
        absolute_error=float(np.abs(a - b).max()) if np.isfinite(a).all() and np.isfinite(b).all() else math.inf,
        top1_agreement=float((top1[0] == top1[1]).mean()),
        accuracy=None if labels is None else (float((top1[0] == labels).mean()), float((top1[1] == labels).mean())),
        rounding_error=None if unrounded is None else relative_error(a, unrounded),
        trait_error=None if own_traits is None else relative_error(a, own_traits),
    )


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    """max|reference - other| / max|reference|; infinite where either holds NaN or Inf, zero where both are all zero."""
    if not (np.isfinite(reference).all() and np.isfinite(other).all()):
        return math.inf
    largest, apart = float(np.abs(reference).max()), float(np.abs(reference - other).max())
    return apart / largest if largest else (math.inf if apart else 0.0)
