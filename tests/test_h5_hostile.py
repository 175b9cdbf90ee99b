"""Broken and hostile HDF5 files: each is refused in one line, within bounded memory, and nothing else is opened."""

from __future__ import annotations

import errno
import gc
import os
import random
import re
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from denseport.checkpoint import Tensor
from denseport.errors import FormatError, UsageError
from denseport.formats.hdf5 import File, open_root
from denseport.formats.hdf5.file import lookup3
from denseport.formats.hdf5.filters import is_fletcher32
from denseport.formats.keras import legacy, weights

MEBIBYTE = 1 << 20
WEIGHT = "conv/conv/kernel:0"
VALUES = np.arange(36, dtype="f4").reshape(3, 3, 2, 2)


def good(path: Path, **options: Any) -> Path:
    """A small legacy file; `options` are those of its one dataset."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["conv", "relu"]
        file.create_group("relu").attrs["weight_names"] = np.zeros(0)
        file.create_group("conv").attrs["weight_names"] = ["conv/kernel:0"]
        file["conv"].create_dataset("conv/kernel:0", **{"data": VALUES, **options})
    return path


def good_weights(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = VALUES
        file["layers/conv2d/vars"].attrs["name"] = "conv"
    return path


def patch(path: Path, old: bytes, new: bytes, count: int = 1, shift: int = 0) -> Path:
    """Overwrites bytes where `old` stands, which it does `count` times, `shift` bytes after its start."""
    data = bytearray(path.read_bytes())
    assert data.count(old) == count, data.count(old)
    at = -1
    for _ in range(count):
        at = data.index(old, at + 1)
        data[at + shift : at + shift + len(new)] = new
    path.write_bytes(data)
    return path


def read_all(path: Path) -> dict[str, np.ndarray]:
    with legacy.read(path) as checkpoint:
        return {name: tensor.read() for name, tensor in checkpoint.tensors.items()}


def refused(path: Path, reason: str, most: int = 4 * MEBIBYTE) -> None:
    """Whether reading everything gives an error of one line that names the file, within little memory and time."""
    tracemalloc.start()
    begun = time.monotonic()
    try:
        with pytest.raises(FormatError, match=reason) as error:
            read_all(path)
        assert tracemalloc.get_traced_memory()[1] < most
        assert time.monotonic() - begun < 20
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert ";" in str(error.value)


def test_the_good_files_are_good(tmp_path: Path) -> None:
    assert np.array_equal(read_all(good(tmp_path / "a.h5"))["conv/kernel"], VALUES)
    assert np.array_equal(read_all(good_weights(tmp_path / "b.h5"))["conv/kernel"], VALUES)


@pytest.mark.parametrize("place", ["conv", "conv/conv", WEIGHT, "model_weights"])
@pytest.mark.parametrize("kind", ["soft", "external"])
def test_links_that_lead_elsewhere_are_refused_wherever_they_stand(tmp_path: Path, place: str, kind: str) -> None:
    good(tmp_path / "other.h5")
    path = good(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        if place == "model_weights":
            file.create_group("real").attrs["layer_names"] = file.attrs["layer_names"]
            del file.attrs["layer_names"]
            file.move("conv", "real/conv")
            target = "/real"
        else:
            file.move(place, "elsewhere")
            target = "/elsewhere"
        file[place] = h5py.SoftLink(target) if kind == "soft" else h5py.ExternalLink(str(tmp_path / "other.h5"), place)
    refused(path, f"/{place} is no hard link but {kind}")


@pytest.mark.parametrize("place", ["layers", "layers/conv2d", "layers/conv2d/vars", "layers/conv2d/vars/0"])
@pytest.mark.parametrize("kind", ["soft", "external"])
def test_links_that_lead_elsewhere_are_refused_in_keras_3_files(tmp_path: Path, place: str, kind: str) -> None:
    good_weights(tmp_path / "other.h5")
    path = good_weights(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file.move(place, "optimizer")
        file[place] = h5py.SoftLink("/optimizer") if kind == "soft" else h5py.ExternalLink("other.h5", place)
    refused(path, f"/{place} is no hard link but {kind}")


def test_external_links_are_refused_in_the_newer_kind_of_group(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = ["conv"]
        file["conv"] = h5py.ExternalLink("/etc/passwd", "conv")
    refused(tmp_path / "x.h5", "/conv is no hard link but external")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("place", ["unused", "conv/unused", "relu/unused", "optimizer_weights/a/b/unused"])
@pytest.mark.parametrize("kind", ["soft", "external"])
def test_links_that_lead_elsewhere_are_refused_where_nobody_needs_them(
    tmp_path: Path, kind: str, place: str, libver: str
) -> None:
    for write in (good, good_weights):
        path = write(tmp_path / "x.h5")
        with h5py.File(path, "a", libver=libver) as file:
            file[place] = h5py.SoftLink("/nowhere") if kind == "soft" else h5py.ExternalLink("/etc/passwd", "/")
        refused(path, f"/{place} is no hard link but {kind}")


def test_many_groups_below_one_long_name_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Their paths together would take two hundred times the file."""
    name = "a" * 60_000
    for count in (5, 2_000):
        path = good_weights(tmp_path / "x.h5")
        with h5py.File(path, "a", libver="latest") as file:
            outer = file.create_group(name)
            for number in range(count):
                outer.create_group(str(number))
        if count == 5:
            assert len(read_all(path)) == 1
    refused(path, "refer to each other again and again", most=32 * MEBIBYTE)


