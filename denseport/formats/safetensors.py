"""The safetensors container: a JSON header, then the tensors' bytes.

Read and written here rather than by the library of that name, which holds every tensor in memory to write a file;
this streams one at a time, and holds each rule of the format to account with the tensor's name.
Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from denseport.checkpoint import Checkpoint, Tensor, dtype_name, dtype_of, pieces
from denseport.errors import FormatError, quoted
from denseport.formats.source_file import SourceFile

# The library allows 100 MB; a DenseNet's header is some 150 KB, and JSON takes many times its size in memory.
MAX_HEADER_BYTES = 16 << 20

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def read(path: Path, shown: str | Path | None = None) -> Checkpoint:
    """The tensors and metadata of a safetensors file; values are read when they are needed.

    Raises:
        FormatError: A rule of the format is broken: the header's bounds or JSON, a duplicate name, a dtype, a shape
            that does not account for its bytes, an overlap, a hole, or bytes that belong to no tensor.
    """

    file = SourceFile(path, shown)

    def broken(why: str) -> FormatError:
        return FormatError(f"{file.path}: {why}; the file is damaged or was not written by safetensors: get it again")

    if file.size < 8:
        raise broken("is too short for a header")
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > MAX_HEADER_BYTES or length > file.size - 8:
        raise broken(f"its header claims {length} bytes")
    try:
        header = json.loads(file.read(8, length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise broken(f"its header is no JSON object with unique names ({quoted(error)})") from None
    if not isinstance(header, dict):
        raise broken("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise broken("its __metadata__ is no table of strings")

    start, tensors, ranges = 8 + length, {}, []
    room = file.size - start
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry, broken)
        if not 0 <= begin <= end <= room:
            raise broken(f"tensor {quoted(name)} lies outside the file")
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise broken(f"tensor {quoted(name)} of shape {quoted(shape)} does not fill its {end - begin} bytes")
        ranges.append((begin, end, name))
        values = partial(_values, file, dtype, shape, start + begin)
        part = partial(_part, file, dtype, start + begin)
        tensors[name] = Tensor(dtype, shape, values, part)
    at = 0
    for begin, end, name in sorted(ranges):
        if begin != at:
            kind = "overlaps the tensor before it" if begin < at else "leaves a hole before it"
            raise broken(f"tensor {quoted(name)} {kind}")
        at = end
    if at != room:
        raise broken(f"{room - at} bytes at its end belong to no tensor")
    return Checkpoint(tensors, metadata, "safetensors", "safetensors", file.path, close=file.close)


def write(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path, shown: str | Path | None = None
) -> None:
    """Writes tensors in the order given, one at a time in memory; wide dtypes come first in the data, for alignment.

    Raises:
        FormatError: The format has no such dtype.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    header |= dict.fromkeys(tensors)
    offset = 0
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    for name, tensor in ordered:
        dtype = dtype_name(tensor.dtype)
        if dtype not in CODES or tensor.dtype != tensor.dtype.newbyteorder("<"):
            raise FormatError(
                f"{shown or path}: safetensors cannot hold {quoted(name)} of dtype {dtype}; give --dtype float32"
            )
        span = [offset, offset + tensor.nbytes]
        header[name] = {"dtype": CODES[dtype], "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{shown or path}: a name or the metadata has half a character (a lone surrogate)") from None
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for _, tensor in ordered:
            for piece in pieces(tensor.read()):
                file.write(piece.view(np.uint8).data)


def _entry(name: str, entry: object, broken: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """The dtype, shape and byte range of one header entry."""
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [begin, end], **rest} if not rest:
            numbers = all(type(number) is int for number in (*shape, begin, end))
            if numbers and len(shape) <= 32 and all(0 <= side < 1 << 48 for side in shape):
                return _dtype(name, code, broken), tuple(shape), begin, end
    raise broken(f"tensor {quoted(name)} has no proper dtype, shape and data_offsets")


def _dtype(name: str, code: str, broken: Any) -> np.dtype[Any]:
    if code not in DTYPES:
        raise broken(f"tensor {quoted(name)} has dtype {quoted(code)}, which DenseNets are not stored in")
    return dtype_of(DTYPES[code])


def _values(file: SourceFile, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> np.ndarray:
    stored = np.frombuffer(file.read(offset, math.prod(shape) * dtype.itemsize), dtype.newbyteorder("<"))
    return stored.astype(dtype, copy=False).reshape(shape)


def _part(file: SourceFile, dtype: np.dtype[Any], offset: int, first: int, stop: int) -> np.ndarray:
    return _values(file, dtype, (stop - first,), offset + first * dtype.itemsize)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name occurs twice")
    return table
