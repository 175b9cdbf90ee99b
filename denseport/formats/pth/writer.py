"""Writes PyTorch checkpoints as torch 2.14 does, so that `torch.load(weights_only=True)`, mapped or not, reads them.

Source: torch/serialization.py `_save`, caffe2/serialize/inline_container.cc `PyTorchStreamWriter`, miniz.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import Struct

import numpy as np

from denseport.checkpoint import Tensor, dtype_name, pieces
from denseport.errors import FormatError, quoted
from denseport.formats.pth.containers import MAX_METADATA_BYTES, METADATA_RECORD
from denseport.formats.pth.objects import DTYPES
from denseport.formats.pth.pickler import pickled
from denseport.formats.zip.writer import ZipWriter

ROOT = "archive"
ALIGNMENT = 64


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
            crcs.append(archive.add(METADATA_RECORD, [extra]))
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
