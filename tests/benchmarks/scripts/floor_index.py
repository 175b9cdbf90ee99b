"""Where each tensor lies and where it goes, so that the floor need not find out: `FOLDER NAME`.

Reads FOLDER/NAME.pth, NAME.safetensors and NAME.h5, a legacy file of keras.applications, and writes what `floor.py`
takes: NAME-pth-weights.json, NAME-safetensors-weights.json, NAME-h5-pth.json and NAME-pth-safetensors.json.
"""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import torch

COUNTER = "num_batches_tracked"
TO_KERAS = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,), 0: ()}
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
LENGTH = 8  # of the number at the beginning of a safetensors file
LOCAL_HEADER = 30  # bytes of a zip entry's own header, before its name
Place = dict[str, Any]


def pth(path: Path) -> dict[str, Place]:
    """The tensors of a state dict, in its order; each has a storage of its own, numbered in that order."""
    state = torch.load(path, weights_only=True)
    places = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        for number, (name, tensor) in enumerate(state.items()):
            start = entries[f"data/{number}"].header_offset
            file.seek(start + LOCAL_HEADER - 4)
            offset = start + LOCAL_HEADER + sum(struct.unpack("<HH", file.read(4)))
            places[name] = place(offset, tensor.shape, "<i8" if name.endswith(COUNTER) else "<f4")
    return places


def safetensors(path: Path) -> tuple[dict[str, Place], bytes]:
    """The tensors in the order in which they lie in the file, and all bytes before the first."""
    data = path.read_bytes()
    first = LENGTH + struct.unpack("<Q", data[:LENGTH])[0]
    header = json.loads(data[LENGTH:first])
    header.pop("__metadata__", None)
    ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    dtypes = {"F32": "<f4", "I64": "<i8"}
    return {
        name: place(first + found["data_offsets"][0], found["shape"], dtypes[found["dtype"]]) for name, found in ordered
    }, data[:first]


def legacy_h5(path: Path) -> dict[str, Place]:
    """The weights in the order of the layers."""
    places = {}
    with h5py.File(path) as file:
        for layer in file.attrs["layer_names"]:
            for weight in file[layer].attrs["weight_names"]:
                dataset = file[layer][weight]
                places[dataset.name] = place(dataset.id.get_offset(), dataset.shape, "<f4")
    return places


def keras_names(places: list[Place]) -> list[str]:
    """Where the same tensors lie in a .weights.h5; the order is kernel; gamma, beta, mean, variance; kernel, bias."""
    names = []
    counts = {"conv2d": 0, "batch_normalization": 0, "dense": 0}
    variable = 0
    kind = ""
    for found in places:
        rank = len(found["shape"])
        if rank > 1 or kind == "conv2d" or (kind == "batch_normalization" and variable == 3):
            kind = {4: "conv2d", 2: "dense", 1: "batch_normalization"}[rank]
            number = counts[kind]
            counts[kind] += 1
            variable = 0
        else:
            variable += 1
        names.append(f"layers/{kind}_{number}/vars/{variable}" if number else f"layers/{kind}/vars/{variable}")
    return names


def place(offset: int, shape: tuple[int, ...], dtype: str) -> Place:
    return {"offset": offset, "shape": list(shape), "dtype": dtype}


def main(folder: Path, name: str) -> None:
    torch_places = pth(folder / f"{name}.pth")
    stored, beginning = safetensors(folder / f"{name}.safetensors")
    weights = [key for key in torch_places if not key.endswith(COUNTER)]
    for source, places in (("pth", torch_places), ("safetensors", stored)):
        found = [places[key] for key in weights]
        targets = keras_names(found)
        tensors = [
            {**each, "axes": TO_KERAS[len(each["shape"])], "name": target}
            for each, target in zip(found, targets, strict=True)
        ]
        write(folder / f"{name}-{source}-weights.json", tensors)
    tensors = [
        {**each, "axes": TO_TORCH[len(each["shape"])], "name": f"archive/data/{number}"}
        for number, each in enumerate(legacy_h5(folder / f"{name}.h5").values())
    ]
    write(folder / f"{name}-h5-pth.json", tensors)
    tensors = [{**torch_places[key], "axes": range(len(torch_places[key]["shape"])), "name": key} for key in stored]
    write(folder / f"{name}-pth-safetensors.json", tensors, beginning)


def write(path: Path, tensors: list[Place], beginning: bytes = b"") -> None:
    plain = [{**tensor, "axes": list(tensor["axes"])} for tensor in tensors]
    path.write_text(json.dumps({"beginning": beginning.decode("latin-1"), "tensors": plain}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
