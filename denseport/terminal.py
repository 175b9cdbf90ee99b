"""What only a terminal gets: signs of life while work is long, and a parity check as a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from denseport import text
from denseport.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

Progress = Callable[[int, int], None]


@contextmanager
def sign_of_life(what: str, *, files: bool = False) -> Iterator[Progress]:
    """Shows on a terminal's stderr that work goes on, and how far it is; nothing where stderr is no terminal.

    What it yields takes the number of parts that are done, and of all parts. Where these are files, it says how many
    are done, how many a minute, and how long the rest will take.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich import progress
    from rich.console import Console

    line = progress.TextColumn("{task.description}"), progress.BarColumn()
    columns: tuple[progress.ProgressColumn, ...] = (progress.SpinnerColumn(), *line, progress.TimeElapsedColumn())
    if files:
        rate = progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[rate]}")
        columns = *line, *rate, progress.TimeElapsedColumn(), progress.TimeRemainingColumn()
    # A parity check takes seconds, so that a rate is known only after some.
    settings: dict[str, Any] = {"transient": True, "speed_estimate_period": 600}
    with progress.Progress(*columns, console=Console(stderr=True), **settings) as bar:
        task = bar.add_task(f"{what} ...", total=None, rate="")

        def show(done: int, total: int) -> None:
            seconds = bar.tasks[0].elapsed
            rate = f"{60 * done / seconds:.1f} a minute" if seconds and done else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield show


def print_parity(report: Mapping[str, Any], every_tap: bool) -> None:
    """A parity check as tables on a terminal's stdout: the same verdict and figures as `text.parity`."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for side in (report["a"], report["b"]):
        console.print(Text(printable(f"{side['framework']:8}{side['file']} ({side['layout']}), {text.ran_on(side)}")))
    console.print(_comparisons(report))
    if every_tap and report["taps"]:
        console.print(_taps(report))
    lines = []
    if report["divergence"]:
        lines += [f"part at {text.divergence_line(report['divergence'])}", *text.feeding_lines(report["divergence"])]
    if report["disagreements"]:
        lines.append(f"disagree on {text.disagreeing(report)}")
    for row in report["comparisons"]:
        lines += text.explained(row)
    if report["training"]:
        lines.append(f"training {text.training_verdict(report['training'])}")
    for line in lines:
        console.print(Text(printable(line)))
    console.print(Text(text.parity_verdict(report), style="bold green" if report["passed"] else "bold red"))


def _comparisons(report: Mapping[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    names = [run["framework"] for run in (report["a"], report["b"])]
    table = Table("images", "apart", *(f"{name} from float64" for name in names), "top-1 agrees", "accuracy")
    for row in report["comparisons"]:
        reference = row["reference_errors"]
        table.add_row(
            Text(f"{row['input_shape'][0]:,} x {printable(row['name'])}"),  # a name is no markup
            text.figure(row["relative_error"]),
            *(("", "") if reference is None else map(text.figure, reference)),
            f"{row['top1_agreement']:.2%}",
            " ".join(f"{share:.2%}" for share in row["accuracy"] or ()),
        )
    return table


def _taps(report: Mapping[str, Any]) -> Table:
    from rich.table import Table

    names = [run["framework"] for run in (report["a"], report["b"])]
    table = Table("tap", "apart", *(f"{name} from float64" for name in names))
    parted = report["divergence"]["tap"] if report["divergence"] else None
    for tap in report["taps"]:
        reference = tap["reference_errors"] or ()
        table.add_row(
            tap["name"],
            text.figure(tap["relative_error"]),
            *map(text.figure, reference),
            style="bold red" if tap["name"] == parted else None,
        )
    return table
