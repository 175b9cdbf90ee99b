"""Interprets pickles without running code: it builds plain values, storages and records of tensors, and nothing else.

The standard library's unpickler is taken, in Python and not in C, with an allow-list of its opcodes. A name is never
imported or looked up: those that matter stand in a table, all others for themselves.
Whatever a pickle holds, its work and memory are bounded, and nothing recurses into its structure.

Source: CPython Lib/pickle.py `_Unpickler` and Lib/pickletools.py; torch/_weights_only_unpickler.py, narrowed further.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from struct import unpack
from types import FunctionType, MappingProxyType
from typing import Any, ClassVar

from denseport.errors import FormatError, quoted
from denseport.formats.pth.arrays import ArrayRecord, NumpyDtype
from denseport.formats.pth.dangers import is_dangerous
from denseport.formats.pth.objects import GLOBALS, Storage, StorageType, TensorRecord, add_item, checked_key
from denseport.formats.pth.records import MalformedPickleError, Name, Record, new_object
from denseport.formats.source_file import COPY_AGAIN

# A state dict takes about 40 opcodes and 150 bytes a tensor. No opcode makes a value of over 216 bytes (an
# empty set), so that a million of them stay under 300 MB and two seconds whatever they are.
MAX_OPCODES = 1_000_000
MAX_BYTES = 32 << 20
MAX_DEPTH = 256
MAX_INTEGER_BYTES = 255
MAX_LINE_BYTES = 512
MAX_NAME = 1024

SAVE_STATE_DICT = "save a state dict: torch.save(model.state_dict(), 'new.pth')"
_OTHER_REMEDIES = MappingProxyType(
    {
        "torch._utils._rebuild_sparse_tensor": "a sparse tensor; save it dense: tensor.to_dense()",
        "torch._utils._rebuild_qtensor": "a quantized tensor; save its values: tensor.dequantize()",
        "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values; load the weights before saving",
    }
)
# A module of torch's has ten of them.
_EMPTY_DICT = GLOBALS["collections", "OrderedDict"]
_COPIED = frozenset({list, tuple, dict, set})
_DTYPE_PREFIXES = ("float", "bfloat", "complex", "int", "uint", "qint", "quint", "bits")
# What the standard library does as it should; the other opcodes that are allowed have methods below.
_INHERITED = (
    *(pickle.PROTO, pickle.POP, pickle.POP_MARK, pickle.STACK_GLOBAL, pickle.GLOBAL, pickle.BINPERSID),
    pickle.MEMOIZE,
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8, pickle.SHORT_BINSTRING, pickle.BINSTRING),
    *(pickle.SHORT_BINBYTES, pickle.BINBYTES, pickle.BINBYTES8),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.TUPLE),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.EMPTY_SET),
)


class TorchUnpickler(pickle._Unpickler):
    """Reads the pickles in `data` one after the other; `part` names them in messages.

    Values are None, bool, int, float, str, bytes, list, tuple, dict, set, and what stands in `GLOBALS` or is built by
    its functions: above all, a tensor is a `TensorRecord`. Any other object is a `Record`, and any other class or
    function a `Name`.

    Attributes:
        storages: Every storage that the pickles have declared, by its key.
        names: Every other name that they refer to.
    """

    # What the base class keeps beside `memo`.
    stack: list[Any]
    metastack: list[list[Any]]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, path: str | Path, data: bytes, part: str) -> None:
        self._file = BytesIO(data)
        self._next = self._file.read
        # Python 2 did not tell text and bytes apart.
        super().__init__(self._file, encoding="utf-8", errors="surrogateescape")
        self._source = f"{path}: {part}"
        self.storages: dict[str, Storage] = {}
        self.names: dict[str, Name] = {}

    @property
    def position(self) -> int:
        """Where the next pickle begins."""
        return self._file.tell()

    def load(self) -> object:
        """The value of the next pickle.

        Raises:
            FormatError: The pickle is cut off, malformed, over a bound, uses opcodes that no state dict
                needs, or names what only an attack does, or tensors that cannot be converted.
        """
        self.stack, self.metastack = [], []
        self.append = self.stack.append
        self.memo: dict[int, object] = {}
        self._copied = 0
        try:
            return self._run()
        except KeyError as error:
            (opcode,) = error.args
            reason = f"opcode {opcode[0]:#04x} is none that a state dict needs" if opcode else "it ends too early"
        except AttributeError:
            reason = "it appends to a value that is no list, or adds to one that is no set"
        except IndexError:
            reason = "it ends too early, or its stack is empty"
        except UnicodeDecodeError:
            reason = "a string in it is not UTF-8"
        except (pickle.UnpicklingError, ValueError) as error:
            reason = str(error)
        raise FormatError(f"{self._source} is malformed near byte {self.position}: {reason}; {COPY_AGAIN}")

    def _run(self) -> object:
        read, methods = self._next, self._methods
        for _ in range(MAX_OPCODES):
            method = methods[read(1)]
            if method is None:
                if self.metastack or len(self.stack) != 1:
                    raise MalformedPickleError("it ends with values left over")
                return self.stack.pop()
            method(self)
        raise MalformedPickleError(f"it has more than {MAX_OPCODES} opcodes")

    def read(self, length: int) -> bytes:
        """The next bytes."""
        content = self._next(length)
        if len(content) < length:
            raise MalformedPickleError(f"it ends too early or after {MAX_BYTES} bytes")
        return content

    def readline(self) -> bytes:
        """The next line with its end."""
        line = self._file.readline(MAX_LINE_BYTES + 1)
        if not line.endswith(b"\n"):
            raise MalformedPickleError(f"a line has no end within {MAX_LINE_BYTES} bytes")
        return line

    def find_class(self, module: str, name: str) -> object:
        """What a name stands for."""
        if (module, name) in GLOBALS:
            return GLOBALS[module, name]
        if len(module) + len(name) > MAX_NAME:
            raise MalformedPickleError(f"a name has more than {MAX_NAME} letters")
        dotted = f"{module}.{name}"
        if module == "torch" and (name.endswith("Storage") or name.startswith(_DTYPE_PREFIXES)):
            remedy = "a dtype that denseport does not convert; convert the weights first: model.float()"
        elif dotted.startswith("torch._utils.") or is_dangerous(module, name):
            code = f"code that denseport never runs; load it where that code is trusted and {SAVE_STATE_DICT}"
            remedy = _OTHER_REMEDIES.get(dotted, code)
        else:
            return self.names.setdefault(dotted, Name(dotted))
        raise FormatError(f"{self._source} refers to {quoted(dotted)}, {remedy}")

    def persistent_load(self, identity: object) -> object:
        """The storage that an id declares, in the same way each time; or the class of a module."""
        if type(identity) is tuple and len(identity) == 4 and identity[0] == "module" and type(identity[1]) is Name:
            return identity[1]  # beside it stands its source code, as torch wrote before 1.6
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

    def _frame(self) -> None:
        self.read(8)  # how long the frame is, which helps those who read from a pipe

    def _mark(self) -> None:
        if len(self.metastack) >= MAX_DEPTH:
            raise MalformedPickleError(f"it is nested deeper than {MAX_DEPTH} levels")
        self.metastack.append(self.stack)
        self.stack = []
        self.append = self.stack.append

    # Of the most frequent opcodes, the standard library's methods are twice as slow.
    def _binput(self) -> None:
        self.memo[self._next(1)[0]] = self.stack[-1]

    def _binint1(self) -> None:
        self.append(self._next(1)[0])

    def _long_binput(self) -> None:
        self.memo[int.from_bytes(self._next(4), "little")] = self.stack[-1]

    def _binget(self) -> None:
        self._recall(self._next(1)[0])

    def _long_binget(self) -> None:
        self._recall(int.from_bytes(self._next(4), "little"))

    def _recall(self, place: int) -> None:
        try:
            self.append(self.memo[place])
        except KeyError:
            raise MalformedPickleError(f"it recalls value {place}, which it has not stored") from None

    def _int(self) -> None:
        # Python 2 writes integers of 33 to 64 bits in digits, whatever the protocol.
        text = self.readline()[:-1]
        if len(text) > 20 or not text.removeprefix(b"-").isdigit():
            raise MalformedPickleError("an integer is not written in digits")
        self.append(int(text))

    def _long4(self) -> None:
        (length,) = unpack("<I", self.read(4))
        if length > MAX_INTEGER_BYTES:
            raise MalformedPickleError(f"an integer has {length} bytes, more than {MAX_INTEGER_BYTES}")
        self.append(pickle.decode_long(self.read(length)))

    def _bytearray8(self) -> None:
        self.append(self.read(min(int.from_bytes(self.read(8), "little"), MAX_BYTES + 1)))

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        add_item(self.stack[-1], key, value)

    def _setitems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if len(items) % 2:
            raise MalformedPickleError("a dict has a key without a value")
        keys = items[::2]
        if type(target) is dict and not target and set(map(type, keys)) == {str}:
            target.update(zip(keys, items[1::2], strict=True))
            if len(target) == len(keys):
                return
            target.clear()  # to name the key that occurs twice
        for key, value in zip(keys, items[1::2], strict=True):
            add_item(target, key, value)

    def _additems(self) -> None:
        for item in self.stack:
            checked_key(item)
        super().load_additems()  # type: ignore[misc]

    def _frozenset(self) -> None:
        for item in self.stack:
            checked_key(item)
        super().load_frozenset()  # type: ignore[misc]

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if arguments == () and function is _EMPTY_DICT:
            self.append({})
            return
        if type(arguments) is not tuple:
            raise MalformedPickleError(f"it calls a {type(function).__name__} without arguments")
        if type(function) is Name:
            self.append(Record(function.dotted, arguments))
            return
        if type(function) is not FunctionType:
            raise MalformedPickleError(f"it calls a {type(function).__name__}")
        # A call may copy its arguments, and a pickle can recall the same long one again and again in two bytes.
        for argument in arguments:
            kind = type(argument)
            if kind in _COPIED:
                self._copied += len(argument)
            elif kind is str:
                self._copied += len(argument) // 16  # characters take so much less than items
        if self._copied > MAX_OPCODES:
            raise MalformedPickleError("it copies values over and over")
        try:
            self.append(function(*arguments))
        except TypeError as error:  # too few or too many arguments
            raise MalformedPickleError(str(error)) from None

    def _newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.append(new_object(kind, arguments))

    def _newobj_ex(self) -> None:
        keywords, arguments, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(new_object(kind, (arguments, keywords)))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        kind = type(target)
        if kind is Record:
            target.state = state
        elif kind is ArrayRecord or kind is NumpyDtype:
            target.set_state(state)
        elif kind is not dict and kind is not TensorRecord:
            # Those of an OrderedDict, where torch keeps `_metadata`, and of a tensor are no weights.
            raise MalformedPickleError(f"it sets attributes of a {kind.__name__}")

    # Every opcode that is allowed.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        opcode[0]: pickle._Unpickler.dispatch[opcode[0]] for opcode in _INHERITED
    } | {
        pickle.FRAME[0]: _frame,
        pickle.MARK[0]: _mark,
        pickle.BINPUT[0]: _binput,
        pickle.BININT1[0]: _binint1,
        pickle.LONG_BINPUT[0]: _long_binput,
        pickle.BINGET[0]: _binget,
        pickle.LONG_BINGET[0]: _long_binget,
        pickle.INT[0]: _int,
        pickle.LONG4[0]: _long4,
        pickle.BYTEARRAY8[0]: _bytearray8,
        pickle.SETITEM[0]: _setitem,
        pickle.SETITEMS[0]: _setitems,
        pickle.ADDITEMS[0]: _additems,
        pickle.FROZENSET[0]: _frozenset,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _newobj,
        pickle.NEWOBJ_EX[0]: _newobj_ex,
        pickle.BUILD[0]: _build,
    }
    _methods: ClassVar[dict[bytes, Callable[[Any], None] | None]] = {
        **{bytes([opcode]): method for opcode, method in dispatch.items()},
        pickle.STOP: None,
    }


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _view(view: object, count: int) -> tuple[int, int]:
    """First element and length of a view of a storage, which torch wrote before 0.4 in place of an offset."""
    if type(view) is not tuple or len(view) != 3 or not _is_size(view[1]) or not _is_size(view[2]):
        raise MalformedPickleError("a view of a storage is declared without its offset and length")
    if view[1] + view[2] > count:
        raise MalformedPickleError("a view of a storage reaches beyond it")
    return view[1], view[2]
