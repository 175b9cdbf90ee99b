"""PyTorch checkpoints: whatever torch writes is read bit by bit, and torch and torchvision read what we write."""

from __future__ import annotations

import collections
import errno
import gc
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from denseport.checkpoint import Tensor
from denseport.errors import FormatError, UsageError
from denseport.formats import pth
from denseport.formats import zip as zips
from denseport.formats.zip import writer as zip_writer
from denseport.formats.zip.writer import ZipWriter

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
UNSIGNED = ["uint16", "uint32", "uint64"]


def every_kind() -> dict[str, torch.Tensor]:
    """A tensor of each kind that a state dict may hold."""
    torch.manual_seed(0)
    base = torch.randn(6, 5, 4)
    with_state = torch.nn.Parameter(torch.randn(3))
    with_state.note = "an attribute of its own"  # type: ignore[attr-defined]
    kinds = {dtype: (torch.randn(2, 3) * 9).to(getattr(torch, dtype)) for dtype in DTYPES}
    kinds |= {dtype: torch.tensor([1, 2, 60000]).to(getattr(torch, dtype)) for dtype in UNSIGNED}
    return kinds | {
        "0-dim": torch.tensor(7),
        "0 elements": torch.zeros(3, 0, 2),
        "tied a": base,
        "tied b": base,
        "slice": base[1:4, ::2],
        "transposed": torch.randn(2, 3, 4).permute(2, 0, 1),
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "expanded": torch.tensor([2.5]).expand(4, 3),
        "one element, odd stride": torch.randn(9).as_strided((1, 2), (7, 3), 2),
        "one of many": torch.arange(100)[42],
        "denormal and NaN": torch.tensor([5.6e-45, float("nan"), -0.0, float("inf")]),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "parameter with state": with_state,
        "name.with ünïcode \n": torch.randn(2),
    }


def rezipped(path: Path, compression: int = zipfile.ZIP_STORED, root: str = "another root", **records: bytes) -> None:
    """Writes the entries again as other tools do: another root, folders among the entries, nothing aligned."""
    with zipfile.ZipFile(path) as archive:
        entries = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.mkdir(root)
        archive.mkdir(f"{root}/data")
        for name, content in (entries | records).items():
            archive.writestr(f"{root}/{name}", content)


def save(value: Any, path: Path, **options: Any) -> None:
    torch.save(value, path, **options)


