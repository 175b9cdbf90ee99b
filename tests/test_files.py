"""What was written is read back by the libraries that others will open it with, and every kind of mistake is found."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from densenets import canonical_weights, checkpoint
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import denseport
from denseport import VerificationError, files, formats
from denseport.checkpoint import Checkpoint, Tensor
from denseport.formats import pth, safetensors
from denseport.formats.keras import legacy, weights
from denseport.net.config import DenseNetConfig

TIMM = DenseNetConfig.bc(8, (2, 1, 1, 2), 16, num_classes=5)
KERAS_HUB = DenseNetConfig.bc(8, (2, 1, 2), 64, num_classes=5, padding="same", epsilon=1.001e-5)
# Every container: the target's name, the layout that is asked for, and which of a folder's files holds the weights.
CONTAINERS = {
    "pth": ("x.pth", None, ""),
    "safetensors": ("x.safetensors", None, ""),
    "legacy h5": ("x.h5", None, ""),
    "weights.h5": ("x.weights.h5", None, ""),
    "keras": ("x.keras", None, ""),
    "timm": ("x", "timm", "model.safetensors"),
    "keras-hub": ("x", "keras-hub", "model.weights.h5"),
    "keras-hub's head": ("x", "keras-hub", "task.weights.h5"),
}
HDF5 = ("legacy h5", "weights.h5", "keras", "keras-hub", "keras-hub's head")
Change = Callable[[Path], None]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Change], None]:
    """Converts to a container, in which the file with the weights is changed as soon as it is written."""

    def run(container: str, change: Change) -> None:
        name, layout, inner = CONTAINERS[container]
        config = KERAS_HUB if layout == "keras-hub" else TIMM
        honest = formats.write

        def changed(tensors: Any, metadata: Any, path: Path, *others: Any) -> None:
            honest(tensors, metadata, path, *others)
            change(path / inner if inner else path)

        denseport.write(checkpoint(canonical_weights(config), **vars(config.traits)), tmp_path / "source.pth")
        monkeypatch.setattr(formats, "write", changed)
        denseport.convert(tmp_path / "source.pth", tmp_path / name, verify=False, to_layout=layout)

    return run


@contextmanager
def hdf5(path: Path) -> Iterator[h5py.File]:
    """The HDF5 file at a path, or in the .keras archive there, open to be changed."""
    if path.suffix != ".keras":
        with h5py.File(path, "r+") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    inner = path.with_name("inner.h5")
    inner.write_bytes(contents["model.weights.h5"])
    with h5py.File(inner, "r+") as file:
        yield file
    rewrite(path, {**contents, "model.weights.h5": inner.read_bytes()})
    inner.unlink()


def rewrite(path: Path, contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def datasets(file: h5py.File, rank: int) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    file.visititems(lambda _, it: found.append(it) if isinstance(it, h5py.Dataset) and it.ndim == rank else None)
    return found


def swap_two_tensors(path: Path) -> None:
    """Gives two tensors of one shape each other's values."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        a, b = [name for name, array in tensors.items() if array.shape == (16,) and array.dtype == np.float32][:2]
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
        save_file({**tensors, a: tensors[b], b: tensors[a]}, path, metadata)
    elif path.suffix == ".pth":
        with formats.read(path) as stored:
            a, b = [name for name, tensor in stored.tensors.items() if tensor.shape == (16,)][:2]
            swapped = {**stored.tensors, a: stored.tensors[b], b: stored.tensors[a]}
            pth.write(swapped, stored.metadata, path.with_name("y"))
        path.with_name("y").replace(path)
    else:
        with hdf5(path) as file:
            one, *others = datasets(file, 1) or datasets(file, 2)
            other = next((each for each in others if each.shape == one.shape), one)
            one[...], other[...] = other[...], one[...] if other is not one else one[...] + 1


def flip_the_last_bit(path: Path) -> None:
    with hdf5(path) as file:
        dataset = datasets(file, 1)[-1]
        bits = dataset[...].view(np.uint32)
        bits[-1] ^= 1
        dataset[...] = bits.view(np.float32)


def transpose_a_kernel(path: Path) -> None:
    with hdf5(path) as file:
        kernel = next(each for each in datasets(file, 4) or datasets(file, 2) if each.shape[0] > 1)
        if kernel.ndim == 4:
            kernel[...] = kernel[...].swapaxes(0, 1)
        else:
            kernel[...] = kernel[...].T.reshape(kernel.shape)


def change_a_dtype(path: Path) -> None:
    with hdf5(path) as file:
        dataset = datasets(file, 1)[0]
        name, values, group = dataset.name, dataset[...].astype(np.float64), dataset.parent
        del group[name]
        group[name] = values


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_as_it_should_be_is_confirmed(container: str, convert: Callable[[str, Change], None]) -> None:
    convert(container, lambda _: None)


