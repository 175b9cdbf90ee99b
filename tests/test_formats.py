"""What all formats have in common: the calls, and the name that their errors give to a file."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from denseport import DenseportError, convert, formats
from denseport.checkpoint import Tensor

SHOWN = "s3://bucket/somebody's net"
TENSORS = {"a/kernel": Tensor.of(np.arange(6, dtype=np.float32).reshape(2, 3))}
FILES = {"x.pth": "pth", "x.h5": "h5", "x.weights.h5": "h5", "x.safetensors": "safetensors"}
FIXTURE = Path(__file__).parents[1] / "fixtures" / "digits-torch.pth"
# A tensor that none of the containers takes, and one whose name is no text, which only some of them look for.
UNWRITABLE: dict[str, Tensor] = {"a/kernel": Tensor.of(np.zeros((1, 1), np.complex64))}
UNNAMEABLE: dict[str, Tensor] = {"a\ud800/kernel": TENSORS["a/kernel"]}


def test_the_table_of_formats_is_there_without_numpy() -> None:
    code = "import sys, denseport.formats; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def all_errors(calls: list[Callable[[], object]]) -> list[str]:
    """The messages of calls each of which must fail."""
    messages = []
    for call in calls:
        with pytest.raises(DenseportError) as raised:
            call()
        messages.append(str(raised.value))
    return messages


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file or folder of each kind."""
    folder = tmp_path_factory.mktemp("saved")
    for name, kind in FILES.items():
        formats.write(TENSORS, {}, folder / name, kind)
    convert(FIXTURE, folder / "x.keras", verify=False)
    for name, weights in (("timm", "model.safetensors"), ("keras-hub", "model.weights.h5")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(f'{{"name": "{80 * "x"}"}}')
        formats.write(TENSORS, {}, folder / name / weights, FILES[f"x.{weights.partition('.')[2]}"])
    return folder


@pytest.mark.parametrize("name", [*FILES, "x.keras", "timm", "keras-hub"])
def test_a_file_is_called_what_the_reader_is_told(name: str, saved: Path, tmp_path: Path) -> None:
    path = saved / name
    with formats.read(path, shown=SHOWN) as checkpoint:
        assert str(checkpoint.path) == SHOWN
    with formats.read(path) as checkpoint:
        assert checkpoint.path == path
    for changed in [path] if path.is_file() else sorted(path.iterdir()):
        where = f"{SHOWN}/{changed.name}" if path.is_dir() else SHOWN
        whole = changed.read_bytes()
        for content in (b"", whole[:60], whole[: len(whole) // 2], whole[:-1]):
            changed.write_bytes(content)
            (message,) = all_errors([lambda: formats.read(path, shown=SHOWN)])
            changed.write_bytes(whole)
            assert message.startswith(f"{where}: ")
            assert str(saved) not in message
    other = "pth" if checkpoint.format != "pth" else "h5"
    for message in all_errors(
        [
            lambda: formats.read(tmp_path / "missing", shown=SHOWN),
            lambda: formats.read(tmp_path, shown=SHOWN),
            lambda: formats.read(path, other, shown=SHOWN),
        ]
    ):
        assert message.startswith(f"{SHOWN}: ")
        assert str(tmp_path) not in message
        assert str(saved) not in message


@pytest.mark.parametrize("name", FILES)
def test_values_of_a_file_that_shrinks_are_missed_under_the_shown_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    formats.write(TENSORS, {}, path, FILES[name])
    with formats.read(path, shown=SHOWN) as checkpoint:
        path.write_bytes(path.read_bytes()[:16])
        (message,) = all_errors([checkpoint.tensors["a/kernel"].read])
    assert message.startswith(f"{SHOWN}: ")


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_called_what_the_writer_is_told(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for message in all_errors(
        [
            lambda: formats.write(UNWRITABLE, {}, path, FILES[name], shown=SHOWN),
            lambda: formats.write(UNNAMEABLE, {}, path, FILES[name], shown=SHOWN),
            lambda: formats.write(TENSORS, {}, path, "zip", shown=SHOWN),
        ]
    ):
        assert message.startswith(f"{SHOWN}: ")
        assert str(tmp_path) not in message


def test_an_archive_of_keras_that_was_packed_again_is_read(tmp_path: Path, fixtures: Path) -> None:
    source, again = tmp_path / "a.keras", tmp_path / "b.keras"
    convert(fixtures / "digits-torch.pth", source, to_layout="denseport", verify=False)
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with formats.read(source) as before, formats.read(again) as after:
        assert list(before.tensors) == list(after.tensors)
        assert all(tensor.same_bits(after.tensors[name]) for name, tensor in before.tensors.items())
        assert (after.format, after.description) == ("keras", before.description)
