"""How costs grow with depth and width: of a conversion with the file's bytes, of a forward pass with its work."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np

from denseport.net.config import VARIANTS, DenseNetConfig
from denseport.net.graph import multiply_adds, shapes

from . import preparation
from .measure import Command, in_turn
from .rows import Row, Target
from .twins import MEMORY_ENVIRONMENT, answer

SIZE = (224, 224)
DEPTHS = {f"DenseNet{depth}": VARIANTS[f"densenet{depth}"] for depth in (121, 169, 201, 264)}
WIDTHS = {f"DenseNet121 x{times}": DenseNetConfig.bc(32 * times, (6, 12, 24, 16), 64 * times) for times in (1, 2, 4, 8)}
NETS = DEPTHS | WIDTHS
LARGE = 1_000_000_000  # bytes of a file that is converted three times at most
CONVERSION, FORWARD = "conversion, .pth to .weights.h5", "PyTorch twin, 1 image"
SERIES = {"depth": DEPTHS, "width": WIDTHS}
# Nothing else does the same at all of these sizes; what it is to be compared with is itself.
TARGETS: tuple[Target, ...] = ()


def rows(runs: int, folder: Path) -> list[Row]:
    """Conversion without parity, and the forward pass, of nets that grow in depth, and of nets that grow in width.

    The largest net takes 2 GB of disk as it is and 2 GB converted.

    Raises:
        CommandError: A command or a script has failed.
    """
    nets = folder / "growth"
    if not nets.exists():
        click.echo("preparing nets of many sizes", err=True)
        unfinished = preparation.fresh(folder / "growth.unfinished")
        answer("growth_nets.py", [unfinished], folder)
        unfinished.rename(nets)
    found = []
    for series, configs in SERIES.items():
        found += in_turn(f"{CONVERSION}, by {series}", [_conversion(name, nets) for name in configs], runs)
        seconds = answer("growth_forward.py", ["times", runs, *configs], folder)
        for name in configs:
            peak = answer("growth_forward.py", ["memory", name], folder, MEMORY_ENVIRONMENT)
            found.append(Row(f"{FORWARD}, by {series}", name, seconds[name], peak))
    return found


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws the rows to an SVG file, each figure over what it should grow with, and the straight line nearest to it.

    Where matplotlib is not installed nothing is drawn, and that is said.
    """
    if find_spec("matplotlib") is None:
        click.echo(f"{path}: not drawn; that needs matplotlib", err=True)
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 8), layout="constrained")
    panels = figure.subplots(len(SERIES), 4)
    for across, series in zip(panels, SERIES, strict=True):
        for number, (task, unit, cost) in enumerate(
            ((CONVERSION, "file, MB", _megabytes), (FORWARD, "multiply-adds, 10^9", _work))
        ):
            group = [row for row in rows if row.group == f"{task}, by {series}"]
            costs = [cost(NETS[row.name]) for row in group]
            for panel, name, values in (
                (across[2 * number], "seconds", [row.median for row in group]),
                (across[2 * number + 1], "peak memory, MB", [row.peak_bytes / 1e6 for row in group]),
            ):
                slope, start = np.polyfit(costs, values, 1)
                off = max(abs(slope * x + start - y) / y for x, y in zip(costs, values, strict=True))
                panel.plot(costs, values, "o")
                panel.axline((0, start), slope=slope, linewidth=1, label=f"straight line, at most {off:.0%} off")
                for place, row in enumerate(group):  # below a point and above the next, since some lie close together
                    at, offset = (costs[place], values[place]), (4, 6 if place % 2 else -12)
                    panel.annotate(row.name.removeprefix("DenseNet"), at, offset, textcoords="offset points")
                panel.set(
                    title=f"{task}, by {series}",
                    xlabel=unit,
                    ylabel=name,
                    xlim=(0, 1.2 * max(costs)),
                    ylim=(0, 1.1 * max(values)),
                )
                panel.legend(loc="lower right")
    figure.savefig(path, format="svg")


def _conversion(name: str, nets: Path) -> Command:
    target = nets / f"{name}.weights.h5"
    large = _megabytes(NETS[name]) * 1e6 > LARGE
    return Command(
        name,
        [sys.executable, "-m", "denseport", "convert", "--no-verify", "--force", nets / f"{name}.pth", target],
        [target],
        runs_at_most=3 if large else None,
    )


def _megabytes(config: DenseNetConfig) -> float:
    """What the weights take in float32."""
    return 4 * sum(map(math.prod, shapes(config).values())) / 1e6


def _work(config: DenseNetConfig) -> float:
    """Billions of multiply-adds for one image."""
    return multiply_adds(config, SIZE) / 1e9
