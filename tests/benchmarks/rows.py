"""What every benchmark gives: rows of repeated measurements, grouped with the peers that they are compared to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One way of doing a task, measured several times in turn with the other ways of its group.

    Attributes:
        group: The task, such as "DenseNet-201, .pth to .weights.h5".
        name: Who does it: "denseport", or a peer.
        seconds: Wall time of each run.
        peak_bytes: Largest resident private memory of any run, of all its processes together.
    """

    group: str
    name: str
    seconds: Sequence[float]
    peak_bytes: int

    @property
    def median(self) -> float:
        """Seconds of the middle run."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Seconds between the fastest and the slowest run."""
        return max(self.seconds) - min(self.seconds)


@dataclass(frozen=True)
class Target:
    """What denseport's row of a group is held to, against one peer of it.

    Attributes:
        peer: The name of the other row.
        time: Largest denseport's median over the peer's, or None where time is not held to anything.
        memory: Largest denseport's peak over the peer's, or None.
    """

    group: str
    peer: str
    time: float | None = None
    memory: float | None = None
