"""What was measured, as a Markdown table and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from .rows import Row, Target

OURS = "denseport"
HEADER = ("task", "who", "median", "spread", "peak memory", "denseport's time to theirs", "memory")


@dataclass(frozen=True)
class Comparison:
    """denseport's row of a group beside a peer's, with its figures over the peer's; None where there are none."""

    peer: Row
    target: Target | None
    time: float | None
    memory: float | None

    @classmethod
    def of(cls, ours: Row, peer: Row, targets: Sequence[Target]) -> Comparison:
        """The comparison with this peer, under the target that names its group and it."""
        target = next((each for each in targets if (each.group, each.peer) == (peer.group, peer.name)), None)
        return cls(peer, target, _ratio(ours.median, peer.median), _ratio(ours.peak_bytes, peer.peak_bytes))


def comparisons(rows: Sequence[Row], targets: Sequence[Target]) -> list[Comparison]:
    """Every peer beside the row of its group that is called "denseport"; a group without one has none."""
    ours = {row.group: row for row in rows if row.name == OURS}
    return [Comparison.of(ours[row.group], row, targets) for row in rows if row.name != OURS and row.group in ours]


def markdown(rows: Sequence[Row], targets: Sequence[Target]) -> list[str]:
    """The lines of a table: a row for each way of doing each task, every target beside the ratio that it is for."""
    compared = {(each.peer.group, each.peer.name): each for each in comparisons(rows, targets)}
    cells = [HEADER, ("---",) * len(HEADER)]
    for group, ways in groupby(rows, lambda row: row.group):
        for number, row in enumerate(ways):
            comparison = compared.get((row.group, row.name))
            target = comparison.target if comparison else None
            cells.append(
                (
                    "" if number else group,
                    row.name,
                    _seconds(row.median),
                    _seconds(row.spread),
                    f"{row.peak_bytes / 1e6:,.0f} MB" if row.peak_bytes else "not known",
                    _judged(comparison.time, target.time if target else None) if comparison else "",
                    _judged(comparison.memory, target.memory if target else None) if comparison else "",
                )
            )
    return [f"| {' | '.join(row)} |" for row in cells]


def plain(rows: Sequence[Row], targets: Sequence[Target]) -> dict[str, Any]:
    """All runs, and the ratios with their targets, as plain values for JSON."""
    return {
        "rows": [asdict(row) | {"median": row.median, "spread": row.spread} for row in rows],
        "comparisons": [
            {
                "group": each.peer.group,
                "peer": each.peer.name,
                "time": each.time,
                "time_target": each.target.time if each.target else None,
                "memory": each.memory,
                "memory_target": each.target.memory if each.target else None,
            }
            for each in comparisons(rows, targets)
        ],
    }


def _ratio(ours: float, theirs: float) -> float | None:
    return ours / theirs if ours and theirs else None


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"


def _judged(ratio: float | None, target: float | None) -> str:
    if ratio is None:
        return ""
    if target is None:
        return f"{ratio:.3g}"
    return f"{ratio:.3g} (at most {target:.3g}: {'met' if ratio <= target else 'missed'})"