@pytest.mark.parametrize("container", CONTAINERS)
def test_two_tensors_in_each_others_place_are_found(
    container: str, convert: Callable[[str, Change], None], tmp_path: Path
) -> None:
    with pytest.raises(VerificationError, match=rf"^{tmp_path}/x[.\w]*: what was read back differs in "):
        convert(container, swap_two_tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["source.pth"]


@pytest.mark.parametrize("change", [flip_the_last_bit, transpose_a_kernel, change_a_dtype])
@pytest.mark.parametrize("container", HDF5)
def test_values_that_differ_are_found(container: str, change: Change, convert: Callable[[str, Change], None]) -> None:
    with pytest.raises(VerificationError, match=r"differs in [a-z0-9_./]+;"):
        convert(container, change)


def reversed_list(name: str, layer: str = "/") -> Change:
    """Turns a list of names around, which is the order in which Keras loads."""

    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file[layer].attrs[name] = file[layer].attrs[name][::-1]

    return change


def renamed_attribute(old: str, new: str) -> Change:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[new] = file.attrs[old]
            del file.attrs[old]

    return change


def stated(name: str, value: str) -> Change:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value

    return change


def moved(**places: str) -> Change:
    """Moves groups or datasets below `layers` to other places; `__` stands for `/`."""

    def change(path: Path) -> None:
        with hdf5(path) as file:
            layers = file["layers"]
            for place in places:
                layers.move(place.replace("__", "/"), f"{place}-moved")
            for place, other in places.items():
                layers.move(f"{place}-moved", other)

    return change


def removed(place: str) -> Change:
    def change(path: Path) -> None:
        with hdf5(path) as file:
            del file[place]

    return change


def added(path: Path) -> None:
    with hdf5(path) as file:
        file["layers/dense/vars/2"] = np.zeros(3, np.float32)


def config_in_another_order(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    model = json.loads(contents["config.json"])
    layers = model["config"]["layers"]
    a, b = [n for n, layer in enumerate(layers) if layer["class_name"] == "BatchNormalization"][:2]
    layers[a], layers[b] = layers[b], layers[a]
    rewrite(path, {**contents, "config.json": json.dumps(model).encode()})


def checksum_of_another_file(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        checksum = archive.getinfo("model.weights.h5").CRC.to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(checksum, bytes(byte ^ 1 for byte in checksum)))


NORMS_EXCHANGED = moved(batch_normalization="batch_normalization_1", batch_normalization_1="batch_normalization")


@pytest.mark.parametrize(
    ("container", "change", "named"),
    [
        ("legacy h5", reversed_list("layer_names"), "stem.conv/kernel"),
        ("legacy h5", reversed_list("weight_names", "stem.norm"), "stem.norm/gamma"),
        ("legacy h5", renamed_attribute("layer_names", "names"), "stem.conv/kernel"),
        ("legacy h5", renamed_attribute("denseport", "metadata"), "the metadata"),
        ("legacy h5", stated("denseport", "{}"), "the metadata"),
        ("legacy h5", stated("backend", "theano"), "stem.conv/kernel"),
        ("legacy h5", stated("keras_version", "1.2.2"), "stem.conv/kernel"),
        ("weights.h5", NORMS_EXCHANGED, "stem.norm/gamma"),
        ("weights.h5", moved(dense__vars__0="dense/vars/1", dense__vars__1="dense/vars/0"), "head.classifier/bias"),
        ("weights.h5", moved(conv2d__vars="conv2d_1/vars", conv2d_1__vars="conv2d/vars"), "stem.conv/kernel"),
        ("weights.h5", moved(dense__vars__0="dense/vars/7"), "head.classifier/kernel"),
        ("weights.h5", removed("layers/dense/vars/1"), "head.classifier/bias"),
        ("weights.h5", added, "layers/dense/vars/2"),
        ("weights.h5", removed("vars"), "vars"),
        ("keras", NORMS_EXCHANGED, "stem.norm/gamma"),
        ("keras", config_in_another_order, "another order"),
        ("keras", checksum_of_another_file, "checksum"),
        ("keras-hub", moved(conv2d__vars="conv2d_1/vars", conv2d_1__vars="conv2d/vars"), "conv1_conv/kernel"),
    ],
)
def test_what_keras_would_load_otherwise_is_found(
    container: str, change: Change, named: str, convert: Callable[[str, Change], None]
) -> None:
    with pytest.raises(VerificationError, match=rf"/x[.\w]*: .*{named}"):
        convert(container, change)


def safetensors_with_more(path: Path) -> None:
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    save_file({**load_file(path), "more": np.zeros(1)}, path, metadata)


def safetensors_without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def other_config(path: Path) -> None:
    config = path.with_name("config.json")
    config.write_text(config.read_text().replace("8", "9"))


def half_of_it(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("container", "change", "named"),
    [
        ("safetensors", safetensors_with_more, "differs in more;"),
        ("safetensors", safetensors_without_metadata, "differs in the metadata;"),
        ("timm", other_config, "differs in config.json;"),
        ("keras-hub", other_config, "differs in config.json;"),
        ("timm", safetensors_without_metadata, "differs in the metadata;"),
        *((container, half_of_it, "cannot be read back") for container in CONTAINERS if container != "pth"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_found(
    container: str, change: Change, named: str, convert: Callable[[str, Change], None]
) -> None:
    with pytest.raises(VerificationError, match=rf"/x[.\w]*: .*{named}"):
        convert(container, change)


def gamma_and_beta_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    order = ("beta", "gamma", "moving_mean", "moving_variance")
    monkeypatch.setattr(weights, "NORM", order)
    monkeypatch.setattr(weights, "CLASSES", {**weights.CLASSES, "batch_normalization": order})


def lists_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "LAYERS", "layers")


def floats_called_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(safetensors.DTYPES, "I32", "float32")
    monkeypatch.setitem(safetensors.CODES, "float32", "I32")


NORM = {f"bn/{name}": np.full(5, n, np.float32) for n, name in enumerate(weights.NORM)}


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("x.weights.h5", gamma_and_beta_exchanged),
        ("x.h5", lists_under_another_name),
        ("x.safetensors", floats_called_integers),
    ],
)
def test_a_mistake_that_the_writer_and_its_reader_share_is_found(
    name: str, mistake: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Checkpoint({name: Tensor.of(array) for name, array in NORM.items()})
    mistake(monkeypatch)
    formats.write(stored.tensors, {}, tmp_path / name, formats.by_suffix(Path(name)))
    with formats.read(tmp_path / name) as found:
        assert {name: tensor.read().tobytes() for name, tensor in found.tensors.items()} == {
            name: array.tobytes() for name, array in NORM.items()
        }
    with pytest.raises(VerificationError, match="bn/gamma"):
        denseport.write(stored, tmp_path / name, force=True)


DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool")


@pytest.mark.parametrize("name", ["x.safetensors", "x.h5", "x.weights.h5"])
def test_every_dtype_and_shape_is_confirmed(name: str, tmp_path: Path) -> None:
    shapes = {"kernel": (3, 0), "bias": (), "gamma": (1,), "beta": (2,), "moving_mean": (0,), "moving_variance": (1, 1)}
    dtypes = [ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype) for dtype in DTYPES]
    dtypes = [dtype for dtype in dtypes if name != "x.h5" or dtype is not ml_dtypes.bfloat16]
    tensors = {
        f"{n}/{variable}": Tensor.of(np.ones(shape, dtype))
        for n, dtype in enumerate(dtypes)
        for variable, shape in shapes.items()
        if (variable in ("kernel", "bias")) == (n % 2 == 0)
    }
    denseport.write(Checkpoint(tensors, {"say": "\u00e9\n"}), tmp_path / name)


@pytest.mark.parametrize("name", ["x.safetensors", "x.h5", "x.weights.h5"])
def test_a_large_tensor_is_confirmed_in_pieces(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = np.random.default_rng(0).random((3, 50, 7, 11), np.float32)
    tensors = {"conv/kernel": Tensor.of(kernel.transpose(0, 2, 1, 3)), "conv/bias": Tensor.of(kernel[0, 0, 0])}
    monkeypatch.setattr("denseport.checkpoint.PIECE_BYTES", 1000)
    monkeypatch.setattr(files, "PIECE_BYTES", 1000)
    monkeypatch.setattr(files, "MAPPED_BYTES", 3000)
    denseport.write(Checkpoint(tensors), tmp_path / name)
    changed = kernel.copy()
    changed[2, 49, 6, 10] += 1
    with pytest.raises(VerificationError, match="conv/kernel;"):
        files.confirm(
            {**tensors, "conv/kernel": Tensor.of(changed.transpose(0, 2, 1, 3))},
            {},
            tmp_path / name,
            formats.by_suffix(Path(name)),
        )


def test_many_names_are_confirmed(tmp_path: Path) -> None:
    """Lists of names longer than an attribute may be are cut in pieces."""
    tensors = {f"{n:0200}/kernel": Tensor.of(np.zeros(1)) for n in range(700)}
    denseport.write(Checkpoint(tensors), tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert "layer_names2" in file.attrs
