"""Memory holds one tensor at a time however large the file is, and time grows with the number of bytes alone."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from denseport import checkpoint, layouts
from denseport.checkpoint import Tensor, pieces
from denseport.net.config import DenseNetConfig
from denseport.net.graph import shapes

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = ("pth", "h5", "weights.h5", "safetensors")
MIB = 1 << 20
# The interpreter and numpy take some 25 MiB of it.
CONSTANT = 56 * MIB


@dataclass(frozen=True)
class Conversion:
    """What a conversion took: the most resident private memory in bytes, and seconds of computing."""

    memory: int
    seconds: float


def sparse_net(path: Path, config: DenseNetConfig) -> int:
    """A safetensors file of zeros that takes no room on the disk; returns the number of bytes of its tensors.

    Variances of zero are sound, and a page that was read takes as much memory as any other.
    """
    tensors = {
        name: Tensor(np.dtype(np.float32), shape, partial(np.zeros, shape)) for name, shape in shapes(config).items()
    }
    layout = layouts.find_layout("torchvision")
    named = layouts.from_canonical(layouts.Weights(config, tensors), layout, layout.framework_for("torch"))
    header, position = {}, 0
    for name, tensor in sorted(named.items(), key=lambda item: -item[1].dtype.itemsize):
        end = position + tensor.nbytes
        code = {"float32": "F32", "int64": "I64"}[tensor.dtype.name]
        header[name] = {"dtype": code, "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + position)
    return position


def convert(source: Path, target: Path) -> Conversion:
    """Runs a conversion and looks at its memory as often as it can."""
    with (target.parent / "said").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "denseport", "convert", "--no-verify", source, target],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        status = Path(f"/proc/{process.pid}/status")
        memory, ended = 0, 0
        while not ended:
            # Pages that the kernel can drop, those of mapped files, are not counted.
            memory = max(memory, *(int(line.split()[1]) << 10 for line in _lines(status) if "RssAnon" in line), 0)
            time.sleep(0.0005)
            ended, exit_code, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(exit_code)
        said.seek(0)
        assert process.returncode == 0, said.read()
    return Conversion(memory, usage.ru_utime + usage.ru_stime)


def _lines(status: Path) -> list[str]:
    return status.read_text().splitlines()


def largest(config: DenseNetConfig) -> int:
    return max(4 * math.prod(shape) for shape in shapes(config).values())


def wide(growth_rate: int) -> DenseNetConfig:
    """DenseNet-121 with other widths: 606 tensors, of which the largest has 7.5 % of the bytes."""
    return DenseNetConfig.bc(growth_rate, (6, 12, 24, 16), 2 * growth_rate)


NETS = {
    "wide": wide(72),  # 141 MiB
    "one large tensor": DenseNetConfig.bc(16, (2, 2), 32, num_classes=500_000),  # 92 of 93 MiB
}


# Every way in and out, each file made from the one before it.
@pytest.mark.parametrize("formats", [SUFFIXES, SUFFIXES[::-1]], ids=["forwards", "backwards"])
@pytest.mark.parametrize("net", NETS)
def test_memory_holds_the_largest_tensor_once(net: str, formats: tuple[str, ...], tmp_path: Path) -> None:
    config = NETS[net]
    source = tmp_path / "net.safetensors"
    sparse_net(source, config)
    bound = CONSTANT + largest(config)
    assert bound < max(0.5 * source.stat().st_size, 1.8 * largest(config))
    memory = {}
    for number, suffix in enumerate((*formats, formats[0])):
        target = tmp_path / f"{number}.{suffix}"
        memory[f"{source.name} to {target.name}"] = convert(source, target).memory
        source.unlink()
        source = target
    assert max(memory.values()) < bound, memory


def test_time_grows_with_the_bytes(tmp_path: Path) -> None:
    seconds, sizes = [], []
    for growth_rate in (51, 102):
        source, target = tmp_path / "net.safetensors", tmp_path / "net.h5"
        sizes.append(sparse_net(source, wide(growth_rate)))
        seconds.append(convert(source, target).seconds)
        target.unlink()
    assert sizes[1] > 3.5 * sizes[0]
    assert seconds[1] < 1.5 * sizes[1] / sizes[0] * seconds[0]


@pytest.mark.large
@pytest.mark.parametrize("source", SUFFIXES)
def test_four_gigabytes_in_600_megabytes(tmp_path: Path, source: str) -> None:
    """Takes 8 GB of disk, and some minutes: `pytest -m large tests/test_size.py`."""
    first, start = tmp_path / "net.safetensors", tmp_path / f"net.{source}"
    assert sparse_net(first, wide(386)) > 4e9
    memory = {}
    if start != first:
        memory[f"safetensors to {source}"] = convert(first, start).memory
    for suffix in SUFFIXES:
        target = tmp_path / f"copy.{suffix}"
        memory[f"{source} to {suffix}"] = convert(start, target).memory
        target.unlink()
    print({way: f"{peak / 1e6:.0f} MB" for way, peak in memory.items()})
    start.unlink()
    assert max(memory.values()) < 600e6, memory


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 4, 3), (1, 1, 6, 10), (2, 1, 3, 1, 4), (40, 1), (1, 40)])
def test_pieces_put_together_are_the_array(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    for size in (4, 8, 20, 60, 1000):
        monkeypatch.setattr(checkpoint, "PIECE_BYTES", size)
        for values in (array, array.T, np.flip(array), np.swapaxes(array, 0, -1) if shape else array):
            found = list(pieces(values))
            np.testing.assert_array_equal(np.concatenate(found), values.reshape(-1))
            assert all(piece.nbytes <= size and piece.ndim == 1 for piece in found)
