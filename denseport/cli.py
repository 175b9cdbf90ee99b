"""The command line: parse, call, print, exit code. Nothing is decided here."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

import denseport
from denseport import terminal, text
from denseport.errors import DenseportError, UsageError, VerificationError, printable
from denseport.options import (
    Converting,
    Deriving,
    Differing,
    Inspecting,
    Migrating,
    Option,
    Predicting,
    Verifying,
    options_of,
)
from denseport.running.child import collect_rarely

if TYPE_CHECKING:
    from denseport.parity.report import ParityReport

PATH: click.Path = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])

UNHARMED = "no file was left half-written"


# Options that only the command line has.
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
force = click.option("--force", is_flag=True, help="Replace the target where it exists.")
to_page = click.option("--report", "page", type=PATH, metavar="FILE", help="Write the findings to an HTML page.")
verbosely = click.option("-v", "--verbose", is_flag=True, help="Show every activation that was compared.")


def takes(table: type) -> Callable[[Command], Command]:
    """Gives a command the options of a table."""

    def decorated(command: Command) -> Command:
        for option in reversed([*options_of(table).values()]):
            command = _click_option(option)(command)
        return command

    return decorated


def _click_option(option: Option) -> Callable[[Command], Command]:
    kind = option.types[0]
    ranges: dict[type, Any] = {int: click.IntRange, float: click.FloatRange}
    number = kind in ranges and ranges[kind](option.least, option.most)
    choice = click.Choice(option.choices) if option.choices else str
    value = {"type": number or choice, "multiple": kind in (tuple, dict)}
    return click.option(
        option.spelled,
        option.name,
        default=option.default,
        show_default=option.usual or option.default not in (None, ()),
        help=option.help,
        metavar=option.metavar,
        **({"is_flag": True} if kind is bool else value),
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="denseport")
def cli() -> None:
    """Carry DenseNet weights between PyTorch and Keras, with proof that both compute the same.

    Exit status: 0 done; 1 tensors or outputs differ, or not every file could be migrated; 2 unusable input or options.
    """


@cli.command()
@takes(Converting)
@to_page
@verbosely
@force
@as_json
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH, required=False)
def convert(as_json: bool, verbose: bool, page: Path | None, **options: Any) -> None:
    """Convert a file of weights, and check that both frameworks agree.

    SRC is a file, a folder of timm's or keras_hub's, or the name of a preset, which is downloaded into the cache.
    Every tensor is read back and compared bit by bit. Without DST, SRC's name gets the suffix of --to.
    A DST that ends in .weights.h5 is written as Keras 3 does, any other .h5 as Keras 1 and 2 did; Keras 3 loads both.
    With --to-layout timm, DST is a folder that timm opens; with --to-layout keras-hub and no suffix, one for keras_hub.
    """
    _check_page(page)
    if page is not None and not options["verify"]:
        raise UsageError("--report is the page of a parity check; leave out --no-verify")
    what = "converting" + (" and running both frameworks" if options["verify"] else "")
    try:
        with terminal.sign_of_life(what) as progress:
            report = denseport.convert(**options, progress=progress)
    except VerificationError as error:
        if error.report is not None:
            _write_page(page, error.report.parity)
            if as_json:
                click.echo(json.dumps(error.report.to_dict()))
        raise
    _write_page(page, report.parity)
    for note in report.notes:
        click.echo(f"note: {printable(note)}", err=True)
    _print(report.to_dict(), as_json, lambda: text.conversion(report, verbose))


@cli.command()
@takes(Migrating)
@as_json
@click.argument("src", metavar="SRC_DIR|MANIFEST")
@click.argument("dst", metavar="DST_DIR")
def migrate(as_json: bool, **options: Any) -> None:
    """Convert many files, and resume where an earlier run has ended.

    SRC_DIR is a folder, whose weight files are converted to the format of --to; MANIFEST a .toml or .csv file with a
    source, a target and options for each file. Both, and DST_DIR, may be URLs. What became of each file is written to
    DST_DIR/denseport-migration.jsonl: what is done is left alone, and what has failed is tried again.
    """
    with terminal.sign_of_life("migrating", files=True) as progress:
        report = denseport.migrate(**options, progress=progress)
    _print(report.to_dict(), as_json, lambda: text.migration(report))
    if report.failed:
        sys.exit(1)


@cli.command()
@takes(Verifying)
@to_page
@verbosely
@as_json
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
def verify(as_json: bool, verbose: bool, page: Path | None, **options: Any) -> None:
    """Run two files, each in its own framework, and compare outputs."""
    _check_page(page)
    with terminal.sign_of_life("running both frameworks") as progress:
        report = denseport.verify(**options, progress=progress)
    _print(report.to_dict(), as_json, lambda: text.parity(report, verbose))
    _write_page(page, report)
    if not report.passed:
        sys.exit(VerificationError.exit_code)


@cli.command()
@takes(Inspecting)
@as_json
@click.argument("path", metavar="FILE", type=PATH)
def inspect(as_json: bool, **options: Any) -> None:
    """Say what a file holds, and whether it can be converted."""
    inspection = denseport.inspect(**options)
    _print(inspection.to_dict(), as_json, lambda: text.inspection(inspection))


@cli.command()
@takes(Differing)
@as_json
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
def diff(as_json: bool, **options: Any) -> None:
    """Compare two files tensor by tensor, across formats and layouts."""
    difference = denseport.diff(**options)
    _print(difference.to_dict(), as_json, lambda: text.difference(difference))
    if difference.different:
        sys.exit(1)


@cli.group(invoke_without_command=True)
@as_json
@click.pass_context
def layouts(context: click.Context, as_json: bool) -> None:
    """List the known layouts, show one, or derive one from a file."""
    from denseport.layouts import known_layouts

    if context.invoked_subcommand:
        return
    known = known_layouts().values()
    plain = [
        {"name": layout.name, "title": layout.title, "frameworks": [framework.name for framework in layout.frameworks]}
        for layout in known
    ]
    _print({"layouts": plain}, as_json, lambda: text.layouts(known))


@layouts.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a layout as a TOML file, a start for one of your own."""
    from denseport.layouts import find_layout, known_text

    layout = find_layout(name)
    click.echo(known_text(name) if layout.name == name else Path(name).read_text(errors="replace"), nl=False)


