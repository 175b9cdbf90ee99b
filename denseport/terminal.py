"""How results are laid out on stdout, and signs of life on stderr while work is long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any, Literal, NamedTuple

import click

from denseport.errors import printable

Progress = Callable[[int, int], None]
# Texts side by side, each with its style.
Line = list[tuple[str, str]]

STYLES = {"": "", "good": "bold green", "bad": "bold red"}


class Row(NamedTuple):
    """A value beside its label, or below the one before where the label is ""; good and bad ones stand out."""

    label: str
    value: str
    emphasis: Literal["", "good", "bad"] = ""


class Table(NamedTuple):
    """Cells below the names of their columns; a column without any value is left out.

    Attributes:
        columns: Their names, or () for none.
        rows: As many cells in each.
        title: What stands above, or "".
        marked: The numbers of the rows that stand out.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    title: str = ""
    marked: Sequence[int] = ()


Part = Row | Table


def show(parts: Sequence[Part]) -> None:
    """Prints rows and tables: plain text, and on a terminal the same with what matters in bold and in colour."""
    if not sys.stdout.isatty():
        click.echo("\n".join(plain(parts)))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line in laid_out(parts):
        # The terminal itself breaks what is too long, so that a path can be copied; and a name is no markup.
        console.print(Text.assemble(*line), soft_wrap=True)


def plain(parts: Sequence[Part]) -> list[str]:
    """Rows and tables as lines of text."""
    return ["".join(text for text, _ in line) for line in laid_out(parts)]


def laid_out(parts: Sequence[Part]) -> list[Line]:
    """Lines in which values stand one below the other, and so do cells; a table that follows something is indented.

    Whatever could disturb a terminal is escaped: names out of files can hold anything.
    """
    width = max((len(part.label) + 2 for part in parts if isinstance(part, Row) and part.label), default=0)
    lines: list[Line] = []
    for part in parts:
        if isinstance(part, Row):
            lines.append([(f"{printable(part.label):{width}}", ""), (printable(part.value), STYLES[part.emphasis])])
            continue
        if part.title:
            lines.append([(printable(part.title), "")])
        margin = "  " if lines else ""
        lines += [[(margin + text, style)] for text, style in _columns(part)]
    return lines


def _columns(table: Table) -> Iterator[tuple[str, str]]:
    used = [any(cells) for cells in zip(*table.rows, strict=True)] or [True] * len(table.columns)
    rows, styles = [*table.rows], [STYLES["bad"] if n in table.marked else "" for n in range(len(table.rows))]
    if table.columns:
        rows, styles = [table.columns, *rows], ["bold", *styles]
    cells = [[printable(cell) for cell in compress(row, used)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, style in zip(cells, styles, strict=True):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), style


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
