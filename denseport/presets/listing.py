"""Presets as lines of text."""

from __future__ import annotations

from collections.abc import Iterable

from denseport.presets.preset import Preset

HEADINGS = ("preset", "parameters", "multiply-adds", "pixels", "top-1", "top-5", "hash", "licence")


def lines(presets: Iterable[Preset]) -> list[str]:
    """A table with one row a preset, under a line of headings; accuracies are those that the publishers give."""
    rows = [HEADINGS, *map(_row, presets)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(preset: Preset) -> tuple[str, ...]:
    return (
        preset.name,
        f"{preset.parameters:,}",
        f"{preset.multiply_adds / 1e9:.2f} G",
        "x".join([str(preset.side)] * preset.config.dimensions),
        *("" if share is None else f"{share:.2f}" for share in (preset.top1, preset.top5)),
        preset.hash.partition(":")[0] or "none",
        preset.licence,
    )
