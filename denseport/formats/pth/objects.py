"""What a PyTorch pickle may name: an allow-list of plain containers, storages and tensors, which are only recorded.

Source: torch `_weights_only_unpickler.py` and `_utils.py`, narrowed to dense tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from denseport.checkpoint import dtype_of
from denseport.errors import FormatError, quoted
from denseport.formats.pth import pickle_machine
from denseport.formats.pth.pickle_state import Constructor, MalformedPickleError, add_item, set_of

# torch's names of storages for the dtypes that have one; bfloat16 is ml_dtypes' to numpy.
STORAGES: Mapping[str, str] = MappingProxyType(
    {
        "DoubleStorage": "float64",
        "FloatStorage": "float32",
        "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16",
        "LongStorage": "int64",
        "IntStorage": "int32",
        "ShortStorage": "int16",
        "CharStorage": "int8",
        "ByteStorage": "uint8",
        "BoolStorage": "bool",
    }
)
# Newer dtypes have none: their bytes lie in an untyped storage, and the tensor says the dtype.
UNTYPED_DTYPES = ("uint16", "uint32", "uint64")
DTYPES = (*STORAGES.values(), *UNTYPED_DTYPES)

_RESAVE = (
    "load it once where that code is trusted and save the weights alone: torch.save(model.state_dict(), 'new.pth')"
)
_OTHER_REMEDIES = MappingProxyType(
    {
        "torch._utils._rebuild_sparse_tensor": "a sparse tensor; save it dense: tensor.to_dense()",
        "torch._utils._rebuild_qtensor": "a quantized tensor; save its values: tensor.dequantize()",
        "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values; load the weights before saving",
    }
)
_DTYPE_PREFIXES = ("float", "bfloat", "complex", "int", "uint", "qint", "quint", "bits")


@dataclass(frozen=True, slots=True)
class Dtype:
    """A torch dtype, which numpy calls by the same name."""

    name: str

    def to_numpy(self) -> np.dtype[Any]:
        """The dtype of arrays, in native byte order."""
        return dtype_of(self.name)


@dataclass(frozen=True, slots=True)
class StorageType:
    """The type of a storage's elements, `uint8` for an untyped storage, which is counted in bytes."""

    dtype: Dtype


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage that the pickle declares: `count` elements, of which `length` from `start` on belong to the tensors."""

    key: str
    type: StorageType
    count: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """The arguments that torch would rebuild a tensor from; nothing about them has been checked."""

    storage: object
    offset: object
    shape: object
    strides: object
    dtype: Dtype | None = None


class TorchUnpickler:
    """Reads the pickles in `data` and collects the storages that they declare; `part` names them in messages."""

    def __init__(self, path: str | Path, data: bytes, part: str) -> None:
        self._path = path
        self._data = data
        self._part = part
        self.storages: dict[str, Storage] = {}

    def read(self, position: int = 0) -> tuple[object, int]:
        """The value of one pickle, and the position after it. Tensors come as `TensorRecord`.

        Raises:
            FormatError: The pickle is malformed, or names anything but plain containers and tensors.
        """
        source = f"{self._path}: {self._part}"
        return pickle_machine.run(self._data, position, source, self._global, self._storage)

    def _global(self, module: str, name: str) -> object:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            dotted = f"{module}.{name}"
        if module == "torch" and (name.endswith("Storage") or name.startswith(_DTYPE_PREFIXES)):
            remedy = "a dtype that denseport does not carry; convert the weights first: model.float()"
        else:
            remedy = _OTHER_REMEDIES.get(dotted, f"code that denseport never runs; {_RESAVE}")
        raise FormatError(f"{self._path}: {self._part} refers to {quoted(dotted)}, {remedy}")

    def _storage(self, identity: object) -> Storage:
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            raise MalformedPickleError("a persistent id is no storage")
        _, kind, key, _, count, *rest = identity
        if type(kind) is not StorageType or type(key) not in (str, int) or not _is_size(count):
            raise MalformedPickleError("a storage is declared without its type, key or length")
        start, length = 0, count
        if rest and rest[0] is not None:
            start, length = _view(rest[0], count)
        declared = self.storages.setdefault(str(key), Storage(str(key), kind, count, 0, count))
        if (declared.type, declared.count) != (kind, count):
            raise MalformedPickleError(f"storage {quoted(key)} is declared in two ways")
        return declared if (start, length) == (0, count) else Storage(declared.key, kind, count, start, length)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _view(view: object, count: int) -> tuple[int, int]:
    """First element and length of a view of a storage, which torch wrote before 0.4 in place of an offset."""
    if type(view) is not tuple or len(view) != 3 or not _is_size(view[1]) or not _is_size(view[2]):
        raise MalformedPickleError("a view of a storage is declared without its offset and length")
    if view[1] + view[2] > count:
        raise MalformedPickleError("a view of a storage reaches beyond it")
    return view[1], view[2]


def _rebuild_tensor(arguments: tuple[object, ...]) -> TensorRecord:
    if len(arguments) != 4:
        raise MalformedPickleError("_rebuild_tensor takes 4 arguments")
    storage, offset, shape, strides = arguments
    return TensorRecord(storage, offset, shape, strides)


def _rebuild_tensor_v2(arguments: tuple[object, ...]) -> TensorRecord:
    if len(arguments) not in (6, 7):
        raise MalformedPickleError("_rebuild_tensor_v2 takes 6 or 7 arguments")
    storage, offset, shape, strides, _, _, *metadata = arguments
    _check_metadata(metadata)
    return TensorRecord(storage, offset, shape, strides)


def _rebuild_tensor_v3(arguments: tuple[object, ...]) -> TensorRecord:
    if len(arguments) not in (7, 8):
        raise MalformedPickleError("_rebuild_tensor_v3 takes 7 or 8 arguments")
    storage, offset, shape, strides, _, _, dtype, *metadata = arguments
    if type(dtype) is not Dtype:
        raise MalformedPickleError("_rebuild_tensor_v3 is called without a dtype")
    _check_metadata(metadata)
    return TensorRecord(storage, offset, shape, strides, dtype)


def _check_metadata(metadata: list[object]) -> None:
    # Its bits say that the values are conjugated or negated as they are read.
    if metadata and metadata[0]:
        raise MalformedPickleError("a tensor is a conjugated or negated view; save tensor.resolve_conj().resolve_neg()")


def _rebuild_parameter(arguments: tuple[object, ...]) -> TensorRecord:
    # (tensor, requires_grad, hooks) and, for a parameter with attributes of its own, those.
    if len(arguments) not in (3, 4) or type(arguments[0]) is not TensorRecord:
        raise MalformedPickleError("a parameter is made of something else than a tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[object, ...]) -> dict[object, object]:
    items: dict[object, object] = {}
    if not arguments:
        return items
    # Python 2 passes all items as a list of pairs.
    if len(arguments) != 1 or type(arguments[0]) is not list:
        raise MalformedPickleError("OrderedDict takes a list of pairs")
    for pair in arguments[0]:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise MalformedPickleError("OrderedDict takes a list of pairs")
        add_item(items, pair[0], pair[1])
    return items


def _counter(arguments: tuple[object, ...]) -> dict[object, object]:
    if len(arguments) > 1 or (arguments and type(arguments[0]) is not dict):
        raise MalformedPickleError("Counter takes a dict")
    return dict(arguments[0]) if arguments else {}  # type: ignore[call-overload]


def _set(arguments: tuple[object, ...]) -> set[object]:
    if len(arguments) != 1 or type(arguments[0]) is not list:
        raise MalformedPickleError("set takes a list")
    return set_of(arguments[0])


def _bytes(arguments: tuple[object, ...]) -> bytes:
    if arguments:
        raise MalformedPickleError("bytes takes no arguments")
    return b""


def _encode(arguments: tuple[object, ...]) -> bytes:
    # How protocol 2 spells bytes.
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] not in ("latin1", "latin-1"):
        raise MalformedPickleError("_codecs.encode takes a text and 'latin1'")
    try:
        return arguments[0].encode("latin-1")
    except UnicodeEncodeError:
        raise MalformedPickleError("a text is not latin1") from None


def _size(arguments: tuple[object, ...]) -> tuple[object, ...]:
    if len(arguments) != 1 or type(arguments[0]) not in (tuple, list):
        raise MalformedPickleError("torch.Size takes a tuple")
    return tuple(arguments[0])  # type: ignore[arg-type]


def _device(arguments: tuple[object, ...]) -> str:
    if [type(argument) for argument in arguments] not in ([str], [str, int]):
        raise MalformedPickleError("torch.device takes a text and an index")
    return ":".join(str(part) for part in arguments)


def _constructors() -> dict[tuple[str, str], Constructor]:
    builders: dict[tuple[str, str], Callable[[tuple[object, ...]], object]] = {
        ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
        ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
        ("torch", "Size"): _size,
        ("torch", "device"): _device,
        ("collections", "OrderedDict"): _ordered_dict,
        ("collections", "Counter"): _counter,
        ("_codecs", "encode"): _encode,
    }
    for module in ("builtins", "__builtin__"):  # the second is Python 2's, and so what protocol 2 says
        builders |= {(module, "set"): _set, (module, "frozenset"): _set, (module, "bytes"): _bytes}
    return {(module, name): Constructor(f"{module}.{name}", build) for (module, name), build in builders.items()}


_GLOBALS: Mapping[tuple[str, str], object] = MappingProxyType(
    _constructors()
    | {("torch", name): Dtype(name) for name in DTYPES}
    | {
        (module, name): StorageType(Dtype(dtype))
        for module in ("torch", "torch.cuda")
        for name, dtype in STORAGES.items()
    }
    | {
        (module, name): StorageType(Dtype("uint8"))
        for module in ("torch", "torch.storage")
        for name in ("UntypedStorage", "_UntypedStorage")
    }
)
