"""What a PyTorch pickle names that matters here: plain containers, storages, tensors and arrays; only recorded.

Source: torch/_weights_only_unpickler.py and torch/_utils.py, narrowed to dense tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any

import numpy as np

from denseport.checkpoint import dtype_of
from denseport.errors import quoted
from denseport.formats.pth import arrays
from denseport.formats.pth.records import MalformedPickleError, Name, Record, called_new, reconstructor

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

_PLAIN_KEYS = frozenset({str, int, float, bool, bytes, NoneType})


@dataclass(frozen=True, slots=True)
class Dtype:
    """A torch dtype, which numpy calls by the same name."""

    name: str

    def to_numpy(self) -> np.dtype[Any]:
        """The dtype of arrays, in native byte order."""
        return dtype_of(self.name)


@dataclass(frozen=True, slots=True)
class StorageType(Dtype):
    """The dtype of a storage's elements, `uint8` for an untyped storage, which is counted in bytes."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage that the pickle declares: `count` elements, of which `length` from `start` on belong to the tensors."""

    key: str
    type: StorageType
    count: int
    start: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """The arguments that torch would rebuild a tensor from; nothing about them has been checked."""

    storage: object
    offset: object
    shape: object
    strides: object
    dtype: Dtype | None = None


# Objects that are equal to themselves alone, such as the parameters that an optimizer's state goes by.
_IDENTITIES = frozenset({TensorRecord, Record, Name})
MAX_KEY_PARTS = 16


def add_item(target: object, key: object, value: object) -> None:
    """Puts a value under a new key of a dict, or of what would be one."""
    if type(target) is Record:
        record = target
        target = record.entries = {} if record.entries is None else record.entries
    if type(target) is not dict:
        raise MalformedPickleError(f"it puts an item into a {type(target).__name__}")
    if checked_key(key) in target:
        raise MalformedPickleError(f"a dict has the key {quoted(key)} twice")
    target[key] = value


def checked_key(key: object) -> object:
    """A value that may be hashed: nested tuples take exponential time, huge integers all collide."""
    kind = type(key)
    if kind in _IDENTITIES:
        return key
    parts: tuple[object, ...] = key if kind is tuple and len(key) <= MAX_KEY_PARTS else (key,)  # type: ignore
    for part in parts:
        of = type(part)
        if of not in _PLAIN_KEYS or (of is int and not -(1 << 63) <= part < 1 << 63):  # type: ignore[operator]
            raise MalformedPickleError(f"a dict or set has a {kind.__name__} for a key")
    return key


def _rebuild_tensor(storage: object, offset: object, shape: object, strides: object) -> TensorRecord:
    return TensorRecord(storage, offset, shape, strides)


def _rebuild_tensor_v2(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    _requires_grad: object,
    _hooks: object,
    metadata: object = None,
) -> TensorRecord:
    _refuse_lazy_views(metadata)
    return TensorRecord(storage, offset, shape, strides)


def _rebuild_tensor_v3(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    _requires_grad: object,
    _hooks: object,
    dtype: object,
    metadata: object = None,
) -> TensorRecord:
    if type(dtype) is not Dtype:
        raise MalformedPickleError("_rebuild_tensor_v3() is called without a dtype")
    _refuse_lazy_views(metadata)
    return TensorRecord(storage, offset, shape, strides, dtype)


def _refuse_lazy_views(metadata: object) -> None:
    # Its bits say that the values are conjugated or negated as they are read.
    if metadata:
        raise MalformedPickleError("a tensor is a conjugated or negated view; save tensor.resolve_conj().resolve_neg()")


def _rebuild_parameter(
    tensor: object, _requires_grad: object, _hooks: object, _attributes: object = None
) -> TensorRecord:
    if type(tensor) is not TensorRecord:
        raise MalformedPickleError("a parameter is made of something else than a tensor")
    return tensor


