"""The benchmarks' command line: sections one after the other, then a table, and JSON where it is asked for."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from . import environment, table
from .process import CommandError
from .rows import Row, Target

SECTIONS = ("conversion", "startup", "parity", "migration", "twins", "growth")


def _sections(_context: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise click.BadParameter(f"{', '.join(unknown)} is none of {', '.join(SECTIONS)}")
    return names


def _writable(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {value.absolute().parent} does not exist")
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    "sections",
    default=",".join(SECTIONS),
    callback=_sections,
    metavar="NAME,...",
    help="Which.  [default: all]",
)
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="How often each is measured.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), callback=_writable, help="Write every run to a JSON file."
)
@click.option(
    "--plot", type=click.Path(path_type=Path), callback=_writable, help="Draw the section growth to an SVG file."
)
@click.option("--work", type=click.Path(path_type=Path), help="Keep the nets there.  [default: a temporary folder]")
def main(sections: list[str], runs: int, json_file: Path | None, plot: Path | None, work: Path | None) -> None:
    """Measure denseport beside its peers, and print a Markdown table.

    Every figure is of whole processes, warm, run in turn with those it is compared to; the median of the runs, the
    spread from the fastest to the slowest, and the highest peak of private memory. What takes many seconds runs three
    times at most, and a conversion called for each of many files once. Exit status 1: a command has failed; a target
    that is missed is only said.
    """
    if plot is not None and "growth" not in sections:
        raise click.UsageError("--plot draws the section growth; add it to --only")
    rows: list[Row] = []
    targets: list[Target] = []
    about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **environment.describe()}
    with ExitStack() as until_the_end:
        folder = work or Path(until_the_end.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in sections:
            click.echo(f"section {name}", err=True)
            section: Any = import_module(f"{__package__}.{name}")
            try:
                found = section.rows(runs, folder)
            except CommandError as error:
                raise click.ClickException(str(error)) from None
            if name == "growth" and plot is not None:
                section.plot(found, plot)
            rows += found
            targets += section.TARGETS
    click.echo(environment.sentence(about))
    click.echo()
    click.echo("\n".join(table.markdown(rows, targets)))
    if json_file is not None:
        json_file.write_text(json.dumps(about | table.plain(rows, targets), indent=2) + "\n")


if __name__ == "__main__":
    main()