def test_a_path_is_not_followed_round_a_group_that_holds_itself(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file["conv/a"] = file["conv"]
        file["conv"].attrs["weight_names"] = ["a/a/a/conv/kernel:0"]
    assert len(read_all(path)) == 1
    with h5py.File(path, "a") as file:
        file["conv"].attrs["weight_names"] = np.array([b"a/" * 30000 + b"conv/kernel:0"])
    refused(path, "names a/a/a.*, which is no path of names")


def test_a_keras_3_file_whose_groups_go_round_is_refused(tmp_path: Path) -> None:
    path = good_weights(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file["layers/functional/layers"] = file["layers"]
    refused(path, "/layers/functional/layers leads to a group that has another path")


def test_a_keras_3_file_of_too_many_paths_is_refused(tmp_path: Path) -> None:
    """Two links from each group to the next make 2^60 paths of sixty groups."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file
        for _ in range(25):
            inner = group.create_group("a")
            group["b"] = inner
            group = inner
        group["vars/0"] = VALUES
    refused(tmp_path / "x.h5", "leads to a group that has another path")


def test_a_keras_3_file_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/" * 40 + "vars/0"] = VALUES
    refused(tmp_path / "x.h5", "is too deep")


def test_many_names_for_one_dataset_do_not_grow_without_bound(tmp_path: Path) -> None:
    names = [f"k{index}" for index in range(400)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = names
        group["k0"] = np.ones(MEBIBYTE, "f4")
        for name in names[1:]:
            group[name] = group["k0"]
    refused(tmp_path / "x.h5", "declare far more bytes than the file holds", most=16 * MEBIBYTE)


def test_external_storage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "values").write_bytes(VALUES.tobytes())
    options = {"data": None, "shape": VALUES.shape, "dtype": "f4"}
    refused(good(tmp_path / "x.h5", **options, external=str(tmp_path / "values")), "keeps its values in other files")


def test_a_virtual_dataset_is_refused(tmp_path: Path) -> None:
    good(tmp_path / "other.h5")
    path = good(tmp_path / "x.h5")
    layout = h5py.VirtualLayout(VALUES.shape, "f4")
    layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), WEIGHT, VALUES.shape)
    with h5py.File(path, "a", libver="latest") as file:
        del file[WEIGHT]
        file.create_virtual_dataset(WEIGHT, layout)
    refused(path, f"/{WEIGHT} is virtual")


def compressed(path: Path, stream: bytes, filters: int = 0, **options: Any) -> Path:
    """A file whose dataset's one chunk is `stream`."""
    path = good(path, data=None, shape=(4096,), dtype="f4", chunks=(4096,), compression="gzip", **options)
    with h5py.File(path, "a") as file:
        file[WEIGHT].id.write_direct_chunk((0,), stream, filters)
    return path


def test_a_chunk_that_inflates_beyond_its_shape_is_refused_at_once(tmp_path: Path) -> None:
    path = compressed(tmp_path / "x.h5", zlib.compress(bytes(16 * MEBIBYTE), 9))
    refused(path, "grows beyond 16388 bytes")


@pytest.mark.parametrize(
    ("stream", "filters", "reason"),
    [
        (zlib.compress(bytes(16380)), 0, "a chunk of 16380 bytes where 16384 are needed"),
        (zlib.compress(bytes(16388)), 0, "a chunk of 16388 bytes where 16384 are needed"),
        (zlib.compress(bytes(16384))[:-6], 0, "ends early"),
        (b"no gzip at all", 0, "a chunk that gzip cannot read"),
        (bytes(60), 1, "a chunk of 60 bytes where 16384 are needed"),
    ],
)
def test_a_chunk_that_is_not_what_it_should_be_is_refused(
    tmp_path: Path, stream: bytes, filters: int, reason: str
) -> None:
    refused(compressed(tmp_path / "x.h5", stream, filters), reason)


def test_a_chunk_to_which_a_filter_was_not_applied_is_read(tmp_path: Path) -> None:
    values = np.arange(4096, dtype="f4")
    path = compressed(tmp_path / "x.h5", values.tobytes(), 1)
    assert np.array_equal(read_all(path)["conv/kernel"], values)


def test_a_wrong_checksum_of_a_chunk_is_found(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5", chunks=(3, 3, 2, 2), fletcher32=True)
    assert np.array_equal(read_all(path)["conv/kernel"], VALUES)
    refused(patch(path, np.float32(35).tobytes(), np.float32(34).tobytes()), "a chunk with a wrong checksum")


def test_a_wrong_checksum_of_a_structure_is_found(tmp_path: Path) -> None:
    """Only the newer structures have one; a changed address in them would give other values."""
    for name in ("OHDR", "superblock"):
        with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
            file.attrs["layer_names"] = ["conv"]
            file.create_group("conv").attrs["weight_names"] = ["kernel"]
            file["conv/kernel"] = VALUES
        data = (tmp_path / "x.h5").read_bytes()
        at = data.rindex(b"OHDR") + 20 if name == "OHDR" else 36
        (tmp_path / "x.h5").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        refused(tmp_path / "x.h5", "has a wrong checksum")


LZF_LITERALS = bytes([31, *range(32)]) * 512  # all of 16,384 bytes


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"\x00", "not valid lzf data: it ends early"),
        (b"\x1fabc", "not valid lzf data: it ends early"),
        (b"\x00a\x20", "not valid lzf data: it ends early"),
        (b"\x00a\xe0", "not valid lzf data: it ends early"),
        (b"\x00a\xe0\xff", "not valid lzf data: it ends early"),
        (b"\x20\x00", "not valid lzf data: it repeats bytes before its start"),
        (b"\x00a\x20\x01", "not valid lzf data: it repeats bytes before its start"),
        (b"\x00a\x3f\xff", "not valid lzf data: it repeats bytes before its start"),
        (LZF_LITERALS + b"\x03abcd\x00e", "not valid lzf data: it grows beyond 16388 bytes"),
        (b"\x00a" + b"\xe0\xff\x00" * 99, "not valid lzf data: it grows beyond 16388 bytes"),
        (LZF_LITERALS[:-33], "a chunk of 16352 bytes where 16384 are needed"),
    ],
)
def test_lzf_data_that_is_not_what_it_should_be_is_refused(tmp_path: Path, stream: bytes, reason: str) -> None:
    options: dict[str, Any] = {"data": None, "shape": (4096,), "dtype": "f4", "chunks": (4096,), "compression": "lzf"}
    path = good(tmp_path / "x.h5", **options)
    with h5py.File(path, "a") as file:
        file[WEIGHT].id.write_direct_chunk((0,), LZF_LITERALS)
    assert read_all(path)["conv/kernel"].tobytes() == bytes(range(32)) * 512
    path = good(tmp_path / "x.h5", **options)
    with h5py.File(path, "a") as file:
        file[WEIGHT].id.write_direct_chunk((0,), stream)
    refused(path, reason)


