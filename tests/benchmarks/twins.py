"""The twins beside the nets of torchvision, timm and keras.applications: one image, some images, a step of training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from denseport.errors import quoted

from .preparation import SCRIPTS
from .process import ENVIRONMENT, ROOT, CommandError
from .rows import Row, Target

OURS = "denseport"
PROCESSES_FOR_MEMORY = 3
# Every large block of memory goes back to the system at once. Else the C library keeps some, by chance of timing, and
# the peak of one and the same net varies by a quarter.
MEMORY_ENVIRONMENT = MappingProxyType({"MALLOC_MMAP_THRESHOLD_": "1000000"})
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Task:
    """What the nets are given to do.

    Attributes:
        group: Its name in the table.
        script: The script with the nets of one framework; no process can hold the libraries of both.
        arguments: What tells the script which task it is.
        peers: Who else does it.
        most: Largest ratio of time and of memory to a peer's.
    """

    group: str
    script: str
    arguments: tuple[str, ...]
    peers: tuple[str, ...]
    most: float = 1.0


PYTORCH, KERAS = "twin_torch.py", "twin_keras.py"
TASKS = (
    Task("PyTorch, DenseNet121, 1 image", PYTORCH, ("inference", "1"), ("torchvision", "timm")),
    Task("PyTorch, DenseNet121, 8 images", PYTORCH, ("inference", "8"), ("torchvision", "timm")),
    Task("PyTorch, memory-efficient training, 8 images", PYTORCH, ("training", "8"), ("torchvision",), 1.05),
    Task("Keras, DenseNet121, 1 image", KERAS, ("1",), ("keras.applications",)),
    Task("Keras, DenseNet121, 8 images", KERAS, ("8",), ("keras.applications",)),
)
# By so much one and the same net differs from one process to the next.
NOISE_OF_MEMORY = 0.01
TARGETS = tuple(
    Target(task.group, peer, task.most, max(task.most, 1 + NOISE_OF_MEMORY)) for task in TASKS for peer in task.peers
)
NEEDS = {PYTORCH: ("torch", "torchvision", "timm"), KERAS: ("keras", "tensorflow")}


def rows(runs: int, folder: Path) -> list[Row]:
    """Every task: the times of calls in turn in one process, and the memory of a process for each net.

    What needs a module that is not installed is left out, and that is said.

    Args:
        runs: How many runs the times are of, each the median of some calls.
        folder: Where the processes are run.

    Raises:
        CommandError: A script has failed.
    """
    found = []
    for task in TASKS:
        if missing := [module for module in NEEDS[task.script] if find_spec(module) is None]:
            click.echo(f"{task.group}: left out; it needs {', '.join(missing)}", err=True)
            continue
        names = (OURS, *task.peers)
        seconds = answer(task.script, ["times", *task.arguments, runs, *names], folder)
        peaks = dict.fromkeys(names, 0)
        for _ in range(min(runs, PROCESSES_FOR_MEMORY)):
            for name in names:
                peak = answer(task.script, ["memory", *task.arguments, name], folder, MEMORY_ENVIRONMENT)
                peaks[name] = max(peaks[name], peak)
        found += [Row(task.group, name, seconds[name], peaks[name]) for name in names]
    return found


def answer(script: str, arguments: Sequence[object], folder: Path, environment: Mapping[str, str] = NOTHING) -> Any:
    """What a script says in JSON in its last line.

    Raises:
        CommandError: It has failed.
    """
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT), **environment},
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CommandError(f"{script}: ended with exit status {done.returncode}: {quoted(said[-1], 300)}")
    return json.loads(done.stdout.strip().splitlines()[-1])
