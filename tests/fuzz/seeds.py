"""Small valid files of every kind, with which fuzzing begins: one tiny DenseNet in all of them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from densenets import canonical_weights

from denseport import formats, layouts
from denseport.checkpoint import Tensor
from denseport.formats.pth.writer import pickled
from denseport.layouts.frameworks import KERAS, TORCH
from denseport.layouts.parse import known_layouts, known_text
from denseport.net.config import DenseNetConfig

# Tensors of the smaller files: a convolution and a normalisation.
FEW = 5
CONFIG = DenseNetConfig.bc(2, (1, 1), 4, num_classes=2, in_channels=1)
# What `torch.save` of before 1.6 begins with: torch/serialization.py, `MAGIC_NUMBER`, `PROTOCOL_VERSION`.
LEGACY_START = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
PROGRAM = {
    "constants.pkl": b"\x80\x02).",
    "code/__torch__/torch/nn/modules/conv.py": b"""class Conv2d(Module):
  eps : Final[float] = 1e-05
  stride : Final[Tuple[int, int]] = (2, 2)
  padding_mode : Final[str] = "zeros"
  def forward(self, x: Tensor) -> Tensor:
    input = torch._convolution(x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False, True, True)
    y = torch.max_pool2d(input, [3, 3], [2, 2], [1, 1], [1, 1], True)
    return torch.batch_norm(y, weight, bias, running_mean, running_var, False, 0.1, 1e-05, True)
""",
}
MODEL = {
    "class_name": "Functional",
    "config": {
        "name": "net",
        "layers": [
            {"class_name": "Conv2D", "config": {"name": "conv1_conv", "padding": "valid", "strides": [2, 2]}},
            {"class_name": "BatchNormalization", "config": {"name": "conv1_bn", "epsilon": 1.001e-05}},
        ],
    },
}


def of_weights(folder: Path) -> dict[str, list[bytes]]:
    """The files of each reader of weights."""
    canonical = {name: Tensor.of(array) for name, array in canonical_weights(CONFIG).items()}
    weights = layouts.Weights(CONFIG, canonical)
    files: dict[str, bytes] = {}
    for name, layout, framework in (
        ("x.pth", "torchvision", TORCH),
        ("x.safetensors", "torchvision", TORCH),
        ("x.h5", "keras-applications", KERAS),
        ("x.weights.h5", "keras-applications", KERAS),
    ):
        tensors = layouts.from_canonical(weights, layouts.find_layout(layout), framework)
        for part, some in ((name, tensors), (f"few-{name}", dict(list(tensors.items())[:FEW]))):
            formats.write(some, {"source": "a test"}, folder / part, formats.by_suffix(Path(name)))
            files[part] = (folder / part).read_bytes()
    few = {name: canonical[name] for name in list(canonical)[:FEW]}
    return {
        "pth": [
            files["x.pth"],
            _torchs(few, zipfile.ZIP_DEFLATED),
            _torchs(few, zipfile.ZIP_STORED),
            _archive(_objects(few), few, {}, zipfile.ZIP_STORED),
            _archive(_objects(few, "__torch__."), few, PROGRAM, zipfile.ZIP_STORED),
        ],
        "legacy-pth": [_legacy(canonical), _legacy(few)],
        "h5": [files["x.h5"], *_by_h5py(folder / "few-x.h5", folder)],
        "keras-weights": [files["x.weights.h5"], *_by_h5py(folder / "few-x.weights.h5", folder)],
        "keras": [_keras(files["x.weights.h5"]), _keras(files["few-x.weights.h5"])],
        "safetensors": [files["x.safetensors"], files["few-x.safetensors"]],
    }


@cache
def of_images() -> list[bytes]:
    """Archives of a few images of three channels, in several types, stored and deflated, with labels or without."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (3, 4, 5, 3)), np.arange(3)
    files = []
    for dtype in ("u1", "<f4", ">f8"):
        for save in (np.savez, np.savez_compressed):
            for arrays in ({}, {"labels": labels}):
                buffer = io.BytesIO()
                save(buffer, images=images.astype(dtype), **arrays)
                files.append(buffer.getvalue())
    return files


def of_layouts() -> list[bytes]:
    """The layout files that ship with the package."""
    return [known_text(name).encode() for name in known_layouts()]


def _torchs(tensors: dict[str, Tensor], compression: int) -> bytes:
    """An archive as torch writes it, with the weights below a wrapper."""
    bare = pickled(tensors)
    wrapped = b"\x80\x02}(X\x05\0\0\0epochK\x07X\x0a\0\0\0state_dict" + bare[2:-1] + b"u."
    return _archive(wrapped, tensors, {}, compression)


def _archive(data: bytes, tensors: dict[str, Tensor], more: dict[str, bytes], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **more}.items():
            archive.writestr(f"archive/{name}", content)
        for index, tensor in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{index}", tensor.read().tobytes())
    return buffer.getvalue()


def _objects(tensors: dict[str, Tensor], package: str = "") -> bytes:
    """A pickle of a whole model, or a program's, beside numpy's arrays and other objects."""
    module = f"c{package}torch.nn.modules.conv\nConv2d\n)\x81}}(".encode("latin-1")
    state = module + _text("_parameters") + pickled(tensors)[2:-1] + _text("_modules") + b"}" + _text("stride")
    state += b"K\x02K\x02\x86" + _text("eps") + b"G\x3f\xf0\0\0\0\0\0\0ub"
    arrays = {"a": np.arange(4.0), "b": np.float32(1), "c": np.array([1], ">i2"), "d": {1, 2}, (1, "x"): slice(1, 2)}
    more = pickle.dumps([arrays, Path(), complex(1, 2)], 4)[2:-1]
    return b"\x80\x04}(" + _text("objects") + more + _text("model") + state + b"u."


def _text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _legacy(tensors: dict[str, Tensor]) -> bytes:
    keys = [str(index) for index in range(len(tensors))]
    storages = b"".join(struct.pack("<q", tensor.size) + tensor.read().tobytes() for tensor in tensors.values())
    start = b"".join(pickle.dumps(value, 2) for value in LEGACY_START)
    return start + pickled(tensors) + pickle.dumps(keys, 2) + storages


def _by_h5py(path: Path, folder: Path) -> list[bytes]:
    """A file again as the HDF5 library writes it, in older and newer structures, plain and filtered."""
    every: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"libver": "latest"}, {}),
        ({"libver": "latest", "track_order": True}, {"chunks": True, "compression": "gzip"}),
        ({"userblock_size": 512}, {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True}),
        ({}, {"chunks": True, "compression": "lzf", "shuffle": True}),
    ]
    files = []
    for file_options, options in every:
        target = folder / "copy.h5"
        with h5py.File(path) as old, h5py.File(target, "w", **file_options) as new:

            def copy(name: str, item: Any, new: h5py.File = new, options: dict[str, Any] = options) -> None:
                if isinstance(item, h5py.Dataset):
                    new.create_dataset(name, data=item[()], **(options if item.size else {}))
                else:
                    for key, value in item.attrs.items():
                        new.require_group(name).attrs[key] = value

            copy("/", old)
            old.visititems(copy)
        files.append(target.read_bytes())
    return files


def _keras(weights: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(MODEL))
        archive.writestr("model.weights.h5", weights)
    return buffer.getvalue()
