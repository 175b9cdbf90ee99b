"""The `.weights.h5` of Keras 3: names, classes and numbers are told apart, and what cannot be told is refused."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denseport import formats
from denseport.checkpoint import Tensor
from denseport.errors import FormatError
from denseport.formats.keras import legacy, weights

NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def saved(path: Path, layers: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Path:
    """A file as Keras writes it: `{group: arrays of its vars, or their number}`, with names where given."""
    with h5py.File(path, "w") as file:
        for group, arrays in layers.items():
            variables = file.create_group(f"{group}/vars".removeprefix("/"))
            if names is not None:
                variables.attrs["name"] = names[group]
            for index, array in enumerate(range(arrays) if isinstance(arrays, int) else arrays):
                variables[str(index)] = np.float32(array)
    return path


def values(path: Path) -> dict[str, np.ndarray]:
    with legacy.read(path) as checkpoint:
        return {name: tensor.read() for name, tensor in checkpoint.tensors.items()}


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: Tensor.of(array) for name, array in arrays.items()}


layers_of_any_class = st.one_of(
    st.tuples(st.sampled_from([("kernel",), ("kernel", "bias")]), st.integers(2, 5)),
    st.tuples(st.sampled_from([NORM, ("moving_mean", "moving_variance")]), st.just(1)),
)
letters = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
layer_names = st.text(letters, min_size=1, max_size=9).filter(lambda name: name not in {".", ".."})


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.lists(layer_names, min_size=1, max_size=2).map("/".join), layers_of_any_class, min_size=1),
    st.sampled_from(["f4", "f2", "f8", ml_dtypes.bfloat16]),
)
def test_what_is_written_is_read_back_in_order_and_bit_by_bit(tmp_path_factory, layers, dtype) -> None:
    path = tmp_path_factory.mktemp("weights") / "x.weights.h5"
    random = np.random.default_rng(0)
    arrays = {
        f"{layer}/{variable}": random.standard_normal((2,) * (rank if variable == "kernel" else 1)).astype(dtype)
        for layer, (variables, rank) in layers.items()
        for variable in variables
    }
    weights.write(tensors(arrays), {"key": "value"}, path)
    checkpoint = legacy.read(path)
    assert checkpoint.metadata == {"key": "value"}
    assert not checkpoint.nameless
    assert checkpoint.others == ()
    found = values(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape, found[name].tobytes()) == (
            array.dtype,
            array.shape,
            array.tobytes(),
        )


def test_the_file_is_laid_out_as_keras_does_it(tmp_path: Path) -> None:
    arrays = {
        "stem/bias": np.ones(4, "f4"),
        "stem/kernel": np.ones((3, 3, 2, 4), "f4"),
        **{f"conv1/bn/{variable}": np.full(4, index, "f4") for index, variable in enumerate(NORM)},
        "second/kernel": np.ones((1, 1, 4, 4), "f4"),
        "line/kernel": np.ones((1, 4, 4), "f4"),
        "cube/kernel": np.ones((1, 1, 1, 4, 4), "f4"),
        "out/kernel": np.ones((4, 2), ml_dtypes.bfloat16),
    }
    weights.write(tensors(arrays), {}, tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.weights.h5") as file:
        assert list(file.attrs) == []
        assert set(file) == {"vars", "layers"}
        named = {group: file["layers"][group]["vars"].attrs["name"] for group in file["layers"]}
        assert named == {
            "conv2d": "stem",
            "batch_normalization": "conv1/bn",
            "conv2d_1": "second",
            "conv1d": "line",
            "conv3d": "cube",
            "dense": "out",
        }
        assert file["layers/conv2d/vars/0"].shape == (3, 3, 2, 4)
        assert file["layers/conv2d/vars/1"].shape == (4,)
        assert [file[f"layers/batch_normalization/vars/{index}"][0] for index in range(4)] == [0, 1, 2, 3]
        assert file["layers/dense/vars/0"].attrs["dtype"] == "bfloat16"
        assert file["layers/dense/vars/0"].dtype == np.dtype("V2")


def test_layers_without_a_recorded_name_are_called_by_class_and_number(tmp_path: Path) -> None:
    layers = {f"layers/conv2d{f'_{n}' if n else ''}": [n] for n in range(12)} | {"layers/batch_normalization": 4}
    checkpoint = legacy.read(saved(tmp_path / "x.weights.h5", layers))
    assert checkpoint.nameless
    assert checkpoint.container == "Keras 3 .weights.h5 without layer names"
    norm = [f"batch_normalization/{variable}" for variable in NORM]
    kernels = ["conv2d/kernel", *(f"conv2d_{n}/kernel" for n in range(1, 12))]
    assert list(checkpoint.tensors) == norm + kernels
    assert [values(tmp_path / "x.weights.h5")[name] for name in kernels] == list(range(12))


def test_the_order_of_creation_counts_where_it_is_recorded(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.weights.h5", "w", track_order=True) as file:
        for group in ("conv2d", "batch_normalization", "conv2d_1"):
            for index in range(4 if group == "batch_normalization" else 1):
                file[f"layers/{group}/vars/{index}"] = np.ones(1)
    norm = [f"batch_normalization/{variable}" for variable in NORM]
    assert list(values(tmp_path / "x.weights.h5")) == ["conv2d/kernel", *norm, "conv2d_1/kernel"]


def test_nested_and_wrapped_layers_are_found_wherever_they_are(tmp_path: Path) -> None:
    names = {
        "": "whole",
        "layers/functional/layers/conv2d": "stem",
        "layers/functional/layers/functional_1/layers/dense": "inner",
        "layers/time_distributed": "over_time",
        "layers/time_distributed/layer": "wrapped",
        "backbone/_layer_checkpoint_dependencies/batch_normalization_7": "norm",
        "layers/dense": "out",
        "layers/flatten": "flat",
    }
    counts = dict.fromkeys(names, 2) | {"": 1, "layers/time_distributed": 0, "layers/flatten": 0}
    counts["layers/functional/layers/conv2d"] = 1
    path = saved(tmp_path / "x.weights.h5", counts, names)
    assert set(values(path)) == {
        "whole/0",
        "stem/kernel",
        "inner/kernel",
        "inner/bias",
        "wrapped/0",
        "wrapped/1",
        "norm/moving_mean",
        "norm/moving_variance",
        "out/kernel",
        "out/bias",
    }


def test_training_and_random_state_is_named_and_left_alone(tmp_path: Path) -> None:
    layers = {"layers/dense": 2, "optimizer": 3, "layers/dropout/seed_generator": 1, "metrics/mean": 2}
    checkpoint = legacy.read(saved(tmp_path / "x.weights.h5", layers, dict.fromkeys(layers, "a")))
    assert list(checkpoint.tensors) == ["a/kernel", "a/bias"]
    assert checkpoint.others == ("metrics", "optimizer", "layers/dropout/seed_generator")


def test_variables_of_other_classes_keep_their_numbers_or_keys(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.weights.h5", {"layers/normalization": 11}, {"layers/normalization": "scaling"})
    with h5py.File(path, "a") as file:
        file["layers/embedding/vars/table"] = np.ones(2)
    assert list(values(path)) == ["embedding/table", *(f"scaling/{index}" for index in range(11))]


@pytest.mark.parametrize(
    ("group", "count", "choices"),
    [
        ("batch_normalization_3", 3, "gamma, beta, moving_mean, moving_variance"),
        ("batch_normalization", 1, "gamma"),
        ("batch_normalization", 5, "gamma"),
        ("conv2d", 3, "kernel, bias"),
        ("dense_11", 3, "kernel, bias"),
    ],
)
def test_variables_that_may_be_several_things_are_refused(tmp_path: Path, group: str, count: int, choices: str) -> None:
    path = saved(tmp_path / "x.weights.h5", {f"layers/{group}": count})
    with pytest.raises(FormatError, match=f"/layers/{group} has {count} variables; which of {choices}"):
        legacy.read(path)


def test_variables_with_a_gap_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.weights.h5", {"layers/conv2d": 2})
    with h5py.File(path, "a") as file:
        file.move("layers/conv2d/vars/1", "layers/conv2d/vars/2")
    with pytest.raises(FormatError, match="not numbered from 0"):
        legacy.read(path)


@pytest.mark.parametrize("names", [{"layers/conv2d": "a", "layers/functional/layers/conv2d": "a"}, None])
def test_one_name_for_two_layers_is_refused_with_both_places(tmp_path: Path, names: dict[str, str] | None) -> None:
    layers = {"layers/conv2d": 1, "layers/functional/layers/conv2d": 1}
    path = saved(tmp_path / "x.weights.h5", layers, names)
    with pytest.raises(FormatError, match="/layers/conv2d and /layers/functional/layers/conv2d are both named"):
        legacy.read(path)


def test_a_shard_is_refused_where_its_index_lies_beside_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "net_00002.weights.h5", {"layers/conv2d": 1})
    assert len(values(path)) == 1
    (tmp_path / "net.weights.json").write_text("{}")
    with pytest.raises(FormatError, match=r"one of the shards that net\.weights\.json lists; give that file instead"):
        legacy.read(path)


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["measurements"] = np.ones(3)
    with pytest.raises(FormatError, match="holds no weights that Keras saved"):
        legacy.read(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        (["features.conv0.weight"], (1, 1, 1, 1)),
        (["kernel"], (1, 1)),
        (["a/weight"], (1, 1)),
        (["a/kernel", "a/alpha"], (1, 1)),
        (["a/kernel"], (1,)),
        (["a/gamma", "a/moving_mean", "a/moving_variance"], (1,)),
        (["a/gamma"], (1,)),
    ],
)
def test_names_of_no_keras_layer_are_refused_with_a_remedy(
    tmp_path: Path, names: list[str], shape: tuple[int, ...]
) -> None:
    array = np.ones(shape, "f4")
    with pytest.raises(FormatError, match=f"{names[0]} belongs to no.*layout keras-applications, or a name ending in"):
        weights.write({name: Tensor.of(array) for name in names}, {}, tmp_path / "x.weights.h5")
    assert not (tmp_path / "x.weights.h5").exists()


def test_a_dtype_that_h5_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="a/kernel is float8_e5m2, which h5 cannot hold"):
        weights.write({"a/kernel": Tensor.of(np.ones((1, 1), ml_dtypes.float8_e5m2))}, {}, tmp_path / "x.weights.h5")


@pytest.mark.parametrize("entry", ["config.json", "metadata.json"])
def test_an_archive_whose_descriptions_would_fill_the_memory_is_refused(tmp_path: Path, entry: str) -> None:
    """Twenty kilobytes of a compressed archive that would be 16 MB of JSON, and far more as Python's objects."""
    path = saved(tmp_path / "model.weights.h5", {"layers/dense": 2})
    small = {"config.json": b'{"class_name": "Functional", "config": {}}', "metadata.json": b"{}"}
    for content in (small[entry], b'{"a":[' + b"{}," * (5 << 20) + b"{}]}"):
        with zipfile.ZipFile(tmp_path / "x.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in {**small, entry: content}.items():
                archive.writestr(name, text)
            archive.write(path, compress_type=zipfile.ZIP_STORED, arcname="model.weights.h5")
        if content == small[entry]:
            with formats.read(tmp_path / "x.keras") as checkpoint:
                assert list(checkpoint.tensors) == ["dense/kernel", "dense/bias"]
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=f"{entry} has 15728650 bytes, more than the"):
            formats.read(tmp_path / "x.keras")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("change", "what"), [(b"more", "goes on behind its end"), (None, "is truncated")])
