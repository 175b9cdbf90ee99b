"""The logarithmic axis of errors, on which zero and NaN have a place too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

EDGE = 20.0


@dataclass(frozen=True)
class ErrorScale:
    """Errors from the bottom up, in pixels that count downwards; zero lies on the lower edge, NaN and Inf on the upper.

    Attributes:
        top: The upper edge.
        bottom: The lower edge.
        lowest: The decade at the lower end of the logarithmic part.
        highest: The decade at its upper end.
        with_zero: Whether room for zero is kept below the logarithmic part.
        with_infinity: Whether room for NaN and Inf is kept above it.
    """

    top: float
    bottom: float
    lowest: int
    highest: int
    with_zero: bool
    with_infinity: bool

    @classmethod
    def over(cls, errors: Iterable[float], top: float, bottom: float) -> ErrorScale:
        """The scale on which all these errors have a place."""
        every = list(errors)
        logarithms = [math.log10(error) for error in every if error > 0 and math.isfinite(error)] or [0.0]
        lowest = math.floor(min(logarithms))
        highest = max(math.ceil(max(logarithms)), lowest + 1)
        return cls(top, bottom, lowest, highest, 0 in every, not all(map(math.isfinite, every)))

    def y(self, error: float) -> float:
        """Where an error lies."""
        if not math.isfinite(error):
            return self.top
        if error <= 0:
            return self.bottom
        return self._at(math.log10(error))

    def ticks(self, most: int) -> list[tuple[str, float]]:
        """Labels and places of whole decades, no more than `most`, and of the edges where something can lie there."""
        step = math.ceil((self.highest - self.lowest + 1) / most)
        decades = range(self.highest, self.lowest - 1, -step)
        marked = [(f"1e{decade:+03d}", self._at(decade)) for decade in decades]
        if self.with_zero:
            marked.append(("0", self.bottom))
        return [("NaN", self.top), *marked] if self.with_infinity else marked

    def _at(self, logarithm: float) -> float:
        upper = self.top + EDGE * self.with_infinity
        lower = self.bottom - EDGE * self.with_zero
        return lower - (logarithm - self.lowest) / (self.highest - self.lowest) * (lower - upper)
