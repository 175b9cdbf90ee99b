"""A short pass of the fuzzing in `tests/fuzz`, and every file that it has found, made anew."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fuzz import properties
from fuzz.properties import BrokenPropertyError, hold_for_weights
from fuzz.readers import READERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from denseport import formats
from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError

SIGNALLING_NAN = np.uint32(0x7F80_0001)


@pytest.mark.parametrize("name", READERS)
def test_what_fuzzing_begins_with_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"x{READERS[name].suffix}"
    for data in READERS[name].seeds:
        path.write_bytes(data)
        assert READERS[name].hold(path)


@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_read_or_refused_and_nothing_else(tmp_path: Path, name: str) -> None:
    reader, outcomes = READERS[name], {True: 0, False: 0}
    path = tmp_path / f"x{reader.suffix}"

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(reader.seeds) - 1), st.randoms(use_true_random=False))
    def files(number: int, chance: Random) -> None:
        path.write_bytes(reader.changed(reader.seeds[number], chance))
        outcomes[reader.hold(path)] += 1

    files()
    assert min(outcomes.values()) > 0


def with_signalling_nans(suffix: str) -> bytes:
    """The tiny net of the seeds with such a NaN in every tensor, which numpy warns of when it widens or compares it."""
    reader = next(reader for reader in READERS.values() if reader.suffix == suffix)
    with tempfile.TemporaryDirectory() as folder:
        path, changed = Path(folder) / f"a{suffix}", Path(folder) / f"b{suffix}"
        path.write_bytes(reader.seeds[0])
        with formats.read(path) as checkpoint:
            tensors = {}
            for name, tensor in checkpoint.tensors.items():
                values = np.array(tensor.read(), order="C")
                if values.dtype == np.float32:
                    values.reshape(-1).view(np.uint32)[0] = SIGNALLING_NAN
                tensors[name] = Tensor.of(values)
            formats.write(tensors, checkpoint.metadata, changed, formats.by_suffix(changed))
        return changed.read_bytes()


def images_with(value: np.uint64) -> bytes:
    """A npz file of float64 images of which one value has these bits."""
    images = np.zeros((2, 4, 4, 3))
    images.reshape(-1).view(np.uint64)[5] = value
    buffer = io.BytesIO()
    np.savez(buffer, images=images)
    return buffer.getvalue()


FOUND: dict[str, tuple[str, Callable[[], bytes], bool]] = {
    "a layout that extends one of an overlong name": (
        "layout",
        lambda: b'title = "x"\nextends = "' + b"a" * 300 + b'"\n',
        False,
    ),
    "signalling NaNs in pth": ("pth", lambda: with_signalling_nans(".pth"), True),
    "signalling NaNs in h5": ("h5", lambda: with_signalling_nans(".h5"), True),
    "a signalling NaN among images": ("npz", lambda: images_with(np.uint64(0x7FF0_0000_0000_0001)), False),
    "signalling NaNs in safetensors": ("safetensors", lambda: with_signalling_nans(".safetensors"), True),
}


@pytest.mark.parametrize("kind", FOUND)
def test_what_was_found_once_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    name, make, read = FOUND[kind]
    path = tmp_path / f"x{READERS[name].suffix}"
    path.write_bytes(make())
    assert READERS[name].hold(path) is read


def endless(_: Path) -> Any:
    while True:
        pass


def too_large(path: Path) -> Any:
    return Checkpoint({"x": Tensor.of(np.zeros(1 << 29, np.float32))}, path=path)


def of_another_shape(path: Path) -> Any:
    return Checkpoint({"x": Tensor(np.dtype("f4"), (3,), lambda: np.zeros(2, "f4"))}, path=path)


def in_two_lines(path: Path) -> Any:
    raise FormatError(f"{path}: is broken\nand more")


def of_no_file(_: Path) -> Any:
    raise FormatError("something is broken")


def leaving_a_file(path: Path) -> Any:
    path.with_name("more").write_bytes(b"")


def reading_another(_: Path) -> Any:
    Path("/etc/passwd").read_bytes()


def running_something(_: Path) -> Any:
    subprocess.run(["true"], check=True)


def warning(_: Path) -> Any:
    np.float32(1e30) * np.float32(1e30)


@pytest.mark.parametrize(
    ("misbehaved", "match"),
    [
        (endless, "more than 0.3 seconds"),
        (too_large, "takes more than .* bytes"),
        (of_another_shape, r"'x' is float32 \(2,\)"),
        (in_two_lines, "disturb a terminal"),
        (of_no_file, "does not name the file"),
        (leaving_a_file, "opens .*more"),
        (reading_another, "opens .*passwd"),
        (running_something, "does subprocess.Popen"),
        (warning, "overflow"),
        (lambda _: 1 // 0, "division"),
    ],
)
def test_a_reader_that_misbehaves_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, misbehaved: Callable[[Path], Any], match: str
) -> None:
    (tmp_path / "x.pth").write_bytes(READERS["pth"].seeds[0])
    monkeypatch.setattr(properties, "SECONDS", 0.3)
    monkeypatch.setattr(formats, "read", lambda path, *_: misbehaved(path))
    with pytest.raises((BrokenPropertyError, RuntimeWarning, ZeroDivisionError), match=match):
        hold_for_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_command_runs_for_as_long_as_it_was_told_and_leaves_nothing(tmp_path: Path, jobs: int) -> None:
    command = Path(__file__).parent / "fuzz" / "run.py"
    options = ["--reader", "layout", "--seconds", "1", "--jobs", str(jobs)]
    options += ["--engine", "hypothesis", "--found", tmp_path]
    done = subprocess.run([sys.executable, command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"(atheris .*\n)?== layout \(hypothesis\)\nfiles tried: [0-9]+, of which", done.stdout)
    assert done.stdout.endswith("nothing found\n")
    assert list(tmp_path.iterdir()) == []
