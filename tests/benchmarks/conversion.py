"""Conversions without parity, beside a plain script, keras_hub, the lower bound, and copying the file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import preparation
from .measure import Command, in_turn
from .preparation import SCRIPTS
from .rows import Row, Target

PLAIN_SCRIPT = "plain script: torch and keras.applications"
KERAS_HUB = "keras_hub, from a folder of timm's"
PLAIN_COPY = "plain script: torch and safetensors"
FLOOR = "floor: map, transpose, write"
FRAMEWORK_RUNS = 3  # they take many seconds, which hardly vary
NETS = {"densenet121": "DenseNet121", "densenet201": "DenseNet201"}


@dataclass(frozen=True)
class Direction:
    """A conversion from one format to another; `index` names what its floor needs to know."""

    source: str
    target: str
    index: str
    peers: tuple[str, ...]

    def group(self, net: str) -> str:
        """The task's name in the table."""
        return f"{NETS[net]}, {self.source} to {self.target}"


DIRECTIONS = (
    Direction(".pth", ".weights.h5", "pth-weights", (PLAIN_SCRIPT, KERAS_HUB)),
    Direction(".h5", ".pth", "h5-pth", (PLAIN_SCRIPT,)),
    Direction(".pth", ".safetensors", "pth-safetensors", (PLAIN_COPY,)),
    Direction(".safetensors", ".weights.h5", "safetensors-weights", (KERAS_HUB,)),
)


def _targets() -> Iterator[Target]:
    for net in NETS:
        for direction in DIRECTIONS:
            group = direction.group(net)
            yield Target(group, FLOOR, time=1.3)
            if net == "densenet201":
                for peer in direction.peers:
                    if peer != PLAIN_COPY:
                        yield Target(group, peer, time=1 / 15, memory=1 / 8)


TARGETS = tuple(_targets())


def rows(runs: int, folder: Path) -> list[Row]:
    """Every direction for every net.

    Raises:
        CommandError: A command has failed.
    """
    found: list[Row] = []
    for net in NETS:
        files = preparation.net(net, folder)
        for direction in DIRECTIONS:
            found += in_turn(direction.group(net), _commands(net, direction, files, folder), runs)
    return found


def _commands(net: str, direction: Direction, files: Path, folder: Path) -> list[Command]:
    python = sys.executable
    source = files / f"{net}{direction.source}"
    # A folder for each, so that the names, which .h5 files may hold, are alike.
    targets = {name: folder / "written" / name / f"{net}{direction.target}" for name in ("denseport", "floor", "peer")}
    for target in targets.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    copied = folder / "written" / source.name
    peer = targets["peer"]
    to_keras = direction.target == ".weights.h5"
    plain_script = SCRIPTS / ("plain_to_keras.py" if to_keras else "plain_to_torch.py")
    peers = {
        PLAIN_SCRIPT: Command(
            PLAIN_SCRIPT,
            [python, plain_script, NETS[net], source, peer],
            [peer],
            ["torch", "torchvision", "keras", "tensorflow"],
            FRAMEWORK_RUNS,
        ),
        KERAS_HUB: Command(
            KERAS_HUB,
            [python, SCRIPTS / "keras_hub_preset.py", files / f"{net}-timm", peer],
            [peer],
            ["keras_hub", "tensorflow", "safetensors"],
            FRAMEWORK_RUNS,
        ),
        PLAIN_COPY: Command(
            PLAIN_COPY,
            [python, SCRIPTS / "torch_to_safetensors.py", source, peer],
            [peer],
            ["torch", "safetensors"],
            FRAMEWORK_RUNS,
        ),
    }
    return [
        Command(
            "denseport",
            [python, "-m", "denseport", "convert", "--no-verify", "--force", source, targets["denseport"]],
            [targets["denseport"]],
        ),
        Command(
            FLOOR,
            [python, SCRIPTS / "floor.py", files / f"{net}-{direction.index}.json", source, targets["floor"]],
            [targets["floor"]],
            ["h5py"],
        ),
        Command("copying the file", ["cp", source, copied], [copied]),
        *[peers[name] for name in direction.peers],
    ]
