"""The ways of doing one task, measured in turn, so that what else happens on the machine meets all of them alike."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from .process import measure
from .rows import Row


@dataclass(frozen=True)
class Command:
    """One way of doing a task, as a command.

    Attributes:
        name: Who does it.
        arguments: The program and its arguments; it is run from the root of the repository.
        outputs: Files and folders that it writes; they are removed before each run.
        needs: Modules without which it is left out.
        runs_at_most: How often it is measured where more runs are asked for; for what takes very long.
    """

    name: str
    arguments: Sequence[str | Path]
    outputs: Sequence[Path] = ()
    needs: Sequence[str] = ()
    runs_at_most: int | None = None

    def run(self) -> tuple[float, int]:
        """Seconds and peak memory in bytes of one run, from the same start as every other one."""
        for output in self.outputs:
            if output.is_dir():
                shutil.rmtree(output)
            else:
                output.unlink(missing_ok=True)
        os.sync()  # what the one before has written must not be waited for by this one
        return measure(self.arguments)


def in_turn(group: str, commands: Sequence[Command], runs: int) -> list[Row]:
    """A row for each command: A B C, A B C, and so on.

    Each is run once before, which is not counted, so that its files are in the page cache; but for one that is measured
    once at most. What needs a module that is not installed is left out, and that is said.

    Raises:
        CommandError: A command has failed.
    """
    present = []
    for command in commands:
        if missing := [module for module in command.needs if find_spec(module) is None]:
            click.echo(f"{group}: {command.name} is left out; it needs {', '.join(missing)}", err=True)
        else:
            present.append(command)
    found: dict[str, list[tuple[float, int]]] = {command.name: [] for command in present}
    for command in present:
        if command.runs_at_most != 1:
            command.run()
    for number in range(runs):
        for command in present:
            if command.runs_at_most is None or number < command.runs_at_most:
                found[command.name].append(command.run())
    return [
        Row(group, name, [seconds for seconds, _ in measured], max(peak for _, peak in measured))
        for name, measured in found.items()
    ]
