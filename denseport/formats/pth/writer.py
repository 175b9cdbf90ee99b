"""Writes PyTorch checkpoints as torch 2.14 does, so that `torch.load(weights_only=True)`, mapped or not, reads them.

Source: torch/serialization.py `_save`, caffe2/serialize/inline_container.cc `PyTorchStreamWriter`, miniz.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from struct import Struct

import numpy as np

from denseport.checkpoint import Tensor, dtype_name, pieces
from denseport.errors import FormatError, quoted
from denseport.formats.pth.containers import MAX_METADATA_BYTES
from denseport.formats.pth.objects import DTYPES, STORAGES
from denseport.formats.zip.writer import ZipWriter
from denseport.metadata import ZIP_RECORD

ROOT = "archive"
ALIGNMENT = 64

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}
_ORDERED_DICT = b"ccollections\nOrderedDict\n"


def write(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path, shown: str | Path | None = None
) -> None:
    """Writes a state dict of `tensors` in their order, one at a time in memory; equal input gives equal bytes.

    `metadata` becomes a record that torch ignores and `read` gives back. bfloat16 is `ml_dtypes.bfloat16`.

    Raises:
        FormatError: torch has no such dtype, a name or the metadata cannot be stored, or a tensor's values are not of
            the dtype and shape that it announced.
    """
    shown = shown or path
    for name, tensor in tensors.items():
        if not tensor.dtype.isnative or dtype_name(tensor.dtype) not in DTYPES:
            raise FormatError(
                f"{shown}: tensor {quoted(name)} is {tensor.dtype.name} ({tensor.dtype.str}), a dtype that no PyTorch "
                "checkpoint of weights has; convert it first"
            )
    try:
        pickle = pickled(tensors)
        extra = json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(f"{shown}: {quoted(error.object)} holds a lone surrogate; rename it") from None
    if len(extra) > MAX_METADATA_BYTES:
        raise FormatError(f"{shown}: the metadata has {len(extra)} bytes, more than {MAX_METADATA_BYTES}; shorten it")
    with ZipWriter(path, ROOT, ALIGNMENT) as archive:
        crcs = [
            archive.add("data.pkl", [pickle]),
            archive.add(".format_version", [b"1"]),
            archive.add(".storage_alignment", [str(ALIGNMENT).encode()]),
            archive.add("byteorder", [sys.byteorder.encode()]),
        ]
        for index, (name, tensor) in enumerate(tensors.items()):
            crcs.append(archive.add(f"data/{index}", _values(name, tensor, shown), tensor.nbytes))
        if metadata:
            crcs.append(archive.add(ZIP_RECORD, [extra]))
        crcs.append(archive.add("version", [b"3\n"]))
        archive.add(".data/serialization_id", [_fingerprint(crcs)])


def _values(name: str, tensor: Tensor, shown: str | Path) -> Iterator[memoryview]:
    array = tensor.read()
    if array.dtype != tensor.dtype or array.shape != tensor.shape:
        raise FormatError(
            f"{shown}: tensor {quoted(name)} was announced as {tensor.dtype} {tensor.shape}, but is {array.dtype} "
            f"{array.shape}; read its file again"
        )
    for piece in pieces(array):
        yield piece.view(np.uint8).data


def _fingerprint(crcs: list[int]) -> bytes:
    """40 digits that identify the content, as torch's do; torch only logs them."""
    packed = Struct(f"<{len(crcs)}I").pack(*crcs)
    return f"{zlib.crc32(packed):020d}{zlib.adler32(packed):020d}".encode()


def pickled(tensors: Mapping[str, Tensor]) -> bytes:
    """The pickle of an OrderedDict of contiguous tensors, whose storages have the keys "0", "1", ... in their order."""
    return _StateDictPickler().run(tensors)


class _StateDictPickler:
    def __init__(self) -> None:
        self._output = bytearray()
        self._memo: dict[bytes, int] = {}

    def run(self, tensors: Mapping[str, Tensor]) -> bytes:
        self._output += b"\x80\x02"
        self._empty_ordered_dict()
        self._output += b"("
        for index, (name, tensor) in enumerate(tensors.items()):
            self._output += _text(name)
            self._tensor(str(index), tensor)
        self._output += b"u."
        return bytes(self._output)

    def _tensor(self, key: str, tensor: Tensor) -> None:
        dtype = dtype_name(tensor.dtype)
        typed = dtype in _STORAGE_NAMES
        self._once(b"ctorch._utils\n_rebuild_tensor_v2\n" if typed else b"ctorch._utils\n_rebuild_tensor_v3\n")
        self._output += b"(("
        self._once(_text("storage"))
        self._once(f"ctorch\n{_STORAGE_NAMES[dtype]}\n".encode() if typed else b"ctorch.storage\nUntypedStorage\n")
        self._output += _text(key)
        self._once(_text("cpu"))
        self._output += _integer(tensor.size if typed else tensor.nbytes) + b"tQ"
        strides = [prod(max(1, length) for length in tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
        self._output += _integer(0) + _sizes(tensor.shape) + _sizes(strides) + b"\x89"  # False: requires_grad
        self._empty_ordered_dict()  # no hooks
        if not typed:
            self._once(f"ctorch\n{dtype}\n".encode())
        self._output += b"tR"

    def _empty_ordered_dict(self) -> None:
        self._once(_ORDERED_DICT)
        self._output += b")R"

    def _once(self, instruction: bytes) -> None:
        """Makes a value the first time and recalls it from the memo, which stays far below 256 values, after that."""
        if instruction in self._memo:
            self._output += bytes([ord("h"), self._memo[instruction]])
        else:
            self._memo[instruction] = len(self._memo)
            self._output += instruction + bytes([ord("q"), self._memo[instruction]])


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _integer(value: int) -> bytes:
    if value < 1 << 8:
        return b"K" + value.to_bytes(1, "little")
    if value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    if value < 1 << 31:
        return b"J" + value.to_bytes(4, "little")
    return b"\x8a\x08" + value.to_bytes(8, "little")


def _sizes(sizes: tuple[int, ...] | list[int]) -> bytes:
    items = b"".join(map(_integer, sizes))
    if len(sizes) > 3:
        return b"(" + items + b"t"
    return items + (b")", b"\x85", b"\x86", b"\x87")[len(sizes)]
