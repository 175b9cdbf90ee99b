"""Hostile and broken files through the command line: one line, exit status 2, and nothing run, written or filled."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from densenets import SMALL, canonical_weights

from denseport import formats
from denseport.checkpoint import Tensor
from denseport.layouts import Weights, find_layout, from_canonical
from denseport.net.config import DenseNetConfig
from denseport.net.graph import shapes

PLAIN = SMALL["four blocks"][0]
MEBIBYTE = 1 << 20
KERNEL = "conv1_conv/conv1_conv/kernel"


@dataclass(frozen=True)
class Run:
    """What came of a command: exit status, what it printed, and the most MiB that it took."""

    status: int
    output: str
    errors: str
    peak: int


# A small process between: a child counts as its own what its parent had in memory, and this one has imported torch.
MEASURED = """
import resource, subprocess, sys
status = subprocess.call([sys.executable, "-m", "denseport", *sys.argv[1:]])
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""


def run(*arguments: object) -> Run:
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *output, last = done.stdout.splitlines(keepends=True)
    status, peak = map(int, last.split())
    return Run(status, "".join(output), done.stderr, peak)


def refused(path: Path, message: str, peak: int = 300) -> str:
    """Whether `convert` and `inspect` refuse a file in one line that names it, and leave nothing beside it."""
    before = sorted(path.parent.iterdir())
    target = path.with_name("target.safetensors")
    for command in (("convert", "--no-verify", path, target), ("inspect", path)):
        done = run(*command)
        said = done.output + done.errors
        if command[0] == "convert" or done.status:
            assert (done.status, done.output) == (2, "")
            assert done.errors.count("\n") == 1
            assert str(path) in done.errors
        assert message in said
        assert "Traceback" not in said
        assert done.peak < peak
    assert sorted(path.parent.iterdir()) == before
    return said


def spelled(layout: str) -> dict[str, Tensor]:
    chosen = find_layout(layout)
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(PLAIN).items()}
    return from_canonical(Weights(PLAIN, tensors), chosen, chosen.frameworks[0])


def torchs(path: Path, **more: Any) -> Path:
    """A sound file as torch itself writes it."""
    state = {name: torch.tensor(tensor.read()) for name, tensor in spelled("torchvision").items()}
    torch.save(state | more, path)
    return path


def kerass(path: Path) -> Path:
    formats.write(spelled("keras-applications"), {}, path, "h5")
    return path


def test_the_sound_files_are_converted(tmp_path: Path) -> None:
    for path in (torchs(tmp_path / "x.pth"), kerass(tmp_path / "x.h5")):
        done = run("convert", "--no-verify", path, tmp_path / f"{path.suffix[1:]}.safetensors")
        assert done.status == 0, done.errors


# ---- pth


class Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.folder}/canary",)


def test_code_is_refused_by_its_dotted_name_and_not_run(tmp_path: Path) -> None:
    refused(torchs(tmp_path / "x.pth", more=Evil(tmp_path)), "posix.system")
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"more": Evil(tmp_path)}))
    refused(tmp_path / "x.pth", "posix.system")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_of_something_else_is_refused_for_what_it_is(tmp_path: Path, zipped: bool) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "x.pth", "no known layout matches: its keys are 0.weight, 0.bias")


def with_entry(name: str) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        buffer = io.BytesIO(data)
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
            warnings.simplefilter("ignore")  # of names that are there already
            archive.writestr(name, b"more")
        return buffer.getvalue()

    return changed


def encrypted(data: bytes) -> bytes:
    whole = bytearray(data)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        whole[whole.find(signature) + offset] |= 1
    return bytes(whole)


def overlapping(data: bytes) -> bytes:
    """The second entry of the directory begins where the first one does."""
    first = data.find(b"PK\1\2")
    second = data.find(b"PK\1\2", first + 1)
    return data[: second + 42] + data[first + 42 : first + 46] + data[second + 46 :]


