"""Weights in shards are read as one file; a part alone, an index that lies, and foreign containers are told by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import SMALL, equal
from test_layouts import spelled

import denseport
from denseport import formats, source
from denseport.checkpoint import Tensor
from denseport.errors import FormatError, UsageError

WHOLE = spelled(SMALL["four blocks"][0], "torchvision")
NAMES = {
    "safetensors": ("model", ".safetensors", "model.safetensors"),
    "pth": ("pytorch_model", ".bin", "pytorch_model.bin"),
}


def sharded(folder: Path, kind: str = "safetensors", parts: int = 3) -> Path:
    """The net in a folder, as transformers' libraries divide it; the index."""
    stem, suffix, named = NAMES[kind]
    folder.mkdir()
    placed = {}
    names = list(WHOLE)
    for n in range(parts):
        file = f"{stem}-{n + 1:05}-of-{parts:05}{suffix}"
        own = names[n::parts]
        formats.write({name: Tensor.of(WHOLE[name]) for name in own}, {}, folder / file, kind)
        placed |= dict.fromkeys(own, file)
    index = folder / f"{named}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}))
    return index


@pytest.mark.parametrize("kind", NAMES)
def test_shards_are_read_as_one_by_their_folder_or_their_index(kind: str, tmp_path: Path) -> None:
    index = sharded(tmp_path / "net", kind)
    for given in (index, index.parent):
        with formats.read(given) as checkpoint:
            assert equal({name: tensor.read() for name, tensor in checkpoint.tensors.items()}, WHOLE)
            assert checkpoint.format == kind
            assert checkpoint.container.startswith("3 shards, each ")
    report = denseport.convert(index.parent, tmp_path / "one.safetensors", verify=False)
    with formats.read(tmp_path / "one.safetensors") as checkpoint:
        assert equal({name: tensor.read() for name, tensor in checkpoint.tensors.items()}, WHOLE)
    before = report.source_sha256
    part = sorted(index.parent.glob("*-00002-*"))[0]
    part.write_bytes(part.read_bytes() + b" ")
    assert source.sha256(index.parent) != before


def test_shards_of_keras_are_those_of_the_one_file(tmp_path: Path, script: Callable[..., Any]) -> None:
    script("keras_shards", tmp_path)
    assert len(list((tmp_path / "shards").glob("*.h5"))) > 2
    found = denseport.diff(tmp_path / "shards", tmp_path / "one.weights.h5")
    assert (found.by_layout, found.different) == (True, ())
    denseport.convert(tmp_path / "shards", tmp_path / "b.pth", verify=False)
    shard = tmp_path / "shards" / "net_00001.weights.h5"
    with pytest.raises(FormatError, match=r"one of the shards that net\.weights\.json lists"):
        formats.read(shard)
    shard.write_bytes((tmp_path / "shards" / "net_00000.weights.h5").read_bytes())
    with pytest.raises(FormatError, match=r"its shards lack|not numbered from 0"):
        formats.read(tmp_path / "shards")


def test_a_shard_alone_is_refused_by_the_name_of_its_index(tmp_path: Path) -> None:
    index = sharded(tmp_path / "net")
    with pytest.raises(FormatError, match=r"one of the shards that model\.safetensors\.index\.json lists; give that"):
        formats.read(index.parent / "model-00001-of-00003.safetensors")


INDEXES: dict[str, tuple[Any, str]] = {
    "no map": ({}, "has no weight_map"),
    "no names": ({"weight_map": {"a": 3}}, "has no weight_map"),
    "a way out": ({"weight_map": {"a": "../a.safetensors"}}, "has no weight_map"),
    "an absolute way": ({"weight_map": {"a": "/etc/passwd"}}, "has no weight_map"),
    "too many": ({"weight_map": {f"{n}": f"{n}" for n in range(300)}}, "lists 300 files, more than 256"),
    "a file that is not there": ({"weight_map": {"a": "b.safetensors"}}, "lists b.safetensors, not there"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    content, told = INDEXES[kind]
    (tmp_path / "x.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises((FormatError, UsageError), match=told):
        denseport.inspect(tmp_path)


@pytest.mark.parametrize("change", ["lists one more", "lists one fewer", "moves one"])
def test_an_index_that_contradicts_its_shards_is_refused(change: str, tmp_path: Path) -> None:
    index = sharded(tmp_path / "net")
    placed = json.loads(index.read_text())["weight_map"]
    first = next(iter(placed))
    if change == "lists one more":
        placed["more"] = placed[first]
    elif change == "lists one fewer":
        del placed[first]
    else:
        placed[first] = "model-00003-of-00003.safetensors"
    index.write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(FormatError, match="holds other tensors than the index lists: "):
        formats.read(index)


def test_several_indexes_are_asked_about(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors.index.json").write_text("{}")
    with pytest.raises(UsageError, match=r"the indexes of several models: a\.safetensors\.index\.json, b.*; give one"):
        formats.read(tmp_path)


FOREIGN = {
    "net.ckpt.index": (b"\0" * 40 + bytes.fromhex("57fb808b247547db"), r"TensorFlow checkpoint.*model\.save"),
    "net.data-00000-of-00001": (b"\1" * 40, r"TensorFlow checkpoint.*model\.save"),
    "saved_model.pb": (b"\x08\x01\x12\x04" * 9, r"SavedModel.*load_model.*model\.save"),
    "net.onnx": (b"\x08\x08\x12\x07pytorch" * 9, "ONNX"),
    "net.msgpack": (b"\x81\xa6params\x80" * 9, r"msgpack.*safetensors\.numpy"),
    "net.tflite": (b"\x1c\0\0\0TFL3" * 9, "TensorFlow Lite"),
    "net.npy": (b"\x93NUMPY\1\0" * 9, r"NumPy.*safetensors\.numpy"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_containers_are_called_by_their_names(name: str, tmp_path: Path) -> None:
    content, told = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=rf"{name}: is .*{told}"):
        formats.read(tmp_path / name)


def test_folders_of_tensorflow_are_called_by_their_names(tmp_path: Path) -> None:
    for name, file in (("SavedModel", "saved_model.pb"), ("TensorFlow checkpoint", "checkpoint")):
        folder = tmp_path / name
        folder.mkdir()
        for each in (file, "x.index"):
            (folder / each).write_bytes(b"x")
        with pytest.raises(FormatError, match=name):
            denseport.inspect(folder)


def test_arrays_of_one_shard_are_no_copies_of_another(tmp_path: Path) -> None:
    with formats.read(sharded(tmp_path / "net", parts=2)) as checkpoint:
        name = next(iter(WHOLE))
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), WHOLE[name])