def save_legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_without_crc(value: Any, path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(value, path)
    finally:
        torch.serialization.set_crc32_options(True)


def save_deflated(value: Any, path: Path) -> None:
    torch.save(value, path)
    rezipped(path, zipfile.ZIP_DEFLATED)


def save_with_data_descriptors(value: Any, path: Path) -> None:
    """As Python's zipfile writes to a pipe: sizes follow the content."""

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, content: Any) -> int:
            written.extend(content)
            return len(content)

    written = bytearray()
    torch.save(value, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(Pipe(), "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        for name in source.namelist():
            with archive.open(name, "w", force_zip64=name.endswith("0")) as entry:
                entry.write(source.read(name))
    path.write_bytes(written)


def save_without_byteorder(value: Any, path: Path) -> None:
    torch.save(value, path, _disable_byteorder_record=True)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": save,
    "legacy": save_legacy,
    "zip without checksums": save_without_crc,
    "deflated zip": save_deflated,
    "zip with data descriptors": save_with_data_descriptors,
    "zip without byte order": save_without_byteorder,
    "pickle protocol 4": lambda value, path: save(value, path, pickle_protocol=4),
    "pickle protocol 5": lambda value, path: save(value, path, pickle_protocol=5),
}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def assert_equals_torch(path: Path, expected: dict[str, torch.Tensor]) -> None:
    """Every tensor has torch's name, order, shape, dtype and bits."""
    with pth.read(path) as checkpoint:
        assert list(checkpoint.tensors) == list(expected)
        for name, tensor in checkpoint.tensors.items():
            array = tensor.read()
            assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
            assert tensor.shape == tuple(expected[name].shape)
            assert f"torch.{tensor.dtype}" == str(expected[name].dtype)
            assert array.tobytes() == bits(expected[name]), name


@pytest.mark.parametrize("writer", WRITERS)
def test_every_kind_of_tensor_is_read_as_torch_reads_it(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "x.pth"
    values = every_kind()
    if writer == "legacy":
        values = {name: value for name, value in values.items() if name not in UNSIGNED}  # torch cannot read its own
    WRITERS[writer](values, path)
    expected = torch.load(path, weights_only=not writer.startswith("pickle protocol"))
    assert list(expected) == list(values)
    assert_equals_torch(path, expected)
    assert pth.read(path).container == ("PyTorch legacy (before 1.6)" if writer == "legacy" else "PyTorch zip")


def test_a_big_endian_archive_comes_out_in_native_order(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    values = every_kind()
    for name in UNSIGNED:
        del values[name]  # torch swaps no untyped storage
    torch.save(values, path)
    swapped = {}
    with zipfile.ZipFile(path) as archive:
        storages = {str(value.untyped_storage().data_ptr()): value.element_size() for value in values.values()}
        sizes = list(storages.values())
        for index, size in enumerate(sizes):
            content = np.frombuffer(archive.read(f"x/data/{index}"), np.uint8)
            swapped[f"data/{index}"] = content.reshape(-1, size)[:, ::-1].tobytes()
    rezipped(path, byteorder=b"big", **swapped)
    expected = torch.load(path, weights_only=True)
    assert torch.equal(expected["float32"], values["float32"])
    assert_equals_torch(path, expected)


def test_the_byte_order_of_the_machine_that_wrote_a_legacy_file_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save_legacy({"x": torch.arange(5.0)}, path)
    content = path.read_bytes()
    field = content.index(b"little_endian") + len(b"little_endian")
    flag = content.index(pickle.NEWTRUE, field)
    path.write_bytes(content[:flag] + pickle.NEWFALSE + content[flag + 1 :])
    expected = torch.load(path, weights_only=True)
    assert expected["x"].tolist() == [0, 1, 2, 3, 4]
    assert_equals_torch(path, expected)


def test_storage_keys_may_be_any_numbers_and_locations_any_devices(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"x": torch.arange(3.0)}, path)
    with zipfile.ZipFile(path) as archive:
        data = archive.read("x/data.pkl")
    renamed = data.replace(b"X\x01\x00\x00\x000", b"X\x0e\x00\x00\x0094162843176672")
    renamed = renamed.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert len(renamed) == len(data) + 13 + 3
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/data.pkl", renamed)
        archive.writestr("archive/data/94162843176672", np.arange(3, dtype="<f4").tobytes())
        archive.writestr("archive/extra/anything", b"else")
    assert_equals_torch(path, torch.load(path, weights_only=True, map_location="cpu"))


def test_a_module_s_state_dict_has_metadata_that_is_passed_over(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert model.state_dict()._metadata
    for writer in ("zip", "legacy", "pickle protocol 4"):
        WRITERS[writer](model.state_dict(keep_vars=True), tmp_path / "x.pth")
        assert_equals_torch(tmp_path / "x.pth", model.state_dict())


WEIGHTS = {"a.weight": torch.ones(2), "a.bias": torch.zeros(3)}
PLAIN = {
    "epoch": 3,
    "loss": 0.25,
    "huge": 1 << 100,
    "as huge as may be": 1 << 2038,
    "negative": -70000,
    "text": "ünïcode",
    "bytes": b"\x00\xff",
    "no bytes": b"",
    "none": None,
    "flags": [True, False],
    "set": {1, 2},
    "frozen": frozenset({"a"}),
    "milestones": collections.Counter([30, 60]),
    "size": torch.Size([2, 3]),
    "dtype": torch.float32,
    "device": torch.device("cuda:0"),
    "cpu": torch.device("cpu"),
    "nested": {"deep": [{"er": (1, 2, 3, 4)}]},
    "storage": torch.zeros(3).untyped_storage(),
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}
NESTED: dict[str, tuple[Any, dict[str, torch.Tensor], list[str]]] = {
    "bare": (WEIGHTS, WEIGHTS, []),
    "bare among plain values": (PLAIN | WEIGHTS, {"optimizer.state.0.exp_avg": torch.ones(2)} | WEIGHTS, [
        *(name for name in PLAIN if name != "optimizer"), "optimizer.param_groups",
    ]),
    "a wrapper": ({"epoch": 3, "net": WEIGHTS}, {f"net.{name}": value for name, value in WEIGHTS.items()}, ["epoch"]),
    "plain values inside": (
        {"net": {"version": 1, "a": torch.ones(2)}}, {"net.a": torch.ones(2)}, ["net.version"],
    ),
    "tensors beside": (
        {"net": {"a": torch.ones(2)}, "b": torch.zeros(3)}, {"net.a": torch.ones(2), "b": torch.zeros(3)}, [],
    ),
    "lists and tuples": ([torch.ones(2), (torch.zeros(3), 1)], {"0": torch.ones(2), "1.0": torch.zeros(3)}, ["1.1"]),
    "four levels": ({"a": {"b": [{"c": torch.ones(2)}]}}, {"a.b.0.c": torch.ones(2)}, []),
    "keys that are no names": (
        {0.5: torch.ones(2), "a": torch.ones(3), b"b": torch.ones(4), (1, 2): torch.ones(5)},
        {"<0>": torch.ones(2), "a": torch.ones(3), "<2>": torch.ones(4), "<3>": torch.ones(5)}, [],
    ),
    "one tensor twice": ({"a": WEIGHTS, "b": WEIGHTS}, {
        f"{key}.{name}": value for key in "ab" for name, value in WEIGHTS.items()
    }, []),
}  # fmt: skip


@pytest.mark.parametrize("writer", ["zip", "legacy", "pickle protocol 4"])
@pytest.mark.parametrize("kind", NESTED)
def test_every_tensor_is_found_under_its_full_path(tmp_path: Path, kind: str, writer: str) -> None:
    value, expected, others = NESTED[kind]
    WRITERS[writer](value, tmp_path / "x.pth")
    with pth.read(tmp_path / "x.pth") as checkpoint:
        assert sorted(checkpoint.others) == sorted(others)
        assert (checkpoint.format, checkpoint.wrapper) == ("pth", "")
        assert checkpoint.path == tmp_path / "x.pth"
    assert_equals_torch(tmp_path / "x.pth", expected)


def legacy(pickles: list[bytes], storages: list[tuple[int, bytes]]) -> bytes:
    """A container from before 1.6 of hand-made pickles of the object and of the storages' keys."""
    start = [pickle.dumps(value, 2) for value in (torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True})]
    return b"".join([*start, *pickles, *(struct.pack("<q", count) + content for count, content in storages)])


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x03123U\x03cpuI3\nNtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00K\x03\x85K\x01\x85tR"
    value = b"\x80\x02ccollections\nOrderedDict\n]q\x01]q\x02(U\x08a.weightq\x03" + tensor + b"ea"
    value += b"](U\x04noteU\x01\xe9ea](U\x04seedI-9223372036854775808\nea\x85Rq\x04}q\x05b."
    path = tmp_path / "x.pth"
    path.write_bytes(legacy([value, b"\x80\x02]U\x03123a."], [(3, np.arange(3, dtype="<f4").tobytes())]))
    expected = torch.load(path, weights_only=False, encoding="latin1")
    assert (expected["note"], expected["seed"]) == ("é", -(1 << 63))
    assert_equals_torch(path, {"a.weight": expected["a.weight"]})
    assert pth.read(path).others == ("note", "seed")


def test_views_of_storages_in_old_legacy_files_are_read(tmp_path: Path) -> None:
    storage = b"(\x8c\x07storagectorch\nFloatStorage\n\x8c\x015\x8c\x03cpuK\x06(\x8c\x017K\x02K\x04ttQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x01K\x02\x85K\x01\x85tR"
    path = tmp_path / "x.pth"
    content = np.arange(6, dtype="<f4").tobytes()
    path.write_bytes(legacy([b"\x80\x02}\x8c\x01w" + tensor + b"s.", pickle.dumps(["5"], 2)], [(6, content)]))
    expected = torch.load(path, weights_only=False)
    assert expected["w"].tolist() == [3, 4]
    assert_equals_torch(path, expected)


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_only_the_bytes_of_a_tensor_are_read_and_values_are_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    WRITERS[writer]({"slice": torch.arange(1_500_000.0)[500_000:500_004]}, tmp_path / "x.pth")
    with pth.read(tmp_path / "x.pth") as checkpoint:
        lengths: list[int] = []
        real = os.pread
        monkeypatch.setattr(os, "pread", lambda file, length, at: lengths.append(length) or real(file, length, at))
        for _ in range(2):  # a zip entry is read once for its checksum, piece by piece
            lengths.clear()
            array = checkpoint.tensors["slice"].read()
            assert array.tolist() == [500_000, 500_001, 500_002, 500_003]
            assert not array.flags.writeable
            assert max(lengths) <= 1 << 20
        assert lengths == [16]


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, writer: str) -> None:
    """Were it mapped into memory, the process would end with a bus error."""
    path = tmp_path / "x.pth"
    WRITERS[writer]({"x": torch.zeros(100_000)}, path)
    with pth.read(path) as checkpoint:
        with path.open("r+b") as file:
            file.truncate(50_000)
        with pytest.raises(FormatError, match=r"x\.pth: became shorter while it was read; "):
            checkpoint.tensors["x"].read()


def test_a_disk_that_fails_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    torch.save({"x": torch.zeros(9)}, tmp_path / "x.pth")
    with pth.read(tmp_path / "x.pth") as checkpoint:
        monkeypatch.setattr(os, "pread", fails)
        with pytest.raises(FormatError, match=r"cannot be read \(Input/output error\)"):
            checkpoint.tensors["x"].read()


def test_what_a_disk_gives_in_parts_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux does with more than 2 GiB."""
    torch.save({"x": torch.arange(1000.0)}, tmp_path / "x.pth")
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, at: real(file, min(length, 99), at))
    with pth.read(tmp_path / "x.pth") as checkpoint:
        assert checkpoint.tensors["x"].read().tolist() == list(range(1000))


def test_arrays_outlive_the_checkpoint_and_reading_after_it_is_a_clear_error(tmp_path: Path) -> None:
    for writer in ("zip", "legacy"):
        path = tmp_path / f"{writer}.pth"
        WRITERS[writer]({"x": torch.arange(1000.0)}, path)
        with pth.read(path) as checkpoint:
            array = checkpoint.tensors["x"].read()
        assert array.sum() == 499500
        checkpoint.close()
        del array
        gc.collect()
        checkpoint.close()
        with pytest.raises(UsageError, match="closed"):
            checkpoint.tensors["x"].read()


def test_the_trained_file_of_others_is_read_as_torch_reads_it() -> None:
    path = REAL / "dice-densenet-bc-100-12-cifar10.pth.tar"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    expected = torch.load(path, weights_only=True, map_location="cpu")
    assert_equals_torch(path, {f"state_dict.{name}": tensor for name, tensor in expected["state_dict"].items()})
    with pth.read(path) as checkpoint:
        assert (checkpoint.others, len(checkpoint.tensors)) == (("epoch",), 596)


def test_neither_torch_nor_ml_dtypes_is_imported(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2), "y": torch.ones(2, dtype=torch.float16)}, tmp_path / "x.pth")
    code = (
        "import sys; from pathlib import Path; from denseport.formats import pth; path = Path(sys.argv[1]);"
        "[tensor.read() for tensor in pth.read(path).tensors.values()];"
        "pth.write(pth.read(path).tensors, {}, path.with_suffix('.new'));"
        "print(sorted({'torch', 'ml_dtypes', 'zipfile', 'h5py'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.pth"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


DTYPES_TO_WRITE = [np.dtype(name) for name in (*DTYPES, *UNSIGNED) if name != "bfloat16"]


def arrays() -> st.SearchStrategy[np.ndarray]:
    shapes = arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
    plain = st.sampled_from(DTYPES_TO_WRITE).flatmap(lambda dtype: arrays_of.arrays(dtype, shapes))
    bfloat16 = arrays_of.arrays(np.uint16, shapes).map(lambda array: array.view(ml_dtypes.bfloat16))
    return (plain | bfloat16).flatmap(
        lambda array: st.sampled_from([array, array.T, array[::2] if array.ndim else array])
    )


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text(max_size=12), arrays(), min_size=1, max_size=5), st.dictionaries(st.text(), st.text()))
def test_what_is_written_comes_back_and_torch_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("pth") / "x.pth"
    pth.write({name: Tensor.of(array) for name, array in values.items()}, metadata, path)
    with pth.read(path) as checkpoint:
        assert list(checkpoint.tensors) == list(values)
        assert checkpoint.metadata == metadata
        for name, array in values.items():
            back = checkpoint.tensors[name].read()
            assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    for mapped in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mapped)
        assert type(loaded) is collections.OrderedDict
        assert_equals_torch(path, loaded)


def some_tensors() -> dict[str, Tensor]:
    generator = np.random.default_rng(0)
    return {
        f"layer{index}.weight": Tensor.of(generator.standard_normal(shape).astype("f4"))
        for index, shape in enumerate([(), (3,), (0, 2), (2, 3, 4), (2, 2, 2, 2, 2), (300,), (70000,)])
    }


def test_the_layout_of_the_archive_is_torch_s_own_byte_for_byte(tmp_path: Path) -> None:
    """torch computes the places of storages from its writer's rules, so that any other layout could mislead it."""
    torch.save(every_kind(), tmp_path / "torch.pth")
    with zipfile.ZipFile(tmp_path / "torch.pth") as archive, ZipWriter(tmp_path / "ours.pth", "torch", 64) as ours:
        for name in archive.namelist():
            ours.add(name.removeprefix("torch/"), [archive.read(name)])
    assert (tmp_path / "ours.pth").read_bytes() == (tmp_path / "torch.pth").read_bytes()


def test_the_records_are_those_of_torch_and_storages_are_aligned(tmp_path: Path) -> None:
    tensors = some_tensors()
    arrays = collections.OrderedDict((name, torch.from_numpy(tensor.read())) for name, tensor in tensors.items())
    torch.save(arrays, tmp_path / "archive.pt")
    pth.write(tensors, {}, tmp_path / "ours.pth")
    with zipfile.ZipFile(tmp_path / "archive.pt") as theirs, zipfile.ZipFile(tmp_path / "ours.pth") as ours:
        assert ours.namelist() == theirs.namelist()
        assert ours.testzip() is None
        for name in ours.namelist():
            if name not in ("archive/data.pkl", "archive/.data/serialization_id"):
                assert ours.read(name) == theirs.read(name), name
        assert len(ours.read("archive/.data/serialization_id")) == 40
        for entry in ours.infolist():
            with ours.open(entry) as content:
                assert content._orig_compress_start % 64 == 0 or not entry.file_size  # type: ignore[attr-defined]


def test_torch_s_own_checks_of_the_layout_pass(tmp_path: Path) -> None:
    pth.write(some_tensors(), {"key": "value"}, tmp_path / "x.pth")
    code = (
        "import sys, torch; from torch.utils.serialization import config; expected = torch.load(sys.argv[1]);"
        "config.load.calculate_storage_offsets = True; loaded = torch.load(sys.argv[1], mmap=True);"
        "assert len(loaded) == 7 and all(torch.equal(loaded[name], expected[name]) for name in expected)"
    )
    environment = {**os.environ, "TORCH_SERIALIZATION_DEBUG": "1"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.pth"], check=True, env=environment)


def test_torchvision_loads_what_is_written_strictly(tmp_path: Path) -> None:
    code = (
        "import sys, torch, torchvision; from pathlib import Path; from denseport.formats import pth;"
        "net = lambda: torchvision.models.DenseNet(8, (2, 3, 2), 18, num_classes=10);"
        "theirs, ours = map(Path, sys.argv[1:]); saved = net().state_dict(); torch.save(saved, theirs);"
        "pth.write(pth.read(theirs).tensors, {}, ours); loaded = torch.load(ours, weights_only=True);"
        "print(net().load_state_dict(loaded, strict=True));"
        "assert list(loaded) == list(saved) and all(torch.equal(loaded[name], saved[name]) for name in saved)"
    )
    command = [sys.executable, "-c", code, tmp_path / "theirs.pth", tmp_path / "ours.pth"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "All keys matched successfully" in done.stdout


def test_sizes_and_offsets_beyond_4_gb_take_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code with a lower limit, so that some entries are past it by size and all later ones by offset."""
    monkeypatch.setattr(zip_writer, "FULL32", 1000)
    tensors = some_tensors()
    pth.write(tensors, {"key": "value"}, tmp_path / "x.pth")
    monkeypatch.undo()
    content = bytearray((tmp_path / "x.pth").read_bytes())
    full = struct.pack("<I", 1000)
    directory = content.index(zips.CENTRAL_SIGNATURE)
    wide = 0
    while content[directory : directory + 4] == zips.CENTRAL_SIGNATURE:
        for field in (20, 24, 42):  # the limit in the directory is what readers know as full
            if content[directory + field : directory + field + 4] == full:
                content[directory + field : directory + field + 4] = b"\xff" * 4
                wide += 1
        directory += 46 + sum(struct.unpack_from("<3H", content, directory + 28))
    assert wide > 10
    for field in (12, 16):
        if content[len(content) - 22 + field : len(content) - 18 + field] == full:
            content[len(content) - 22 + field : len(content) - 18 + field] = b"\xff" * 4
    (tmp_path / "x.pth").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert archive.testzip() is None
    for mapped in (False, True):
        assert_equals_torch(tmp_path / "x.pth", torch.load(tmp_path / "x.pth", weights_only=True, mmap=mapped))
    assert (
        pth.read(tmp_path / "x.pth").tensors["layer6.weight"].read().tobytes()
        == tensors["layer6.weight"].read().tobytes()
    )


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    pth.write(some_tensors(), {"a": "1", "b": "2"}, tmp_path / "x.pth")
    pth.write(some_tensors(), {"b": "2", "a": "1"}, tmp_path / "y.pth")
    assert (tmp_path / "x.pth").read_bytes() == (tmp_path / "y.pth").read_bytes()
    pth.write({"w": Tensor.of(np.float32([1]))}, {}, tmp_path / "z.pth")
    pth.write({"w": Tensor.of(np.float32([2]))}, {}, tmp_path / "w.pth")
    identities = [zipfile.ZipFile(tmp_path / f"{name}.pth").read("archive/.data/serialization_id") for name in "xyzw"]
    assert len(set(identities)) == 3


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def make() -> np.ndarray:
        array = np.zeros((50, 40), np.float32)
        made.append(weakref.ref(array))
        alive.append(sum(reference() is not None for reference in made))
        return array.T

    pth.write({f"w{n}": Tensor(np.dtype("f4"), (40, 50), make) for n in range(9)}, {}, tmp_path / "x.pth")
    assert alive == [1] * 9


UNWRITABLE = {
    "complex": np.zeros(2, np.complex128),
    "long double": np.zeros(2, np.longdouble),
    "text": np.array(["a"]),
    "objects": np.array([None]),
    "fields": np.zeros(2, [("a", "f4")]),
    "float8": np.zeros(2, ml_dtypes.float8_e4m3fn),
    "foreign byte order": np.zeros(2, np.dtype("f4").newbyteorder()),
}


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_dtypes_that_no_checkpoint_has_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FormatError, match=r"x.pth: tensor odd\.one is .*convert"):
        pth.write({"fine": Tensor.of(np.zeros(2)), "odd.one": Tensor.of(UNWRITABLE[kind])}, {}, tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_values_that_are_not_what_was_announced_are_refused(tmp_path: Path) -> None:
    for array in (np.zeros(3, "f4"), np.zeros(2, "f8")):
        with pytest.raises(FormatError, match=r"tensor w was announced as float32 \(2,\)"):
            pth.write({"w": Tensor(np.dtype("f4"), (2,), lambda array=array: array)}, {}, tmp_path / "x.pth")


def test_names_and_metadata_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    weight = Tensor.of(np.zeros(2))
    with pytest.raises(FormatError, match="surrogate"):
        pth.write({"a\ud800": weight}, {}, tmp_path / "x.pth")
    with pytest.raises(FormatError, match="surrogate"):
        pth.write({"a": weight}, {"key": "\ud800"}, tmp_path / "x.pth")
    with pytest.raises(FormatError, match="shorten"):
        pth.write({"a": weight}, {"key": "x" * (1 << 20)}, tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_metadata_is_a_record_of_json(tmp_path: Path) -> None:
    pth.write({"a": Tensor.of(np.zeros(2))}, {"layout": "torchvision", "ü": "\n"}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        record = json.loads(archive.read("archive/extra/denseport.json"))
    assert record == {"layout": "torchvision", "ü": "\n"}
    pth.write({"a": Tensor.of(np.zeros(2))}, {}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert "archive/extra/denseport.json" not in archive.namelist()
