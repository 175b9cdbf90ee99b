"""The files that are converted: made once into a folder of work, before anything is measured."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

import denseport
from denseport.errors import quoted

from .process import ROOT, CommandError

SCRIPTS = Path(__file__).parent / "scripts"
TORCHVISION = ROOT / "tests" / "scripts" / "torchvision_nets.py"


def net(name: str, folder: Path) -> Path:
    """A folder with NAME.pth, NAME.safetensors and NAME.h5 of a DenseNet with random weights.

    Beside them are the folder NAME-timm, which timm and keras_hub open, and what `scripts/floor.py` needs to know.

    Args:
        name: torchvision's, such as `densenet121`.
        folder: The folder of work.

    Raises:
        CommandError: A script has failed.
    """
    place = folder / name
    if not place.exists():
        click.echo(f"preparing {name}", err=True)
        unfinished = fresh(folder / f"{name}.unfinished")
        np.save(unfinished / "images.npy", np.zeros((1, 64, 64, 3), np.float32))
        _run(TORCHVISION, "save", unfinished, name)
        source = unfinished / f"{name}.pth"
        denseport.convert(source, unfinished / f"{name}.h5", verify=False)
        denseport.convert(source, unfinished / f"{name}-timm", to_layout="timm", verify=False)
        _run(SCRIPTS / "floor_index.py", unfinished, name)
        unfinished.rename(place)
    return place


def small_checkpoints(count: int, folder: Path) -> Path:
    """A folder of small DenseNets, each a .pth of its own.

    Raises:
        CommandError: The script has failed.
    """
    place = folder / f"small{count}"
    if not place.exists():
        click.echo(f"preparing {count} small checkpoints", err=True)
        unfinished = fresh(folder / f"small{count}.unfinished")
        _run(SCRIPTS / "small_checkpoints.py", unfinished, count)
        unfinished.rename(place)
    return place


def fresh(folder: Path) -> Path:
    """The folder, new and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _run(script: Path, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CommandError(f"{script.name}: ended with exit status {done.returncode}: {quoted(said[-1], 300)}")