def with_other_values(data: bytes) -> bytes:
    value = spelled("torchvision")["features.norm5.running_mean"].read().tobytes()
    assert data.count(value) == 1
    return data.replace(value, value[::-1])


ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "two entries of one name": (with_entry("x/data/0"), "two entries named x/data/0"),
    "an absolute name": (with_entry("/etc/x"), "unsafe name"),
    "a name that leads out": (with_entry("x/../../x"), "unsafe name"),
    "encryption": (encrypted, "is encrypted"),
    "overlapping entries": (overlapping, "contradicts the archive's directory"),
    "bytes before the archive": (lambda data: b"MZ" + data, "which no pth, h5, safetensors or .keras file does"),
    "a second archive before it": (lambda data: data + data, "has the wrong length"),
    "bytes behind the archive": (lambda data: data + b"more", "something follows its end"),
    "half of it": (lambda data: data[: len(data) // 2], "is cut off"),
    "all but one byte": (lambda data: data[:-1], "is cut off"),
    "other values": (with_other_values, "does not match its checksum"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_that_is_not_as_torch_writes_it_is_refused(tmp_path: Path, what: str) -> None:
    change, message = ARCHIVES[what]
    path = torchs(tmp_path / "x.pth")
    path.write_bytes(change(path.read_bytes()))
    refused(path, message)


def test_values_without_a_checksum_are_converted(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torchs(tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    done = run("convert", "--no-verify", tmp_path / "x.pth", tmp_path / "y.h5")
    assert done.status == 0, done.errors


# ---- h5


def bomb(size: int) -> bytes:
    """A gzip stream of zeros of that many MiB, each written once and repeated."""
    stream = zlib.compressobj(9)
    start = stream.compress(b"") + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(MEBIBYTE)) + stream.flush(zlib.Z_FULL_FLUSH)
    return start + block * size


def test_a_chunk_of_a_gibibyte_behind_a_right_shape_is_refused(tmp_path: Path) -> None:
    stream = bomb(1024)
    assert len(zlib.decompressobj().decompress(stream, 3 * MEBIBYTE)) == 3 * MEBIBYTE
    with h5py.File(kerass(tmp_path / "x.h5"), "a") as file:
        shape = file[KERNEL].shape
        del file[KERNEL]
        file.create_dataset(KERNEL, shape, "f4", chunks=shape, compression="gzip")
        file[KERNEL].id.write_direct_chunk((0,) * len(shape), stream)
    assert (tmp_path / "x.h5").stat().st_size < 3 * MEBIBYTE
    refused(tmp_path / "x.h5", f"/{KERNEL}", peak=200)


def of_terabytes(file: h5py.File) -> None:
    file.create_dataset(KERNEL, (10**6, 10**6), "f4")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((7, 7, 3, 18), "f4")
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", (7, 7, 3, 18))
    file.create_virtual_dataset(KERNEL, layout)


def soft(file: h5py.File) -> None:
    file[KERNEL] = h5py.SoftLink("/conv1_bn/conv1_bn/gamma")


def external(file: h5py.File) -> None:
    file[KERNEL] = h5py.ExternalLink("/etc/passwd", "/")


def stored_elsewhere(file: h5py.File) -> None:
    file.create_dataset(KERNEL, (7, 7, 3, 18), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (of_terabytes, "declare far more bytes than the file holds"),
        (virtual, "is virtual"),
        (soft, "is no hard link but soft"),
        (external, "is no hard link but external"),
        (stored_elsewhere, "keeps its values in other files"),
        (lambda _: None, "is named but is not there"),
    ],
)
def test_values_that_are_not_in_the_file_are_refused(
    tmp_path: Path, put: Callable[[h5py.File], None], message: str
) -> None:
    with h5py.File(kerass(tmp_path / "x.h5"), "a", libver="latest") as file:
        del file[KERNEL]
        put(file)
    refused(tmp_path / "x.h5", message)


# ---- what the tensors are


@pytest.mark.parametrize("suffix", [".pth", ".h5", ".weights.h5", ".keras", ".safetensors"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"")
    refused(tmp_path / f"x{suffix}", "the file is empty; copy or download")


def test_dtypes_that_differ_are_kept_and_said(tmp_path: Path) -> None:
    kernels = {name: tensor for name, tensor in spelled("torchvision").items() if "denseblock" in name and tensor.shape}
    path = torchs(tmp_path / "x.pth", **{name: torch.tensor(t.read()).half() for name, t in kernels.items()})
    done = run("convert", "--no-verify", path, tmp_path / "y.h5")
    assert done.status == 0, done.errors
    assert "float16, float32" in done.output
    assert "float16, float32" in run("inspect", path).output
    with formats.read(tmp_path / "y.h5") as converted:
        found = [tensor.dtype.name for tensor in converted.tensors.values()]
    assert set(found) == {"float16", "float32"}
    assert found.count("float16") == len(kernels)


def test_all_unsound_tensors_are_named_at_once_up_to_twenty(tmp_path: Path) -> None:
    unsound = {name: torch.full(t.shape, torch.nan) for name, t in spelled("torchvision").items() if len(t.shape) > 1}
    assert len(unsound) == 21
    torchs(tmp_path / "x.pth", **unsound)
    done = run("convert", "--no-verify", tmp_path / "x.pth", tmp_path / "y.h5")
    assert done.status == 2
    assert done.errors.count("\n") == 1
    assert "NaN or Inf in stem.conv.weight, " in done.errors
    assert "and 1 more; " in done.errors


# ---- no file of less than 10 MB takes more than a gigabyte


def of_wide_zeros(path: Path) -> Path:
    """150 MB of half-precision zeros of a net with a very wide stem, deflated, beside nine megabytes of noise."""
    net = DenseNetConfig(1, (1,), (4_500_000,), 1, (), in_channels=1, num_classes=1, stem_kernel=1)
    with h5py.File(path, "w") as file:
        names = list(shapes(net))
        layers = dict.fromkeys(name.rpartition(".")[0] for name in names)
        file.attrs["layer_names"] = list(layers)
        for layer in layers:
            own = [name for name in names if name.rpartition(".")[0] == layer]
            file.create_group(layer).attrs["weight_names"] = own
            for name in own:
                file[layer].create_dataset(
                    name, data=np.ones(shapes(net)[name], "f2"), chunks=shapes(net)[name], compression="gzip"
                )
        file["noise"] = np.frombuffer(np.random.default_rng(0).bytes(9_000_000), np.uint8)
    return path


def headed(path: Path, items: str) -> Path:
    header = f'{{"x":[{items}]}}'.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def of_nested_lists(path: Path) -> Path:
    return headed(path, ",".join(["[" * 700 + "]" * 700] * 7000))


def of_empty_tensors(path: Path) -> Path:
    entry = '"{:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    header = f"{{{','.join(entry.format(n) for n in range(160_000))}}}".encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def of_a_long_configuration(path: Path) -> Path:
    lists = ",".join(["[" * 700 + "]" * 700] * 2900)
    with h5py.File(kerass(path), "a") as file:
        text = f'{{"class_name":"Functional","config":{{"name":"a","x":[{lists}],"layers":[]}}}}'
        file.attrs.create("model_config", text, dtype=h5py.string_dtype())
    return path


def of_many_groups(path: Path) -> Path:
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(10_000):
            file.create_group(f"layers/{number}")
    return path


def of_many_values(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02(" + b"}" * 9_000_000 + b"t.")
    return path


@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        (of_wide_zeros, ".h5"),
        (of_nested_lists, ".safetensors"),
        (of_empty_tensors, ".safetensors"),
        (of_a_long_configuration, ".h5"),
        (of_many_groups, ".h5"),
        (of_many_values, ".pth"),
    ],
)
def test_no_small_file_takes_a_gigabyte(tmp_path: Path, make: Callable[[Path], Path], suffix: str) -> None:
    path = make(tmp_path / f"x{suffix}")
    assert path.stat().st_size < 10_000_000
    done = run("convert", "--no-verify", path, tmp_path / "y.safetensors")
    assert done.status in (0, 2)
    assert "Traceback" not in done.errors
    assert done.peak < 1000