def test_lzf_data_counts_for_more_since_it_takes_longer(tmp_path: Path) -> None:
    """Eight names for 1.2 MB of one chunk are 10 MB of values: a moment under gzip, seconds under lzf."""
    names = [f"k{index}" for index in range(8)]
    for compression in ("gzip", "lzf"):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.attrs["layer_names"] = ["a"]
            group = file.create_group("a")
            group.attrs["weight_names"] = names
            group.create_dataset("k0", data=np.zeros(300_000, "f4"), chunks=(300_000,), compression=compression)
            for name in names[1:]:
                group[name] = group["k0"]
        if compression == "gzip":
            assert len(read_all(tmp_path / "x.h5")) == 8
    refused(tmp_path / "x.h5", "declare far more bytes than the file holds")


@pytest.mark.parametrize("name", ["scale-offset", "nbit", "number 305"])
def test_other_filters_are_refused_by_name(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"scale-offset": {"scaleoffset": 3}}.get(name, {})
    path = good(tmp_path / "x.h5", chunks=(3, 3, 2, 2), **(options or {"shuffle": True}))
    if not options:
        # The message of the filter shuffle: its number, the length of its name, flags, one parameter.
        number = {"nbit": 5, "number 305": 305}[name]
        patch(path, struct.pack("<HHHH", 2, 8, 1, 1), struct.pack("<H", number))
    refused(path, f"is filtered by {name}, which is not read")


