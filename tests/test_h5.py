"""HDF5 files of Keras: every container that keras and tf_keras write is read, and they load what is written here."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from denseport import formats
from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError
from denseport.formats.hdf5 import writer
from denseport.formats.keras import legacy

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "real" / "titu1994-densenet-fast-40-12-cifar10.h5"
DTYPES = ["<f2", "<f4", "<f8", "?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8"]
NETS = ["plain", "ranks", "densenet", "nested"]


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def saved(request, script: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder of files that a framework wrote, and of ours that it loaded: see tests/scripts/keras_files.py."""
    folder = tmp_path_factory.mktemp(request.param)
    script("keras_files", folder, KERAS=request.param, PYTHONPATH=str(ROOT))
    return request.param, folder


def values(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Every tensor's values, which must be as announced."""
    with checkpoint:
        found = {name: tensor.read() for name, tensor in checkpoint.tensors.items()}
    for name, array in found.items():
        assert (array.dtype, array.shape) == (checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape)
    return found


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether names, dtypes, shapes and bits are equal, whatever the order of the names."""
    return found.keys() == expected.keys() and all(
        (found[name].dtype, found[name].shape, found[name].tobytes())
        == (expected[name].dtype, expected[name].shape, expected[name].tobytes())
        for name in found
    )


def keras_file(path: Path, layers: dict[str, dict[str, Any]], **attributes: Any) -> Path:
    """A legacy file as Keras writes it: `{layer: {weight name: values}}`."""
    with h5py.File(path, "w") as file:
        fill(file, layers, **attributes)
    return path


def fill(tree: h5py.Group, layers: dict[str, dict[str, Any]], **attributes: Any) -> None:
    tree.attrs["layer_names"] = list(layers)
    for name, value in attributes.items():
        tree.attrs[name] = value
    for layer, weights in layers.items():
        group = tree.require_group(layer)
        group.attrs["weight_names"] = list(weights)
        for weight, array in weights.items():
            group.create_dataset(weight, data=array)


def numbered(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [np.arange(np.prod(shape), dtype="f4").reshape(shape) + 100 * index for index, shape in enumerate(shapes)]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("container", ["{}.h5", "{}-weights.h5"])
def test_legacy_files_of_the_frameworks_are_read(saved: tuple[str, Path], net: str, container: str) -> None:
    framework, folder = saved
    checkpoint = legacy.read(folder / container.format(net))
    whole = container == "{}.h5"
    assert same(values(checkpoint), dict(np.load(folder / f"{net}.npz")))
    assert checkpoint.container.startswith("Keras 3 legacy h5 (keras 3." if framework == "keras" else "Keras 2 legacy")
    assert checkpoint.container.endswith(", tensorflow)")
    assert checkpoint.wrapper == ("model_weights" if whole else "")
    training = ("optimizer_weights", "model_config", "training_config") if net == "plain" else ("model_config",)
    assert checkpoint.others == (training if whole else ())
    assert not checkpoint.nameless
    assert checkpoint.metadata == {}
    assert (checkpoint.format, checkpoint.path) == ("h5", folder / container.format(net))


@pytest.mark.parametrize("net", ["plain", "ranks", "densenet"])
def test_the_order_is_that_of_the_layers(saved: tuple[str, Path], net: str) -> None:
    _, folder = saved
    assert list(legacy.read(folder / f"{net}.h5").tensors) == list(np.load(folder / f"{net}.npz"))


@pytest.mark.parametrize("net", ["plain", "ranks", "densenet"])
def test_the_frameworks_load_what_is_written(saved: tuple[str, Path], net: str) -> None:
    _, folder = saved
    theirs, loaded = np.load(folder / f"{net}.npz"), np.load(folder / f"ours-{net}.npz")
    assert same(dict(loaded), {name: -theirs[name] for name in theirs})


@pytest.mark.parametrize("net", NETS)
def test_weights_h5_files_of_the_frameworks_are_read(saved: tuple[str, Path], net: str) -> None:
    framework, folder = saved
    checkpoint = legacy.read(folder / f"{net}.weights.h5")
    expected = dict(np.load(folder / f"{net}.npz"))
    found = values(checkpoint)
    assert checkpoint.nameless == (framework == "tf_keras")
    assert checkpoint.wrapper == ""
    state = {"keras": ("optimizer",), "tf_keras": ("metrics", "optimizer")}[framework]
    assert checkpoint.others == (state if net == "plain" else ())
    if framework == "keras":
        assert checkpoint.container == "Keras 3 .weights.h5"
        assert same(found, expected)
    else:
        assert checkpoint.container == "Keras 3 .weights.h5 without layer names"
        assert same(found, counted(expected))


def counted(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays by class and number, in the order of the layers."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in named.items():
        layer, _, variable = name.rpartition("/")
        layers.setdefault(layer, {})[variable] = array
    counts: dict[str, int] = {}
    result = {}
    for variables in layers.values():
        rank = variables["kernel"].ndim if "kernel" in variables else 0
        kind = {0: "batch_normalization", 2: "dense", 3: "conv1d", 4: "conv2d", 5: "conv3d"}[rank]
        number = counts[kind] = counts.get(kind, -1) + 1
        for variable, array in variables.items():
            result[f"{kind}_{number}/{variable}" if number else f"{kind}/{variable}"] = array
    return result


@pytest.mark.parametrize("net", ["plain", "ranks", "densenet"])
def test_keras_loads_the_weights_h5_that_are_written(saved: tuple[str, Path], net: str) -> None:
    framework, folder = saved
    if framework == "tf_keras":
        return
    theirs, loaded = np.load(folder / f"{net}.npz"), np.load(folder / f"ours-{net}.weights.npz")
    assert same(dict(loaded), {name: -theirs[name] for name in theirs})


def test_bfloat16_comes_from_keras_and_goes_back(saved: tuple[str, Path]) -> None:
    framework, folder = saved
    if framework == "tf_keras":
        return
    expected = dict(np.load(folder / "bfloat16.npz"))
    found = values(legacy.read(folder / "bfloat16.weights.h5"))
    assert {array.dtype for array in found.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert same({name: array.astype("f4") for name, array in found.items()}, expected)
    assert same(dict(np.load(folder / "ours-bfloat16.npz")), expected)


@pytest.mark.skipif(not REAL.exists(), reason="the folder of real files, ../shared/real, is not here")
def test_a_real_file_of_keras_1_is_read() -> None:
    checkpoint = legacy.read(REAL)
    assert checkpoint.container == "Keras 1 legacy h5"
    names = list(checkpoint.tensors)
    assert names[:3] == ["initial_conv2D_W", "batchnormalization_1_gamma", "batchnormalization_1_beta"]
    assert names[-2:] == ["dense_1_W", "dense_1_b"]
    found = values(checkpoint)
    assert found["initial_conv2D_W"].shape == (16, 3, 3, 3)
    with h5py.File(REAL) as file:
        arrays = {name: group[name][()] for group in file.values() for name in group.attrs["weight_names"].astype(str)}
    assert same(found, arrays)


def test_keras_1_names_stay_as_they_are(tmp_path: Path) -> None:
    (kernel, bias, std) = numbered((4, 3, 3, 3), (4,), (4,))
    path = keras_file(
        tmp_path / "x.h5",
        {
            "convolution2d_54": {"convolution2d_54_W": kernel, "convolution2d_54_b": bias},
            "activation_1": {},
            "batchnormalization_1": {"batchnormalization_1_running_std": std},
        },
    )
    with h5py.File(path, "a") as file:
        # The Python of those days wrote an empty list as one of numbers.
        file["activation_1"].attrs["weight_names"] = np.zeros(0)
    checkpoint = legacy.read(path)
    assert checkpoint.container == "Keras 1 legacy h5"
    expected = [kernel, bias, std]
    names = ["convolution2d_54_W", "convolution2d_54_b", "batchnormalization_1_running_std"]
    assert same(values(checkpoint), dict(zip(names, expected, strict=True)))


@pytest.mark.parametrize(
    ("layer", "weights", "version", "expected"),
    [
        ("out", ["out_2/kernel:0", "out_2/bias:0"], "2.1.0", ["out/kernel", "out/bias"]),
        ("bn", ["sequential/bn/gamma", "sequential/bn/beta"], "3.5.0", ["bn/gamma", "bn/beta"]),
        ("conv1/bn", ["conv1/bn/gamma:0", "conv1/bn/beta:0"], "2.15.0", ["conv1/bn/gamma", "conv1/bn/beta"]),
        ("body", ["conv1/conv/kernel:0", "conv1/bn/beta:0"], "2.15.0", ["conv1/conv/kernel", "conv1/bn/beta"]),
        ("body", ["body/a/kernel:0", "body/b/kernel:0"], "2.15.0", ["a/kernel", "b/kernel"]),
        ("body", ["outer/body/a/kernel", "b/kernel"], "3.0.0", ["a/kernel", "b/kernel"]),
        ("body", ["x/a/kernel", "y/a/kernel"], "3.0.0", ["x/a/kernel", "y/a/kernel"]),
        ("scale", ["scale_gamma:0", "scale_beta:0"], "2.0.0", ["scale_gamma", "scale_beta"]),
    ],
)
def test_the_layer_is_the_group_or_the_inner_layer_of_a_nested_model(
    tmp_path: Path, layer: str, weights: list[str], version: str, expected: list[str]
) -> None:
    arrays = numbered((3,), (3,))
    path = keras_file(tmp_path / "x.h5", {layer: dict(zip(weights, arrays, strict=True))}, keras_version=version)
    found = values(legacy.read(path))
    assert list(found) == expected
    assert same(found, dict(zip(expected, arrays, strict=True)))


def test_one_name_for_two_tensors_is_refused_with_both_places(tmp_path: Path) -> None:
    (a, b) = numbered((2,), (2,))
    body = {"c/kernel:0": a, "d/kernel:0": a}
    path = keras_file(
        tmp_path / "x.h5", {"one": body, "two": {"c/kernel:0": b, "e/kernel:0": b}}, keras_version="2.15.0"
    )
    with pytest.raises(FormatError, match="/one/c/kernel:0 and /two/c/kernel:0 are both named c/kernel"):
        legacy.read(path)


def test_weights_of_the_model_itself_are_read(tmp_path: Path) -> None:
    (a, b) = numbered((2,), (3,))
    path = keras_file(tmp_path / "x.h5", {"d": {"m/d/kernel:0": a}})
    with h5py.File(path, "a") as file:
        group = file.create_group("top_level_model_weights")
        group.attrs["weight_names"] = ["m/token:0"]
        group["m/token:0"] = b
    assert same(values(legacy.read(path)), {"d/kernel": a, "m/token": b})


def test_lists_in_pieces_are_joined(tmp_path: Path) -> None:
    layers = {f"layer_{index}": {f"layer_{index}/kernel:0": np.full(2, index, "f4")} for index in range(25)}
    path = keras_file(tmp_path / "x.h5", layers)
    with h5py.File(path, "a") as file:
        del file.attrs["layer_names"]
        for piece, names in enumerate(np.array_split(np.array(list(layers), "S"), 12)):
            file.attrs[f"layer_names{piece}"] = names
        del file["layer_3"].attrs["weight_names"]
        file["layer_3"].attrs["weight_names0"] = np.array([b"layer_3/kernel:0"])
    assert list(legacy.read(path).tensors) == [f"layer_{index}/kernel" for index in range(25)]


@pytest.mark.parametrize(
    "encoded",
    [
        lambda names: np.array([name.encode() for name in names]),
        lambda names: np.array(names, dtype=h5py.string_dtype()),
        lambda names: np.array([name.encode() for name in names], dtype=h5py.string_dtype("ascii")),
        lambda names: np.array([name.encode() for name in names], dtype=h5py.string_dtype("utf-8", 40)),
    ],
    ids=["fixed", "variable", "variable ascii", "fixed utf-8"],
)
def test_names_may_be_stored_in_any_kind_of_string(tmp_path: Path, encoded: Callable[[list[str]], np.ndarray]) -> None:
    (array,) = numbered((2,))
    path = keras_file(tmp_path / "x.h5", {"ä conv": {"ä conv/kernel:0": array}, "b": {}})
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = encoded(["ä conv", "b"])
        file["ä conv"].attrs["weight_names"] = encoded(["ä conv/kernel:0"])
    assert same(values(legacy.read(path)), {"ä conv/kernel": array})


@pytest.mark.parametrize("libver", ["earliest", ("v108", "v108"), ("v110", "v110"), "latest"])
@pytest.mark.parametrize("track_order", [False, True])
@pytest.mark.parametrize("userblock", [0, 512])
def test_every_kind_of_dataset_and_version_of_hdf5_is_read(
    tmp_path: Path, libver: Any, track_order: bool, userblock: int
) -> None:
    random = np.random.default_rng(5)
    kinds = ["<f4", ">f4", "<f2", ">f2", "<f8", ">f8", ">i8", "<u2", "i1", "?"]
    storages: list[dict[str, Any]] = [
        {},
        {"chunks": (4, 2)},
        {"chunks": (5, 7), "compression": "gzip"},
        {"chunks": (2, 3), "compression": 9, "shuffle": True, "fletcher32": True},
        {
            "chunks": (4, 3),
            "shuffle": True,
            "maxshape": (5, 7) if libver in ("latest", ("v110", "v110")) else (None, 7),
        },
        {"chunks": (5, 4), "compression": 1, "maxshape": (None, None)},
        {"chunks": (1, 1), "fletcher32": True},
        {"chunks": (5, 7), "compression": "lzf"},
        {"chunks": (4, 4), "compression": "lzf", "shuffle": True, "fletcher32": True},
    ]
    expected = {}
    with h5py.File(tmp_path / "x.h5", "w", libver=libver, userblock_size=userblock, track_order=track_order) as file:
        fill(file, {}, **{f"attribute {index}": "x" * index for index in range(12)})
        names = []
        for kind in kinds:
            for index, options in enumerate(storages):
                array = (random.standard_normal((5, 7)) * 50).astype(kind)
                name = f"{np.dtype(kind).name}{kind[0] == '>'}{index}"
                group = file.create_group(name)
                group.attrs["weight_names"] = [f"{name}/kernel"]
                group.create_dataset(f"{name}/kernel", data=array, **options)
                expected[f"{name}/kernel"] = array.astype(array.dtype.newbyteorder("="))
                names.append(name)
        for name, array in {"scalar": np.float32(3), "empty": np.zeros((0, 4), "f4")}.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel"]
            group.create_dataset(f"{name}/kernel", data=array)
            expected[f"{name}/kernel"] = np.asarray(array)
            names.append(name)
        file.attrs["layer_names"] = names
    found = values(formats.read(tmp_path / "x.h5"))
    assert list(found) == list(expected)
    assert same(found, expected)


@pytest.mark.parametrize("size", [512, 4096, 1 << 16])
@pytest.mark.parametrize("start", [b"", b"#!/bin/sh\n", b"\0" * 100])
def test_a_user_block_of_any_size_and_content_is_passed_over(tmp_path: Path, size: int, start: bytes) -> None:
    (array,) = numbered((2, 3))
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=size) as file:
        fill(file, {"a": {"a/kernel": array}})
    with (tmp_path / "x.h5").open("r+b") as raw:
        raw.write(start)
    assert formats.sniff(tmp_path / "x.h5") == "h5"
    assert same(values(formats.read(tmp_path / "x.h5")), {"a/kernel": array})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 600)), min_size=1, max_size=40), st.booleans())
def test_lzf_is_undone_as_h5py_does_it(tmp_path_factory, runs: list[tuple[int, int]], shuffle: bool) -> None:
    """Runs of a byte repeat what they make; runs that occur again are far apart."""
    data = b"".join(bytes([value, value ^ length & 3]) * length for value, length in runs * 2)
    path = tmp_path_factory.mktemp("lzf") / "x.h5"
    array = np.frombuffer(data, "u1")
    with h5py.File(path, "w") as file:
        fill(file, {"a": {}})
        file["a"].attrs["weight_names"] = ["a/kernel"]
        file.create_dataset("a/a/kernel", data=array, chunks=array.shape, compression="lzf", shuffle=shuffle)
    assert same(values(legacy.read(path)), {"a/kernel": array})


@pytest.mark.parametrize("compression", [h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF])
def test_a_checksum_may_have_been_added_before_compressing(tmp_path: Path, compression: int) -> None:
    array = np.repeat(np.arange(8, dtype="f4"), 8)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk(array.shape)
    layout.set_fletcher32()
    layout.set_filter(compression, h5py.h5z.FLAG_OPTIONAL, (4,) if compression == h5py.h5z.FILTER_DEFLATE else ())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        fill(file, {"a": {}})
        file["a"].attrs["weight_names"] = ["kernel"]
        space = h5py.h5s.create_simple(array.shape)
        dataset = h5py.h5d.create(file["a"].id, b"kernel", h5py.h5t.IEEE_F32LE, space, layout)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)
        assert dataset.get_chunk_info(0).filter_mask == 0
    assert same(values(legacy.read(tmp_path / "x.h5")), {"kernel": array})


def test_a_chunk_index_of_several_pages_is_read(tmp_path: Path) -> None:
    """HDF5 1.10 cuts the index of a dataset of over 1,024 chunks into pages."""
    array = np.arange(2600, dtype="f4").reshape(1300, 2)
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        fill(file, {"a": {}, "b": {}})
        for layer, options in {"a": {"chunks": (1, 2)}, "b": {"chunks": (1, 2), "compression": "gzip"}}.items():
            file[layer].attrs["weight_names"] = [f"{layer}/kernel"]
            file[layer].create_dataset(f"{layer}/kernel", data=array, **options)
    assert same(values(legacy.read(tmp_path / "x.h5")), {"a/kernel": array, "b/kernel": array})


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("storage", ["contiguous", "chunked", "compact"])
def test_datasets_of_hdf5_before_1_6_are_read(tmp_path: Path, version: int, storage: str) -> None:
    """No library writes them today: the message that says where the values are is put into its old form."""
    array = np.arange(3, dtype="f4")
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_obj_track_times(False)
    layout.set_layout(getattr(h5py.h5d, storage.upper()))
    if storage == "chunked":
        layout.set_chunk((2,))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        fill(file, {"a": {}})
        file["a"].attrs["weight_names"] = ["a/kernel"]
        file["a"].create_group("a")
        space, kind = h5py.h5s.create_simple((3,)), h5py.h5t.IEEE_F32LE
        h5py.h5d.create(file["a/a"].id, b"kernel", kind, space, layout).write(h5py.h5s.ALL, h5py.h5s.ALL, array)
    data = bytearray((tmp_path / "x.h5").read_bytes())
    number = {"compact": 0, "contiguous": 1, "chunked": 2}[storage]
    length = 16 if storage == "compact" else 24
    # The last message of kind 8 with this length, version 3 and this class of storage.
    at = max(data.rfind(struct.pack("<HHB3xBB", 8, length, flags, 3, number)) for flags in (0, 1))
    assert at >= 0
    address = data[at + 10 : at + 18] if storage == "contiguous" else data[at + 11 : at + 19]
    rest = {
        "contiguous": address + struct.pack("<I", 3),
        "chunked": address + struct.pack("<II", 2, 4),
        "compact": struct.pack("<II", 3, 12) + array.tobytes(),
    }[storage]
    old = struct.pack("<BBB5x", version, 2 if storage == "chunked" else 1, number) + rest
    old += bytes(-len(old) % 8)
    # What it is longer is taken from the empty message behind it, which fills the header up.
    empty, room = struct.unpack_from("<HH", data, at + 8 + length)
    assert empty == 0
    struct.pack_into("<H", data, at + 2, len(old))
    struct.pack_into("<HHB3x", data, at + 8 + len(old), 0, room - (len(old) - length), 0)
    data[at + 8 : at + 8 + len(old)] = old
    (tmp_path / "x.h5").write_bytes(data)
    assert same(values(legacy.read(tmp_path / "x.h5")), {"a/kernel": array})


def test_groups_of_many_layers_are_read(tmp_path: Path) -> None:
    """Enough of them for trees of two levels, in the older kind of group and in the newer."""
    layers = {f"layer_{index}": {f"layer_{index}/kernel:0": np.full(1, index, "f4")} for index in range(1300)}
    expected = {f"layer_{index}/kernel": np.full(1, index, "f4") for index in range(1300)}
    for libver in ("earliest", "latest"):
        with h5py.File(tmp_path / "x.h5", "w", libver=libver) as file:
            fill(file, layers)
        assert same(values(legacy.read(tmp_path / "x.h5")), expected)


def test_bfloat16_of_a_legacy_file_of_keras_3_is_refused_since_nothing_says_that_it_is(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "x.h5", {"c": {"c/kernel": np.ones(2, ml_dtypes.bfloat16)}})
    with pytest.raises(FormatError, match=r"/c/c/kernel holds raw 16-bit values.*\.weights\.h5"):
        legacy.read(path)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda part: part not in {".", ".."} and not part.endswith(":0")
)
tensors = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays_of.arrays(np.dtype(dtype), arrays_of.array_shapes(min_dims=0, min_side=0, max_side=5))
)


@settings(max_examples=80, deadline=None)
@given(
    arrays=st.dictionaries(st.lists(names, min_size=1, max_size=3).map("/".join), tensors, max_size=8),
    metadata=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
)
def test_what_is_written_is_read_back_in_order_and_bit_by_bit(tmp_path_factory, arrays, metadata) -> None:
    path = tmp_path_factory.mktemp("h5") / "x.h5"
    try:
        legacy.write({name: Tensor.of(array) for name, array in arrays.items()}, metadata, path)
    except FormatError:
        # One name may need a group where another needs a dataset; tested below.
        assume(False)
    checkpoint = legacy.read(path)
    assert checkpoint.metadata == metadata
    assert list(checkpoint.tensors) == list(arrays)
    assert same(values(checkpoint), arrays)
    assert same(by_the_library(path), arrays)


def by_the_library(path: Path) -> dict[str, np.ndarray]:
    """What h5py finds where Keras looks for it."""
    with h5py.File(path) as file:
        groups = [file[layer.decode()] for layer in file.attrs.get("layer_names", [])]
        return {
            name.decode(): np.asarray(group[name.decode()]) for group in groups for name in group.attrs["weight_names"]
        }


@pytest.mark.parametrize(
    "order",
    [
        ["a/kernel", "b/gamma", "a/bias", "b/beta"],
        ["features.conv0.weight", "features.norm0.weight", "features.norm0.bias", "classifier.weight"],
        ["conv1/conv/kernel", "conv1/bn/gamma", "conv1/bn/beta", "conv1/gamma"],
        ["W", "a.b", "a/c"],
        [],
    ],
)
def test_the_order_of_the_tensors_is_kept(tmp_path: Path, order: list[str]) -> None:
    arrays = dict(zip(order, numbered(*[(2,)] * len(order)), strict=True))
    legacy.write({name: Tensor.of(array) for name, array in arrays.items()}, {}, tmp_path / "x.h5")
    found = values(legacy.read(tmp_path / "x.h5"))
    assert list(found) == order
    assert same(found, arrays)


def test_the_file_is_laid_out_as_keras_does_it(tmp_path: Path) -> None:
    tensor = Tensor.of(np.ones((2, 3), "f4").T)
    names = ["features.conv0.weight", "conv1/bn/gamma", "conv1/bn/beta"]
    legacy.write(dict.fromkeys(names, tensor), {"layout": "test"}, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert list(file.attrs["layer_names"]) == [b"features.conv0", b"conv1/bn"]
        assert file.attrs["backend"] == "tensorflow"
        assert file.attrs["keras_version"] == "3.0.0"
        assert file.attrs["denseport"] == '{"layout": "test"}'
        assert list(file["conv1/bn"].attrs["weight_names"]) == [b"conv1/bn/gamma", b"conv1/bn/beta"]
        assert np.array_equal(file["conv1/bn/conv1/bn/beta"], np.ones((3, 2)))
        assert file["features.conv0/features.conv0.weight"].shape == (3, 2)


def test_long_lists_are_cut_in_pieces_and_metadata_may_be_long(tmp_path: Path) -> None:
    arrays = {f"{'a long name ' * 9}{index}/kernel": np.full(1, index, "f4") for index in range(1300)}
    metadata = {"config": "ü" * 300_000}
    legacy.write({name: Tensor.of(array) for name, array in arrays.items()}, metadata, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        pieces = [file.attrs[f"layer_names{index}"] for index in range(3)]
        assert "layer_names" not in file.attrs
        assert "layer_names3" not in file.attrs
        assert all(piece.nbytes <= 64512 for piece in pieces)
        assert sum(map(len, pieces)) == 1300
    checkpoint = legacy.read(tmp_path / "x.h5")
    assert checkpoint.metadata == metadata
    assert same(values(checkpoint), arrays)


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    """In a process of its own a second later, too: no times, addresses or hash seeds get in."""
    code = """if True:
        import sys, numpy, pathlib
        from denseport.checkpoint import Tensor
        from denseport.formats.keras import legacy
        tensors = {f"c{i}/kernel": Tensor.of(numpy.full((3, 3, 2, 4), i, "f4")) for i in range(20)}
        legacy.write(tensors, {"key": "value"}, pathlib.Path(sys.argv[1]))"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("a.h5", "b.h5"):
        subprocess.run([sys.executable, "-c", code, tmp_path / name], check=True, env=environment)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    class Watched(np.ndarray):
        def __del__(self) -> None:
            alive.remove("one")

    def read() -> np.ndarray:
        assert not alive
        alive.append("one")
        return np.ones(4, "f4").view(Watched)

    legacy.write({f"{n}/kernel": Tensor(np.dtype("f4"), (4,), read) for n in range(3)}, {}, tmp_path / "x.h5")
    assert len(legacy.read(tmp_path / "x.h5").tensors) == 3


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [(ml_dtypes.bfloat16, r"--dtype float32, or a name ending in \.weights\.h5"), ("c8", "--dtype float32")],
)
def test_a_dtype_that_legacy_h5_cannot_hold_is_refused_by_name(tmp_path: Path, dtype: Any, remedy: str) -> None:
    with pytest.raises(FormatError, match=f"x.h5: c/kernel is .*{remedy}"):
        legacy.write({"c/kernel": Tensor.of(np.ones(2, dtype))}, {}, tmp_path / "x.h5")


