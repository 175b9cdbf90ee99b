"""Pickles a state dict as torch's own pickler does, in protocol 2, from the tensors' dtypes and shapes alone.

Source: torch/serialization.py `_save`, torch/_tensor.py `Tensor._reduce_ex_internal`, CPython Lib/pickletools.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from denseport.checkpoint import Tensor, dtype_name
from denseport.formats.pth.objects import STORAGES

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}
_ORDERED_DICT = b"ccollections\nOrderedDict\n"


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