def test_a_filter_that_is_applied_twice_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5", chunks=(3, 3, 2, 2), shuffle=True, compression="gzip")
    refused(patch(path, struct.pack("<HHHH", 2, 8, 1, 1), struct.pack("<H", 1)), "is filtered twice")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shape": (10**6, 10**6)}, "declare far more bytes"),
        ({"shape": (100,)}, "needs 400 bytes and 0 are stored"),
        ({"shape": (10**5, 10**5), "chunks": (10**5, 10**4)}, "declare far more bytes"),
        ({"shape": (2**40, 2**40), "chunks": (1, 1)}, "declares the absurd shape"),
        ({"shape": (1000, 1000), "chunks": (100, 100)}, "lacks 100 of its chunks"),
        ({"shape": (10,), "maxshape": (None,), "chunks": (2**27,)}, "has chunks of the shape"),
        ({"shape": (2**20,), "chunks": (1,)}, "more than the file has room for"),
        ({"shape": (3 * 2**20,), "chunks": (1,)}, "has more than 1048576 chunks"),
    ],
)
def test_shapes_without_values_are_refused_before_anything_is_allocated(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    refused(good(tmp_path / "x.h5", data=None, dtype="f4", **options), reason)


def test_chunks_that_reach_far_beyond_the_shape_are_refused(tmp_path: Path) -> None:
    """A million chunks of a mebibyte each for 4 MiB of values, all in one place, would keep a reader busy for long."""
    path = good(tmp_path / "x.h5", data=None, shape=(2000, 1), dtype="f4", chunks=(1, 2**18), maxshape=(2000, None))
    with h5py.File(path, "a") as file:
        file[WEIGHT].id.write_direct_chunk((0, 0), bytes(4 * 2**18))
    refused(path, "declare far more bytes than the file holds")


def test_a_chunk_of_far_more_bytes_than_it_needs_is_refused(tmp_path: Path) -> None:
    stream = zlib.compressobj().compress(b"") + b"".join(b"\0\0\0\xff\xff" for _ in range(8000))
    refused(compressed(tmp_path / "x.h5", stream), "needs 16384 bytes a chunk and 400")


def test_names_that_overlap_in_a_heap_are_refused(tmp_path: Path) -> None:
    """Three thousand names of half a mebibyte each, every one starting a byte later in the same half mebibyte."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["x"]
        file.create_group("y" * (MEBIBYTE // 2))
        for index in range(3000):
            file.create_group(f"{index:04}")
    data = bytearray((tmp_path / "x.h5").read_bytes())
    name = data.index(b"y" * 64)
    segments = (struct.unpack_from("<Q", data, found.start() + 24)[0] for found in re.finditer(b"HEAP\0", data))
    offset = name - max(segment for segment in segments if segment <= name)
    for node in (found.start() for found in re.finditer(b"SNOD", data)):
        for entry in range(node + 8, node + 8 + 40 * int.from_bytes(data[node + 6 : node + 8], "little"), 40):
            offset += 1
            struct.pack_into("<Q", data, entry, offset)
    (tmp_path / "x.h5").write_bytes(data)
    refused(tmp_path / "x.h5", "refer to each other again and again", most=64 * MEBIBYTE)


def test_a_chunk_that_was_never_written_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5", data=None, shape=(40, 4), dtype="f4", chunks=(10, 4))
    with h5py.File(path, "a") as file:
        file[WEIGHT][:30] = 1
    refused(path, "lacks 1 of its chunks")


def test_an_absurd_side_beside_an_empty_one_is_refused(tmp_path: Path) -> None:
    refused(good(tmp_path / "x.h5", data=None, shape=(0, 2**62), dtype="f4"), "absurd shape")


def shape_of(*sides: int) -> bytes:
    return struct.pack(f"<{len(sides)}Q", *sides)


@pytest.mark.parametrize("sides", [(3, 3, 2, 3), (3, 3, 2, 1), (2**20, 2**20, 2, 2), (2**62, 2, 2, 2)])
def test_a_shape_that_does_not_fit_the_stored_bytes_is_refused(tmp_path: Path, sides: tuple[int, ...]) -> None:
    path = patch(good(tmp_path / "x.h5"), shape_of(*VALUES.shape), shape_of(*sides), count=2)
    refused(path, "bytes and 144 are stored|far more bytes|absurd shape")


@pytest.mark.parametrize("options", [{}, {"chunks": (3, 3, 2, 2)}])
def test_values_that_lie_outside_the_file_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = good(tmp_path / "x.h5", **options)
    with h5py.File(path) as file:
        at = file[WEIGHT].id.get_offset() or file[WEIGHT].id.get_chunk_info(0).byte_offset
    for address in (path.stat().st_size - 100, 2**63, 2**64 - 1):
        broken = tmp_path / "broken.h5"
        broken.write_bytes(path.read_bytes())
        refused(patch(broken, struct.pack("<Q", at), struct.pack("<Q", address)), "lies outside|0 are stored")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([b"text"]), "holds string of 4 bytes"),
        (np.array(["text"], dtype=h5py.string_dtype()), "holds variable-length string"),
        (np.array([1 + 2j]), "holds compound values"),
        (np.zeros(2, [("a", "f4"), ("b", "f4")]), "holds compound values"),
        (np.zeros(2, "V2"), "raw 16-bit values"),
        (np.zeros(2, "V3"), "holds raw bytes of 3 bytes"),
        (np.zeros(2, np.longdouble), "holds floating-point numbers of 16 bytes"),
        (np.zeros(2, h5py.enum_dtype({"A": 0, "B": 1}, "i1")), "holds enumerated values"),
        (np.zeros(2, h5py.enum_dtype({"FALSE": 0, "TRUE": 1}, "i2")), "holds enumerated values"),
    ],
)
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, values: np.ndarray, reason: str) -> None:
    refused(good(tmp_path / "x.h5", data=values), reason)


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        (h5py.ref_dtype, "holds references"),
        (h5py.vlen_dtype("f4"), "holds variable-length values"),
        (np.dtype(("f4", (3,))), "holds arrays of 12 bytes"),
    ],
)
def test_types_that_numpy_does_not_have_are_refused(tmp_path: Path, dtype: Any, reason: str) -> None:
    refused(good(tmp_path / "x.h5", data=None, shape=(2,), dtype=dtype), reason)


def test_an_empty_dataspace_and_a_named_datatype_are_refused(tmp_path: Path) -> None:
    refused(good(tmp_path / "x.h5", data=h5py.Empty("f4")), "is empty")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["type"] = np.dtype("f4")
        file.attrs["layer_names"] = ["conv"]
        file.create_group("conv").attrs["weight_names"] = ["kernel"]
        file["conv"].create_dataset("kernel", data=VALUES, dtype=file["type"])
    refused(tmp_path / "y.h5", "shares its datatype")


@pytest.mark.parametrize(
    ("place", "name", "value", "reason"),
    [
        ("/", "layer_names", ["conv", "gone"], "/gone is named but is not there"),
        ("conv", "weight_names", ["conv/gone"], "/conv/conv/gone is named but is not there"),
        ("conv", "weight_names", ["conv"], "/conv/conv is a group where a dataset was expected"),
        ("conv", "weight_names", ["conv/kernel:0/x"], "is a dataset where conv/kernel:0/x needs a group"),
        ("/", "layer_names", [WEIGHT], f"/{WEIGHT} is a dataset where a group was expected"),
        ("conv", "weight_names", ["../conv/conv/kernel:0"], "no path of names"),
        ("conv", "weight_names", ["/conv/conv/kernel:0"], "no path of names"),
        ("conv", "weight_names", ["conv//kernel:0"], "no path of names"),
        ("conv", "weight_names", ["./conv/kernel:0"], "no path of names"),
        ("conv", "weight_names", [""], "no path of names"),
        ("conv", "weight_names", ["conv/kernel:0", "conv/kernel:0"], "are both named conv/kernel"),
        ("/", "layer_names", ["conv", "conv"], "are both named conv/kernel"),
        ("/", "layer_names", 7, "holds integers where strings were expected"),
        ("/", "layer_names", np.ones(3), "holds floating-point numbers where strings were expected"),
        ("/", "layer_names", "conv", "attribute layer_names of the root group is no list of strings"),
        ("/", "layer_names", np.array([[b"conv"]]), "is no list of strings"),
        ("/", "layer_names", np.array([b"\xff\xfe"]), "text that is not UTF-8"),
        ("/", "keras_version", ["2", "3"], "attribute keras_version of the root group is no single string"),
        ("/", "backend", 3, "where strings were expected"),
        ("/", "denseport", "[1, 2]", "attribute denseport is no JSON object of strings"),
        ("/", "denseport", "{", "attribute denseport is no JSON object of strings"),
        ("/", "denseport", '{"a": 1}', "attribute denseport is no JSON object of strings"),
        ("/", "denseport", "[" * 50000, "attribute denseport is no JSON object of strings"),
        ("/", "tensor_names", ["conv/other"], "attribute tensor_names lists other tensors"),
        ("/", "tensor_names", ["conv/kernel", "conv/kernel"], "attribute tensor_names lists other tensors"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(tmp_path: Path, place: str, name: str, value: Any, reason: str) -> None:
    path = good(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file[place].attrs[name] = value
    refused(path, reason)


def test_a_layer_whose_list_of_weights_is_missing_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        del file["conv"].attrs["weight_names"]
    refused(path, "layer conv holds conv but has no attribute weight_names")


def test_a_full_model_without_its_list_of_layers_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("model_weights/conv")
    refused(tmp_path / "x.h5", "model_weights has no attribute layer_names")


def test_names_are_escaped_in_errors(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = ["\x1b[2J\n" + "x" * 10_000]
    with pytest.raises(FormatError) as error:
        legacy.read(path)
    assert "\\x1b[2J\\n" in str(error.value)
    assert len(str(error.value)) < 400


def string_reference(path: Path) -> tuple[bytes, bytes]:
    """What refers to `layer_names`' first string: its length, and the address and number that follow."""
    address = path.read_bytes().index(b"GCOL")
    return struct.pack("<I", len("conv")), struct.pack("<QI", address, 1)


@pytest.mark.parametrize("length", [0xF000_0000, 3, 5])
def test_a_string_whose_declared_length_is_not_the_stored_one_is_refused(tmp_path: Path, length: int) -> None:
    """The library allocates what is declared: nearly 4 GB for these four bytes."""
    path = good(tmp_path / "x.h5")
    size, place = string_reference(path)
    patch(path, size + place, struct.pack("<I", length))
    refused(path, f"declares a string of {length} bytes where 4 is stored")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ((2**40, 1), "lies outside the file"),
        ((0, 1), "where no strings are stored"),
        ((None, 999), "nothing is stored"),
    ],
)
def test_a_string_that_is_not_stored_is_refused(tmp_path: Path, place: tuple[int | None, int], reason: str) -> None:
    path = good(tmp_path / "x.h5")
    size, stored = string_reference(path)
    address = struct.unpack("<QI", stored)[0] if place[0] is None else place[0]
    patch(path, size + stored, struct.pack("<QI", address, place[1]), shift=4)
    refused(path, reason)


