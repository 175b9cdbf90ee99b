"""The commands that people wait for most often, beside the least that such a program has to import."""

from __future__ import annotations

import sys
from pathlib import Path

from . import preparation
from .measure import Command, in_turn
from .preparation import SCRIPTS
from .rows import Row, Target

INSPECT = "denseport inspect, DenseNet201"
HELP = "denseport --help"
IMPORTS = 'python -c "import numpy, h5py"'
CLICK = "click program of five lines"
TARGETS = (Target(INSPECT, IMPORTS, time=2), Target(HELP, CLICK, time=2))


def rows(runs: int, folder: Path) -> list[Row]:
    """`inspect` and `--help`.

    Raises:
        CommandError: A command has failed.
    """
    python = sys.executable
    file = preparation.net("densenet201", folder) / "densenet201.pth"
    inspect = [
        Command("denseport", [python, "-m", "denseport", "inspect", file]),
        Command(IMPORTS, [python, "-c", "import numpy, h5py"], needs=["h5py"]),
    ]
    usage = [
        Command("denseport", [python, "-m", "denseport", "--help"]),
        Command(CLICK, [python, SCRIPTS / "click_program.py", "--help"]),
    ]
    return in_turn(INSPECT, inspect, runs) + in_turn(HELP, usage, runs)