@layouts.command()
@takes(Deriving)
@click.option("-o", "--output", type=PATH, metavar="FILE", show_default="stdout", help="Write the layout to this file.")
@force
@click.argument("file", type=PATH)
def derive(file: Path, output: Path | None, force: bool, **options: Any) -> None:
    """Write a layout for a DenseNet whose names no known layout has."""
    derived = denseport.derive(file, **options)
    if output is None:
        click.echo(derived, nl=False)
        return
    from denseport.atomic import replacing

    with replacing(output, force=force) as temporary:
        temporary.write_text(derived)


@cli.command()
@as_json
def presets(as_json: bool) -> None:
    """List published weights: size, cost, accuracy and licence."""
    from denseport.presets import known

    every = known().values()
    _print({"presets": [preset.to_dict() for preset in every]}, as_json, lambda: text.presets(every))


@cli.command()
@as_json
@click.argument("preset")
def pull(as_json: bool, preset: str) -> None:
    """Download a preset's weights into the cache, and check them."""
    from denseport.presets import find

    found = find(preset)
    with terminal.sign_of_life(f"downloading {found.name}") as progress:
        file = denseport.pull(found.name, progress=progress)
    for note in found.notes:
        click.echo(f"note: {printable(note)}", err=True)
    report = {"preset": found.name, "file": str(file), "hash": found.hash or None}
    _print(report, as_json, lambda: [terminal.Row("", str(file))])


@cli.command()
@takes(Predicting)
@as_json
@click.argument("file", type=PATH)
@click.argument("images", type=PATH, nargs=-1, required=True)
def predict(as_json: bool, **options: Any) -> None:
    """Print the most probable classes of images.

    FILE holds the weights, or is the name of a preset. IMAGES are pictures, folders of them, or npz files.
    """
    with terminal.sign_of_life("predicting") as progress:
        predictions = denseport.predict(**options, progress=progress)
    report = {"predictions": [prediction.to_dict() for prediction in predictions]}
    _print(report, as_json, lambda: text.predictions(predictions))


def _check_page(path: Path | None) -> None:
    """Raises UsageError where the page of a check could not be written in the end."""
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {path}: the page replaces what is there; give it a name that ends in .html")
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UsageError(f"--report {path}: is a folder, or in none that exists; name a file in one that does")


def _write_page(path: Path | None, report: ParityReport | None) -> None:
    """Writes the page of a parity check, where one was asked for and one was made."""
    if path is None or report is None:
        return
    from denseport.atomic import replacing
    from denseport.page import page as document

    with replacing(path, force=True) as temporary:
        temporary.write_text(document(report), encoding="utf-8")


def _print(report: dict[str, Any], as_json: bool, parts: Callable[[], list[terminal.Part]]) -> None:
    if as_json:
        click.echo(json.dumps(report))
    else:
        terminal.show(parts())


def main() -> NoReturn:
    """Runs the command line; every expected failure becomes one line on stderr and an exit code."""
    collect_rarely()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores the second one
            signal.signal(number, _end)
    try:
        cli.main(standalone_mode=False)
    except DenseportError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message().replace("\n", " "), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail(f"interrupted; {UNHARMED}", 128 + signal.SIGINT)
    except _Ended as ended:
        _fail(f"ended by {ended.signal.name}; {UNHARMED}", 128 + ended.signal)
    except MemoryError:
        _fail("there is not enough memory for a tensor of that size", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(f"the result could not be printed ({error.strerror or error}); redirect it elsewhere", 2)
    sys.exit(0)


class _Ended(BaseException):
    """A signal asks the program to end; on its way out, temporary files are removed and workers ended."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise _Ended(number)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"denseport: {printable(message)}", err=True)
    sys.exit(exit_code)
