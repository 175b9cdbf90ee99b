"""Files in gzip and tar: read as what they hold, bounded, and refused where that is not one file."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from densenets import SMALL, canonical_weights

import denseport
from denseport import formats
from denseport.checkpoint import Tensor
from denseport.errors import FormatError
from denseport.formats import wrapped
from denseport.layouts import Weights, find_layout, from_canonical

CONFIG = SMALL["four blocks"][0]


def written(folder: Path, suffix: str) -> bytes:
    layout = find_layout("keras-applications" if suffix.endswith("h5") else "torchvision")
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(CONFIG).items()}
    path = folder / f"plain{suffix}"
    spelled = from_canonical(Weights(CONFIG, tensors), layout, layout.frameworks[0])
    formats.write(spelled, {}, path, suffix.removeprefix("."))
    return path.read_bytes()


def tarred(*files: tuple[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        archive.addfile(_folder())
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _folder() -> tarfile.TarInfo:
    info = tarfile.TarInfo("folder")
    info.type = tarfile.DIRTYPE
    return info


WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "tar": lambda data: tarred(("folder/net.pth", data)),
    "old tar": lambda data: tarred(("folder/net.pth", data), kind=tarfile.GNU_FORMAT),
    "long name": lambda data: tarred(("n" * 300, data)),
    "gzip of tar": lambda data: gzip.compress(tarred(("net.pth", data))),
    "macOS": lambda data: tarred(("folder/._net.pth", b"x"), ("folder/net.pth", data)),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".h5"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_the_file_within_is_read(tmp_path: Path, kind: str, suffix: str) -> None:
    plain = written(tmp_path, suffix)
    path = tmp_path / f"x{suffix}.gz"
    path.write_bytes(WRAPPED[kind](plain))
    with formats.read(path) as checkpoint, formats.read(tmp_path / f"plain{suffix}") as expected:
        assert list(checkpoint.tensors) == list(expected.tensors)
        for name, tensor in checkpoint.tensors.items():
            assert np.array_equal(tensor.read(), expected.tensors[name].read())
    assert denseport.convert(path, tmp_path / "y.safetensors", verify=False)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def with_size(archive: bytes, size: bytes) -> bytes:
    """A tar archive whose second header, behind a folder's, has such a size."""
    return archive[: 512 + 124] + size + archive[512 + 136 :]


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "half of gzip": (lambda data: cut(gzip.compress(data)), "end too early"),
    "gzip with more behind it": (lambda data: gzip.compress(data) + b"more", "something follows"),
    "no gzip": (lambda _: b"\x1f\x8b\x08" + bytes(99), "no sound gzip file"),
    "gzip of nothing": (lambda _: gzip.compress(b""), "the file within is empty"),
    "two files": (lambda data: tarred(("a.pth", data), ("b.pth", data)), r"tar archive of a\.pth, b\.pth; unpack"),
    "an empty tar": (lambda _: tarred(), "tar archive of nothing"),
    "half of tar": (lambda data: cut(tarred(("a.pth", data))), "ends before a.pth does"),
    "a size that is no number": (lambda data: with_size(tarred(("a.pth", data)), b"?" * 12), "no sound tar archive"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_one_file_is_refused(tmp_path: Path, kind: str) -> None:
    change, message = REFUSED[kind]
    path = tmp_path / "x.pth"
    path.write_bytes(change(written(tmp_path, ".pth")))
    with pytest.raises(FormatError, match=message) as caught:
        formats.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_bomb_is_refused_before_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapped, "FREE_INFLATION", 1 << 20)
    path = tmp_path / "x.pth.gz"
    path.write_bytes(gzip.compress(bytes(64 << 20)))
    with pytest.raises(FormatError, match="inflates to over"):
        formats.read(path)
