"""A conversion whose outputs are compared in both frameworks, beside a script that does so in one process."""

from __future__ import annotations

import sys
from pathlib import Path

from . import preparation
from .measure import Command, in_turn
from .preparation import SCRIPTS
from .rows import Row, Target

GROUP = "DenseNet121, .pth to .h5, with parity"
BY_HAND = "script by hand, float32 alone"
KERAS_ALONE = "Keras alone: load the .h5 and run it"
TARGETS = (Target(GROUP, BY_HAND, time=0.6),)


def rows(runs: int, folder: Path) -> list[Row]:
    """One conversion with parity.

    Raises:
        CommandError: A command has failed.
    """
    files = preparation.net("densenet121", folder)
    source = files / "densenet121.pth"
    target, by_hand = folder / "parity.h5", folder / "parity-by-hand.h5"
    commands = [
        Command("denseport", [sys.executable, "-m", "denseport", "convert", "--force", source, target], [target]),
        Command(
            BY_HAND,
            [sys.executable, SCRIPTS / "parity_by_hand.py", "DenseNet121", source, by_hand],
            [by_hand],
            ["torchvision"],
        ),
        Command(
            KERAS_ALONE,
            [sys.executable, SCRIPTS / "keras_alone.py", "DenseNet121", files / "densenet121.h5"],
            needs=["keras", "tensorflow"],
        ),
    ]
    return in_turn(GROUP, commands, runs)