def _old_parameter(tensor: object, *_: object) -> TensorRecord:
    # How torch wrote a parameter before 0.4.
    return _rebuild_parameter(tensor, None, None)


def _rebuild_from_type(build: object, _type: object, arguments: object, _state: object) -> TensorRecord:
    # A tensor of a class of its own, whose values are any tensor's.
    if build not in _TENSORS or type(arguments) is not tuple:
        raise MalformedPickleError("a tensor is made by something else than a function for tensors")
    made: TensorRecord = build(*arguments)
    return made


def _default_dict(_factory: object = None, items: object = None) -> dict[object, object]:
    return {} if items is None else _counter(items)


def _ordered_dict(pairs: object = None) -> dict[object, object]:
    # Python 2 passes all items as a list of pairs.
    pairs = [] if pairs is None else pairs
    if type(pairs) is not list or any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
        raise MalformedPickleError("OrderedDict takes a list of pairs")
    items: dict[object, object] = {}
    for key, value in pairs:
        add_item(items, key, value)
    return items


def _counter(counts: object = None) -> dict[object, object]:
    counts = {} if counts is None else counts
    if type(counts) is not dict:
        raise MalformedPickleError("Counter takes a dict")
    return dict(counts)


def _set(items: object) -> set[object]:
    if type(items) is not list:
        raise MalformedPickleError("set takes a list")
    return set(map(checked_key, items))


def _bytes() -> bytes:
    return b""


def _encode(text: object, encoding: object) -> bytes:
    # How protocol 2 spells bytes.
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise MalformedPickleError("_codecs.encode takes a string and 'latin1'")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise MalformedPickleError("a string is not latin1") from None


def _size(sides: object) -> tuple[object, ...]:
    if type(sides) not in (tuple, list):
        raise MalformedPickleError("torch.Size takes a tuple")
    return tuple(sides)  # type: ignore[arg-type]


def _device(kind: object, index: object = None) -> str:
    if type(kind) is not str or type(index) not in (int, NoneType):
        raise MalformedPickleError("torch.device takes a string and an index")
    return kind if index is None else f"{kind}:{index}"


_TENSORS = (_rebuild_tensor, _rebuild_tensor_v2, _rebuild_tensor_v3, _rebuild_parameter)

# What these names in a pickle stand for. The functions are the only ones that a pickle can call.
GLOBALS: Mapping[tuple[str, str], object] = MappingProxyType(
    {
        ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
        ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
        ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
        ("torch.nn.parameter", "Parameter"): _old_parameter,
        ("torch.autograd.variable", "Variable"): _old_parameter,
        ("torch", "Size"): _size,
        ("torch", "device"): _device,
        ("collections", "OrderedDict"): _ordered_dict,
        ("collections", "Counter"): _counter,
        ("collections", "defaultdict"): _default_dict,
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): arrays.dtype,
    }
    | {
        (f"numpy.{core}.{module}", name): build
        for core in ("core", "_core")
        for module, name, build in (
            ("multiarray", "_reconstruct", arrays.reconstruct),
            ("multiarray", "scalar", arrays.scalar),
            ("numeric", "_frombuffer", arrays.from_buffer),
        )
    }
    | {
        (module, name): build
        for module in ("copyreg", "copy_reg")
        for name, build in (("_reconstructor", reconstructor), ("__newobj__", called_new))
    }
    | {
        (module, name): build
        for module in ("builtins", "__builtin__")  # the second is Python 2's, and so what protocol 2 says
        for name, build in (("set", _set), ("frozenset", _set), ("bytes", _bytes))
    }
    | {("torch", name): Dtype(name) for name in DTYPES}
    | {(module, name): StorageType(dtype) for module in ("torch", "torch.cuda") for name, dtype in STORAGES.items()}
    | {
        (module, name): StorageType("uint8")
        for module in ("torch", "torch.storage")
        for name in ("UntypedStorage", "_UntypedStorage")
    }
)