def test_many_references_to_one_long_string_are_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file.attrs["long"] = "x" * MEBIBYTE
        file["conv"].attrs["weight_names"] = np.array(["abcdefgh"] * 3000, dtype=h5py.string_dtype())
    data = path.read_bytes()
    reference = struct.pack("<IQI", MEBIBYTE, data.index(b"x" * 64) - 32, 1)
    assert data.count(reference) == 1
    short = re.compile(re.escape(struct.pack("<I", 8)) + b".{6}\0\0.{2}\0\0", re.DOTALL)
    collections = {struct.pack("<Q", found.start()) for found in re.finditer(b"GCOL", data)}
    changed = short.sub(lambda found: reference if found[0][4:12] in collections else found[0], data)
    assert changed.count(reference) == 3001
    path.write_bytes(changed)
    refused(path, "refer to each other again and again", most=64 * MEBIBYTE)


@pytest.mark.parametrize("count", [78, 2**40, 2**61])
def test_an_attribute_that_declares_more_strings_than_it_stores_is_refused(tmp_path: Path, count: int) -> None:
    path = good(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file["conv"].attrs["weight_names"] = np.array([b"conv/kernel:0"] * 77)
    patch(path, shape_of(77), shape_of(count), count=2)
    refused(path, f"declares {count} strings and stores 1008 bytes")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    for make in (good, good_weights):
        data = make(tmp_path / "whole.h5").read_bytes()
        path = tmp_path / "x.h5"
        for length in [*range(1, 100), *range(100, len(data), 61), len(data) - 1]:
            path.write_bytes(data[:length])
            refused(path, "truncated|is no HDF5 file|ends early")


@pytest.mark.parametrize("options", [{}, {"libver": "latest"}, {"userblock_size": 1024}])
def test_bytes_behind_the_end_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    """The library cuts a file to the end that it records, also where much of it was deleted again."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", **options) as file:
        file["layers/conv2d/vars/0"] = VALUES
        for number in range(20):
            file[f"more/{number}"] = np.zeros(1000)
    with h5py.File(path, "a") as file:
        del file["more"]
    assert len(read_all(path)) == 1
    path.write_bytes(path.read_bytes() + b"more")
    refused(path, "it goes on behind its end: [0-9]+ bytes were written, [0-9]+ are there")


def test_what_is_no_hdf5_file_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04", bytes(5000), b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n\x09" + bytes(90)):
        (tmp_path / "x.h5").write_bytes(data)
        refused(tmp_path / "x.h5", "is no HDF5 file|superblock|is empty")
    for path in (tmp_path / "gone.h5", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            legacy.read(path)


def test_a_file_that_its_writer_did_not_close_is_refused(tmp_path: Path) -> None:
    """A process that was killed while it wrote: HDF5 1.10 and later mark such a file."""
    with h5py.File(tmp_path / "open.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = ["conv"]
        file.flush()
        (tmp_path / "x.h5").write_bytes((tmp_path / "open.h5").read_bytes())
    refused(tmp_path / "x.h5", "was not closed by the program that wrote it")


def test_a_group_index_that_leads_back_to_itself_is_refused(tmp_path: Path) -> None:
    """This ends the process with a segmentation fault in HDF5 1.14 and 2.0."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["layer_5"]
        for index in range(600):
            file.create_group(f"layer_{index}")
    data = bytearray((tmp_path / "x.h5").read_bytes())
    (root,) = [at for at in range(len(data)) if data[at : at + 6] == b"TREE\0\1"]
    for child in range(int.from_bytes(data[root + 6 : root + 8], "little")):
        struct.pack_into("<Q", data, root + 32 + 16 * child, root)
    (tmp_path / "x.h5").write_bytes(data)
    refused(tmp_path / "x.h5", "has no index node")


def test_an_object_header_that_continues_in_itself_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    data = bytearray(path.read_bytes())
    root = int.from_bytes(data[64:72], "little")
    length = int.from_bytes(data[root + 8 : root + 12], "little")
    # The first message becomes one that says: go on at the first message.
    struct.pack_into("<HHB3xQQ", data, root + 16, 0x10, 16, 0, root + 16, length)
    path.write_bytes(data)
    refused(path, "refer to each other again and again", most=64 * MEBIBYTE)


def test_objects_that_are_not_where_they_should_be_are_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    data = path.read_bytes()
    for signature in (b"TREE", b"SNOD", b"HEAP"):
        path.write_bytes(data.replace(signature, b"XXXX"))
        refused(path, "has no (index node|symbols|names) at address")
    path.write_bytes(data[:64] + struct.pack("<Q", len(data) - 64) + data[72:])
    refused(path, "has no object header|ends early")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    for options in ({}, {"chunks": (3, 3, 2, 2)}):
        path = good(tmp_path / "x.h5", **options)
        with legacy.read(path) as checkpoint:
            path.write_bytes(path.read_bytes()[:1000])
            with pytest.raises(FormatError, match="became shorter while it was read"):
                checkpoint.tensors["conv/kernel"].read()
    file = File(good(tmp_path / "x.h5"))
    (tmp_path / "x.h5").write_bytes((tmp_path / "x.h5").read_bytes()[:100])
    with pytest.raises(FormatError, match="became shorter while it was read"):
        open_root(file)
    file.close()


def test_a_file_that_cannot_be_read_any_longer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with legacy.read(good(tmp_path / "x.h5")) as checkpoint:
        monkeypatch.setattr(os, "preadv", fails)
        with pytest.raises(FormatError, match=r"cannot be read \(Input/output error\)"):
            checkpoint.tensors["conv/kernel"].read()


def test_values_are_not_read_from_another_file_once_theirs_is_closed(tmp_path: Path) -> None:
    checkpoint = legacy.read(good(tmp_path / "x.h5"))
    checkpoint.close()
    with (tmp_path / "x.h5").open("rb"), pytest.raises(UsageError, match="is closed already"):
        checkpoint.tensors["conv/kernel"].read()


def test_a_file_is_closed_when_it_is_refused_or_forgotten(tmp_path: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return
    gc.collect()  # whatever earlier tests have left open
    before = len(list(folder.iterdir()))
    path = good(tmp_path / "x.h5")
    for _ in range(3):
        legacy.read(path)
        with legacy.read(path) as checkpoint:
            checkpoint.close()
    patch(path, b"SNOD", b"XXXX", count=path.read_bytes().count(b"SNOD"))
    for _ in range(3):
        with pytest.raises(FormatError):
            legacy.read(path)
    assert len(list(folder.iterdir())) == before


def message(kind: int, length: int, flags: int = 0) -> bytes:
    """How a message begins in an older object header, which has no checksum."""
    return struct.pack("<HHB3x", kind, length, flags)


def changed(path: Path, start: bytes, new: bytes, shift: int) -> Path:
    """Overwrites bytes `shift` after the last place where `start` stands."""
    data = bytearray(path.read_bytes())
    at = data.rindex(start) + shift
    data[at : at + len(new)] = new
    path.write_bytes(data)
    return path


def resealed(path: Path, at: int, length: int, new: bytes, shift: int) -> Path:
    """Overwrites bytes of a newer structure, and puts its checksum right, which follows `length` bytes after `at`."""
    data = bytearray(path.read_bytes())
    data[at + shift : at + shift + len(new)] = new
    struct.pack_into("<I", data, at + length, lookup3(bytes(data[at : at + length])))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("options", "start", "new", "shift", "reason"),
    [
        ({}, b"weight_names\0", b"\x09", -8, "has an attribute of version 9"),
        ({}, message(0x01, 72), b"\x09", 8, "has a shape of version 9"),
        ({}, message(0x01, 72), b"\x01\x21", 8, "has a shape of version 1 and 33 sides"),
        ({}, message(0x03, 24, 1), b"\x0f", 8, "has a datatype of class 15"),
        ({}, message(0x03, 24, 1), bytes(4), 12, "has a datatype of class 1 and 0 bytes"),
        ({}, message(0x03, 24, 1), b"\x61", 9, "holds floating-point numbers of 4 bytes, no weights"),
        ({}, message(0x03, 24, 1), struct.pack("<H", 31), 18, "holds floating-point numbers of 4 bytes, no weights"),
        ({}, message(0x08, 24), b"\x09", 8, "has a layout of version 9"),
        ({}, message(0x08, 24), b"\x07", 9, "has an unknown storage class, 7"),
        ({}, message(0x08, 24), struct.pack("<Q", 145), 18, "needs 144 bytes and 145 are stored"),
        ({}, message(0x08, 24), b"\x07", 0, "is neither a group nor a dataset"),
        ({}, message(0x01, 72), b"\x13", 0, "has no dataspace"),
        ({}, message(0x05, 8, 1), b"\x01", 0, "has 2 messages of kind dataspace"),
        ({"shuffle": True}, struct.pack("<HHHH", 2, 8, 1, 1), b"\x09", -8, "has filters of version 9"),
        ({"shuffle": True}, struct.pack("<HHHH", 2, 8, 1, 1), b"\xff\xff", 6, "ends early"),
    ],
)
def test_messages_of_unknown_kinds_are_refused(
    tmp_path: Path, options: dict[str, Any], start: bytes, new: bytes, shift: int, reason: str
) -> None:
    path = good(tmp_path / "x.h5", **({"chunks": (3, 3, 2, 2)} if options else {}), **options)
    refused(changed(path, start, new, shift), reason)


def test_a_link_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    legacy.write({"conv/kernel": Tensor.of(VALUES)}, {}, tmp_path / "x.h5")
    refused(changed(tmp_path / "x.h5", message(0x06, 32), b"\x09", 8), "has a link of version 9")


@pytest.mark.parametrize("offset", [2**40, 87])
def test_a_link_whose_name_is_not_in_the_heap_is_refused(tmp_path: Path, offset: int) -> None:
    path = good(tmp_path / "x.h5")
    data = path.read_bytes()
    heap = struct.unpack_from("<Q", data, data.rindex(b"HEAP") + 24)[0]
    path.write_bytes(data[: heap + 87] + b"x" + data[heap + 88 :])
    refused(changed(path, b"SNOD", struct.pack("<Q", offset), 8), "a link whose name lies outside its heap")


def test_two_attributes_or_links_of_one_name_are_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file["conv"].attrs["weight_namez"] = 1
    refused(patch(path, b"weight_namez", b"weight_names"), "has two attributes of one name")
    path = good(tmp_path / "y.h5")
    with h5py.File(path, "a") as file:
        file.create_group("conw")
    refused(patch(path, b"conw\0", b"conv\0"), "has two links of one name")


def test_a_string_that_is_not_referred_to_as_it_should_be_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    kind = bytes.fromhex("1901010010000000")
    data = path.read_bytes()
    path.write_bytes(data.replace(kind, kind[:4] + struct.pack("<I", 8)))
    assert path.read_bytes() != data
    refused(path, "refers to its strings by 8 bytes")


def test_an_attribute_of_a_named_datatype_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file["type"] = np.dtype("S4")
        file.attrs.create("layer_names", np.array([b"conv"]), dtype=file["type"])
    refused(path, "attribute layer_names of the root group has a named datatype")


def newer(path: Path, **options: Any) -> Path:
    """A legacy file in the newer structures of HDF5, which end in checksums."""
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["layer_names"] = ["conv"]
        group = file.create_group("conv")
        group.attrs["weight_names"] = ["kernel"]
        group.create_dataset("kernel", **{"data": np.arange(64, dtype="f4").reshape(32, 2), **options})
    return path


def test_chunks_that_may_grow_in_number_are_refused_in_the_newer_format(tmp_path: Path) -> None:
    refused(newer(tmp_path / "x.h5", chunks=(4, 2), maxshape=(None, 2)), "has chunks that may grow in number")


def test_chunks_of_which_some_are_unfiltered_are_refused(tmp_path: Path) -> None:
    path = newer(tmp_path / "x.h5", chunks=(5, 2), compression="gzip")
    data = path.read_bytes()
    at = data.index(bytes((4, 2, 0, 3, 1, 5, 2, 4)))
    header = data.rindex(b"OHDR", 0, at)
    length = at - header
    while lookup3(data[header : header + length]) != struct.unpack_from("<I", data, header + length)[0]:
        length += 1
    refused(resealed(path, header, length, b"\x01", at + 2 - header), "leaves chunks at its edges unfiltered")


@pytest.mark.parametrize(
    ("signature", "length", "new", "shift", "reason"),
    [
        (b"FAHD", 24, b"XXXX", 0, "has no chunk index at address"),
        (b"FAHD", 24, b"\x01", 5, "has no chunk index at address"),
        (b"FAHD", 24, b"\x04", 6, "has a chunk index of entries of 4 bytes"),
        (b"FAHD", 24, b"\x09", 7, "has no chunk index at address"),
        (b"FAHD", 24, struct.pack("<Q", 2**60), 8, "has no chunk index at address"),
        (b"FAHD", 24, struct.pack("<Q", 3), 8, "has a wrong checksum"),
        (b"FADB", 14 + 8 * 8, b"XXXX", 0, "has no chunk index at address"),
        (b"FADB", 14 + 8 * 8, struct.pack("<Q", 2**63), 14, "has a chunk that is not stored"),
        (b"FADB", 14 + 8 * 8, b"\xff" * 8, 14, "has a chunk that is not stored"),
    ],
)
def test_a_broken_array_of_chunks_is_refused(
    tmp_path: Path, signature: bytes, length: int, new: bytes, shift: int, reason: str
) -> None:
    path = newer(tmp_path / "x.h5", chunks=(4, 2))
    assert len(read_all(path)) == 1
    refused(resealed(path, path.read_bytes().index(signature), length, new, shift), reason)


@pytest.mark.parametrize(
    ("signature", "length", "new", "shift", "reason"),
    [
        (b"BTHD", 34, b"XXXX", 0, "has no index at address"),
        (b"BTHD", 34, b"\x05", 5, "has no index at address"),
        (b"BTHD", 34, bytes(2), 10, "has no index at address"),
        (b"BTHD", 34, struct.pack("<H", 60000), 12, "has no index at address"),
        (b"BTHD", 34, struct.pack("<H", 60000), 24, "has an index node of 60000 records"),
        (b"BTLF", 0, b"XXXX", 0, "has a wrong checksum"),
    ],
)
def test_a_broken_tree_of_chunks_is_refused(
    tmp_path: Path, signature: bytes, length: int, new: bytes, shift: int, reason: str
) -> None:
    path = newer(tmp_path / "x.h5", chunks=(4, 1), maxshape=(None, None))
    assert len(read_all(path)) == 1
    at = path.read_bytes().index(signature)
    if signature == b"BTLF":
        length = 6 + 16 * 24
        refused(resealed(path, at, length, new, shift), "has no index node")
    else:
        refused(resealed(path, at, length, new, shift), reason)


@pytest.mark.parametrize(
    ("new", "shift", "reason"),
    [
        (b"XXXX", 0, "has no heap at address"),
        (struct.pack("<H", 5), 7, "has a compressed heap"),
        (struct.pack("<H", 0), 110, "has no heap at address"),
        (struct.pack("<Q", 0), 112, "has no heap at address"),
        (struct.pack("<Q", 2**60), 132, "lies outside the file"),
        (struct.pack("<H", 0), 140, "ends early|has a link of version|lies outside|not UTF-8|two links"),
    ],
)
def test_a_broken_heap_of_links_is_refused(tmp_path: Path, new: bytes, shift: int, reason: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = ["layer_0"]
        for index in range(200):
            file.create_group(f"layer_{index}").attrs["weight_names"] = np.zeros(0)
    path = tmp_path / "x.h5"
    assert read_all(path) == {}
    refused(resealed(path, path.read_bytes().index(b"FRHP"), 142, new, shift), reason)


def test_an_object_outside_its_heap_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = ["layer_0"]
        for index in range(200):
            file.create_group(f"layer_{index}").attrs["weight_names"] = np.zeros(0)
    path = tmp_path / "x.h5"
    data = path.read_bytes()
    leaf = data.index(b"BTLF")
    count = 0
    while lookup3(data[leaf : leaf + 6 + 11 * count]) != struct.unpack_from("<I", data, leaf + 6 + 11 * count)[0]:
        count += 1
    # The identifier of the first link: its kind, its offset in four bytes, its length in two.
    refused(resealed(path, leaf, 6 + 11 * count, b"\xff\xff\xff\x7f", 11), "has an object outside its heap")


def test_a_broken_continuation_of_a_newer_object_header_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = ["conv"]
        file.create_group("conv").attrs["weight_names"] = np.zeros(0)
        for index in range(7):
            file["conv"].attrs[f"more_{index}"] = "x" * 300
    path = tmp_path / "x.h5"
    data = path.read_bytes()
    at = data.index(b"OCHK")
    length = 4
    while lookup3(data[at : at + length]) != struct.unpack_from("<I", data, at + length)[0]:
        length += 1
    refused(resealed(path, at, length, b"OCHX", 0), "continues where there is no continuation")


def test_unusual_widths_of_addresses_are_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "x.h5")
    data = path.read_bytes()
    path.write_bytes(data[:13] + b"\x04" + data[14:])
    refused(path, "addresses of 4 and sizes of 8 bytes")


def several(folder: Path) -> list[bytes]:
    """Small valid files of every kind: ours, and the same in older, newer, compressed and ordered structures."""
    tensors = {}
    for index in range(4):
        tensors[f"c{index}/kernel"] = Tensor.of(VALUES + index)
        tensors[f"c{index}/bias"] = Tensor.of(np.arange(2, dtype="f4"))
    legacy.write(tensors, {"a": "b"}, folder / "0.h5")
    weights.write(tensors, {"a": "b"}, folder / "1.h5")
    variants: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("0.h5", {}, {}),
        ("1.h5", {}, {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True}),
        ("0.h5", {"libver": "latest", "track_order": True}, {}),
        ("1.h5", {"libver": "latest"}, {"compression": "gzip"}),
    ]
    for number, (source, options, storage) in enumerate(variants, 2):
        with h5py.File(folder / source) as old, h5py.File(folder / f"{number}.h5", "w", **options) as new:

            def copy(name: str, item: Any, new: h5py.File = new, storage: dict[str, Any] = storage) -> None:
                if isinstance(item, h5py.Dataset):
                    new.create_dataset(name, data=item[()], **storage)
                for key, value in item.attrs.items():
                    texts = [each.decode() for each in value] if isinstance(value, np.ndarray) else value
                    new.require_group(name).attrs[key] = texts

            copy("/", old)
            old.visititems(copy)
    return [(folder / f"{number}.h5").read_bytes() for number in range(2 + len(variants))]


