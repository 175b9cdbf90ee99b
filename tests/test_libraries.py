"""Files that torchvision, keras.applications and tf_keras wrote convert, and load into the others strictly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import denseport

# Both frameworks' float32 outputs are some 4e-7 from those in float64; see the parity tests for the proof in float64.
FLOAT32 = 1e-6
APPLICATIONS = ("densenet121", "densenet169", "densenet201")


def relative(a: Path, b: Path) -> float:
    first, second = np.load(a), np.load(b)
    return float(np.abs(first - second).max() / np.abs(first).max())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(3).standard_normal((2, 96, 96, 3), np.float32))
    return path


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A new folder with the images in it."""

    def make(name: str) -> Path:
        made = tmp_path_factory.mktemp(name)
        shutil.copy(images, made)
        return made

    return make


@pytest.fixture(scope="module")
def torchvision_files(folder: Callable[[str], Path], script: Callable[..., Any]) -> Path:
    made = folder("torchvision")
    script("torchvision_nets", "save", made, "free", "narrow", "small", *APPLICATIONS)
    return made


@pytest.fixture(scope="module")
def keras_files(folder: Callable[[str], Path], script: Callable[..., Any]) -> Path:
    made = folder("keras")
    script("keras_nets", "save", made, "small", "densenet121")
    return made


@pytest.fixture(scope="module")
def tf_keras_files(folder: Callable[[str], Path], script: Callable[..., Any]) -> Path:
    made = folder("tf_keras")
    script("keras_nets", "save", made, "small", KERAS="tf_keras")
    return made


def convert(src: Path, dst: Path, **options: Any) -> Path:
    denseport.convert(src, dst, verify=False, **options)
    return dst


def test_torchvision_to_keras_applications(
    torchvision_files: Path, folder: Callable[[str], Path], script: Callable[..., Any]
) -> None:
    target = folder("to_keras")
    for name in ("small", *APPLICATIONS):
        convert(torchvision_files / f"{name}.pth", target / f"{name}.h5")
        convert(torchvision_files / f"{name}.safetensors", target / f"{name}.weights.h5")
    script("keras_nets", "load", target, "small", *APPLICATIONS)
    errors = {n: relative(torchvision_files / f"{n}.npy", target / f"{n}.npy") for n in ("small", *APPLICATIONS)}
    assert max(errors.values()) < FLOAT32, errors


def test_torchvision_to_tf_keras(
    torchvision_files: Path, folder: Callable[[str], Path], script: Callable[..., Any]
) -> None:
    target = folder("to_tf_keras")
    convert(torchvision_files / "small.pth", target / "small.h5", to_layout="keras-applications-2")
    script("keras_nets", "load", target, "small", KERAS="tf_keras")
    assert relative(torchvision_files / "small.npy", target / "small.npy") < FLOAT32


def test_torchvision_to_keras_2(
    torchvision_files: Path, folder: Callable[[str], Path], script: Callable[..., Any], keras_2_python: str
) -> None:
    target = folder("to_keras_2")
    for name in ("small", "densenet121"):
        convert(torchvision_files / f"{name}.pth", target / f"{name}.h5", to_layout="keras-applications-2")
    script("keras_nets", "load", target, "small", "densenet121", python=keras_2_python)
    assert relative(torchvision_files / "densenet121.npy", target / "densenet121.npy") < FLOAT32
    assert relative(torchvision_files / "small.npy", target / "small.npy") < FLOAT32


@pytest.mark.parametrize(("written_by", "more"), [("keras_files", ["densenet121"]), ("tf_keras_files", [])])
def test_keras_to_torchvision(
    written_by: str,
    more: list[str],
    request: pytest.FixtureRequest,
    folder: Callable[[str], Path],
    script: Callable[..., Any],
) -> None:
    source = request.getfixturevalue(written_by)
    names = {"small": "small", "nested": "small-nested", **dict(zip(more, more, strict=True))}
    target = folder("to_torchvision")
    for name, written in names.items():
        convert(source / f"{written}.h5", target / f"{name}.pth")
        convert(source / f"{written}.weights.h5", target / f"{name}.safetensors")
    script("torchvision_nets", "load", target, *names)
    errors = {name: relative(source / f"{own}.npy", target / f"{name}.npy") for name, own in names.items()}
    assert max(errors.values()) < FLOAT32, errors


@pytest.mark.parametrize("name", ["free", "narrow", "small", "densenet121"])
def test_a_round_trip_through_every_format_is_bit_exact(torchvision_files: Path, tmp_path: Path, name: str) -> None:
    source = torchvision_files / f"{name}.pth"
    stops = ["a.h5", "b.safetensors", "c.weights.h5", "d.pth", "e.weights.h5", "f.h5", "g.safetensors", "h.pth"]
    at = source
    for stop in stops:
        at = convert(at, tmp_path / stop)
    with denseport.read(source) as before, denseport.read(at) as after:
        assert list(before.tensors) == list(after.tensors)
        different = [key for key, tensor in before.tensors.items() if not tensor.same_bits(after.tensors[key])]
    assert not different, "num_batches_tracked included"


def test_an_architecture_that_keras_applications_cannot_build_is_written_in_canonical_names(
    torchvision_files: Path, tmp_path: Path
) -> None:
    report = denseport.convert(torchvision_files / "free.pth", tmp_path / "free.h5", verify=False)
    assert report.target_layout == "denseport"
    assert any("keras-applications has growth_rate 32, this net has 8" in note for note in report.notes)
    with pytest.raises(denseport.LayoutError, match="growth_rate 32, this net has 8; choose another --to-layout"):
        convert(torchvision_files / "free.pth", tmp_path / "x.h5", to_layout="keras-applications")
    assert not (tmp_path / "x.h5").exists()