def test_more_axes_or_layers_than_hdf5_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FormatError, match="c/kernel has 33 axes; h5 holds 32"):
        legacy.write({"c/kernel": Tensor.of(np.ones((1,) * 33))}, {}, tmp_path / "x.h5")
    monkeypatch.setattr(writer, "MESSAGES_AT_MOST", 30)
    with pytest.raises(FormatError, match="a group of 31 layers is too large"):
        legacy.write({f"c{index}/kernel": Tensor.of(np.ones(1)) for index in range(26)}, {}, tmp_path / "x.h5")


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "a/./b", "../b", "a\0b", "a/kernel:0", "\ud800", "a/" * 40])
def test_a_name_that_would_not_come_back_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="cannot be stored as h5"):
        legacy.write({name: Tensor.of(np.ones(2))}, {}, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("pair", [["a", "a/b"], ["a/b", "a/a/b/c"], ["a", "a/a/b"]])
def test_names_that_need_a_dataset_and_a_group_in_one_place_are_refused(tmp_path: Path, pair: list[str]) -> None:
    with pytest.raises(FormatError, match="is needed both as a tensor and as a group"):
        legacy.write(dict.fromkeys(pair, Tensor.of(np.ones(2))), {}, tmp_path / "x.h5")
    with pytest.raises(FormatError, match="is needed both as a tensor and as a group"):
        legacy.write(dict.fromkeys(reversed(pair), Tensor.of(np.ones(2))), {}, tmp_path / "x.h5")


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        legacy.write({"a/b": Tensor.of(np.ones(2))}, {}, tmp_path / "none" / "x.h5")


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    code = """if True:
        import sys, numpy, pathlib, resource, signal
        from denseport.checkpoint import Tensor
        from denseport.formats.keras import legacy, weights
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        tensors = {f"c{i}/kernel": Tensor.of(numpy.ones((3, 3, 32, 32), "f4")) for i in range(9)}
        for limit in (0, 3000, 200_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            for format in (legacy, weights):
                try:
                    format.write(tensors, {}, pathlib.Path(sys.argv[1]))
                    sys.exit("written")
                except OSError as error:
                    print(error.strerror)"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, tmp_path / "x.h5"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "File too large\n" * 6, "")
