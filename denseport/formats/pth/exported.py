"""Programs of `torch.export`, `.pt2`: their weights by the index that stands beside them. The program is not read.

Source: torch/export/pt2_archive/_package.py, constants.py; torch/_export/serde/schema.py: ScalarType, Layout,
TensorMeta.
"""

from __future__ import annotations

import json
from typing import Any

from denseport.errors import FormatError, quoted
from denseport.formats.pth.objects import Dtype, Storage, StorageType, TensorRecord
from denseport.formats.source_file import COPY_AGAIN, SourceFile
from denseport.formats.zip import ZipArchive

INDEX = "data/weights/model_weights_config.json"
WEIGHTS = "data/weights/"
NOTE = (
    "the file is a program of torch.export, whose weights alone are read: what its layers do beside them, such as "
    "their epsilon and strides, is assumed"
)

_MAX_INDEX_BYTES = 16 << 20
_STRIDED = 7
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool",
    13: "bfloat16",
}  # fmt: skip
_REMEDY = "save a state dict: torch.save(torch.export.load(path).state_dict, 'new.pth')"


def is_exported(archive: ZipArchive, root: str) -> bool:
    """Whether an archive is such a program."""
    return root + INDEX in archive.entries


def tensors(file: SourceFile, archive: ZipArchive, root: str) -> dict[object, object]:
    """What the index says of each tensor, by name; its bytes are the entry of the archive that its storage names.

    Raises:
        FormatError: The index is none, or a tensor is pickled, sparse or of a dtype that has no place here.
    """
    try:
        index = json.loads(archive.content(archive.entries[root + INDEX], _MAX_INDEX_BYTES))["config"]
        return {str(name): _record(file, archive, root, str(name), entry) for name, entry in index.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FormatError(f"{file.path}: {INDEX} is no index of tensors; {COPY_AGAIN}") from None


def _record(file: SourceFile, archive: ZipArchive, root: str, name: str, entry: dict[str, Any]) -> TensorRecord:
    described = entry["tensor_meta"]
    dtype = _DTYPES.get(described["dtype"])
    if entry["use_pickle"] or described["layout"] != _STRIDED or dtype is None:
        raise FormatError(f"{file.path}: tensor {quoted(name)} is pickled, sparse or of a rare dtype; {_REMEDY}")
    key = str(entry["path_name"])
    stored = archive.entries.get(root + WEIGHTS + key)
    if stored is None:
        raise FormatError(f"{file.path}: tensor {quoted(name)} has its values in {quoted(key)}, which is not there; "
                          f"{COPY_AGAIN}")  # fmt: skip
    storage = Storage(key, StorageType("uint8"), stored.size, 0, stored.size)
    sizes, strides = (tuple(each["as_int"] for each in described[which]) for which in ("sizes", "strides"))
    return TensorRecord(storage, described["storage_offset"]["as_int"], sizes, strides, Dtype(dtype))