def damaged(data: bytes, chance: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at = chance.randrange(len(result))
        number = chance.choice([0, 2**64 - 1, 2**31, chance.randrange(len(result)), chance.randrange(2**64)])
        width = chance.choice([1, 2, 4, 8])
        result[at : at + width] = number.to_bytes(8, "little")[:width]
    return bytes(result[: len(data)])


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_gives_an_error_or_a_checkpoint(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    files = several(tmp_path)
    path = tmp_path / "x.h5"
    read = broken = 0
    begun = time.monotonic()
    for data in files:
        path.write_bytes(data)
        assert len(read_all(path)) == 8
        for _ in range(40):
            path.write_bytes(damaged(data, chance))
            try:
                read_all(path)
                read += 1
            except FormatError:
                broken += 1
    assert time.monotonic() - begun < 60
    assert read > 20
    assert broken > 60


def damage_to_checksum(check: Callable[[bytes], Any]) -> bool:
    data = bytes(range(256)) * 3
    return len({check(data[:length]) for length in range(40)}) == 40


def test_the_checksums_are_those_of_the_library() -> None:
    """`lookup3` by the values that its author publishes; fletcher32 by the files of h5py in the tests above."""
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551
    assert damage_to_checksum(lookup3)
    assert is_fletcher32(b"\0\1\0\2", 0x0004_0003)
    assert not is_fletcher32(b"\0\1\0\2", 0x0004_0004)
    assert not is_fletcher32(b"\0\1\0\2", 0x0003_0003)
    assert is_fletcher32(b"\1", 0x0100_0100)