def test_an_archive_whose_weights_are_longer_or_shorter_than_they_say_is_refused(
    tmp_path: Path, change: bytes | None, what: str
) -> None:
    weights = saved(tmp_path / "model.weights.h5", {"layers/dense": 2}).read_bytes()
    for content in (weights, weights + change if change else weights[:-1]):
        with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
            archive.writestr("config.json", b'{"class_name": "Functional", "config": {}}')
            archive.writestr("model.weights.h5", content)
        if content == weights:
            formats.read(tmp_path / "x.keras").close()
    with pytest.raises(FormatError, match=f"it {what}: {len(weights)} bytes were written, {len(content)} are there"):
        formats.read(tmp_path / "x.keras")


def test_an_archive_with_damaged_weights_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.weights.h5", {"layers/dense": [[[7.5, 7.25]], [1.5]]})
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", b"{}")
        archive.write(path, "model.weights.h5")
    data, values = (tmp_path / "x.keras").read_bytes(), np.array([7.5, 7.25], "<f4").tobytes()
    assert data.count(values) == 1
    (tmp_path / "x.keras").write_bytes(data.replace(values, values[::-1]))
    with pytest.raises(FormatError, match=r"model\.weights\.h5 does not match its checksum"):
        formats.read(tmp_path / "x.keras")
