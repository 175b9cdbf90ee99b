"""The instructions of pickle protocols 2 to 5 that plain values, names and persistent ids need; no others.

Each takes the state and the position of its argument, and returns the position of the next instruction.

Source: CPython Lib/pickletools.py, whose names of the instructions these are.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from denseport.formats.pth.pickle_state import (
    MAX_INTEGER_BYTES,
    MalformedPickleError,
    PickleState,
    add_item,
    set_of,
)

Instruction = Callable[[PickleState, int], int]

_UINT8, _UINT16, _UINT32, _UINT64 = Struct("<B"), Struct("<H"), Struct("<I"), Struct("<Q")
_INT32, _FLOAT64 = Struct("<i"), Struct(">d")


def _constant(value: object) -> Instruction:
    def push(state: PickleState, position: int) -> int:
        state.stack.append(value)
        return position

    return push


def _new(kind: type[list[object] | dict[object, object] | set[object]]) -> Instruction:
    def push(state: PickleState, position: int) -> int:
        state.stack.append(kind())
        return position

    return push


def _number(layout: Struct) -> Instruction:
    def push(state: PickleState, position: int) -> int:
        state.stack.append(layout.unpack_from(state.data, position)[0])
        return position + layout.size

    return push


def _counted(length: Struct, decode: Callable[[bytes], object]) -> Instruction:
    def push(state: PickleState, position: int) -> int:
        (count,) = length.unpack_from(state.data, position)
        position += length.size
        state.stack.append(decode(state.take(position, count)))
        return position + int(count)

    return push


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _python2_string(content: bytes) -> str | bytes:
    # Python 2 did not tell text and bytes apart.
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


def _integer(content: bytes) -> int:
    if len(content) > MAX_INTEGER_BYTES:
        raise MalformedPickleError(f"an integer has {len(content)} bytes, more than {MAX_INTEGER_BYTES}")
    return int.from_bytes(content, "little", signed=True)


def _int(state: PickleState, position: int) -> int:
    # Python 2 writes integers of 33 to 64 bits in digits, whatever the protocol.
    text, position = state.line(position)
    if len(text) > 20 or not text.removeprefix(b"-").isdigit():
        raise MalformedPickleError("an integer is not written in digits")
    state.stack.append(int(text))
    return position


def _proto(state: PickleState, position: int) -> int:
    if state.data[position] > 5:
        raise MalformedPickleError(f"its protocol {state.data[position]} is newer than 5")
    return position + 1


def _frame(_: PickleState, position: int) -> int:
    return position + _UINT64.size


def _mark(state: PickleState, position: int) -> int:
    state.mark()
    return position


def _pop(state: PickleState, position: int) -> int:
    state.stack.pop()
    return position


def _pop_mark(state: PickleState, position: int) -> int:
    state.since_mark()
    return position


def _memoize(state: PickleState, position: int) -> int:
    state.memo[len(state.memo)] = state.stack[-1]
    return position


def _binput(state: PickleState, position: int) -> int:
    state.memo[state.data[position]] = state.stack[-1]
    return position + 1


def _long_binput(state: PickleState, position: int) -> int:
    state.memo[_UINT32.unpack_from(state.data, position)[0]] = state.stack[-1]
    return position + 4


def _binget(state: PickleState, position: int) -> int:
    state.stack.append(state.memo[state.data[position]])
    return position + 1


def _long_binget(state: PickleState, position: int) -> int:
    state.stack.append(state.memo[_UINT32.unpack_from(state.data, position)[0]])
    return position + 4


def _tuple1(state: PickleState, position: int) -> int:
    state.stack.append((state.stack.pop(),))
    return position


def _tuple2(state: PickleState, position: int) -> int:
    pop = state.stack.pop
    second, first = pop(), pop()
    state.stack.append((first, second))
    return position


def _tuple3(state: PickleState, position: int) -> int:
    pop = state.stack.pop
    third, second, first = pop(), pop(), pop()
    state.stack.append((first, second, third))
    return position


def _tuple(state: PickleState, position: int) -> int:
    items = tuple(state.since_mark())
    state.stack.append(items)
    return position


def _append(state: PickleState, position: int) -> int:
    item = state.stack.pop()
    _extend(state.stack[-1], [item])
    return position


def _appends(state: PickleState, position: int) -> int:
    items = state.since_mark()
    _extend(state.stack[-1], items)
    return position


def _extend(target: object, items: list[object]) -> None:
    if type(target) is not list:
        raise MalformedPickleError(f"it appends to a {type(target).__name__}")
    target.extend(items)


def _setitem(state: PickleState, position: int) -> int:
    value, key = state.stack.pop(), state.stack.pop()
    add_item(state.stack[-1], key, value)
    return position


def _setitems(state: PickleState, position: int) -> int:
    items = state.since_mark()
    target = state.stack[-1]
    if len(items) % 2:
        raise MalformedPickleError("a dict has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        add_item(target, key, value)
    return position


def _additems(state: PickleState, position: int) -> int:
    items = set_of(state.since_mark())
    target = state.stack[-1]
    if type(target) is not set:
        raise MalformedPickleError(f"it adds to a {type(target).__name__} as to a set")
    target |= items
    return position


def _frozenset(state: PickleState, position: int) -> int:
    items = set_of(state.since_mark())
    state.stack.append(items)
    return position


def _global(state: PickleState, position: int) -> int:
    module, position = state.line(position)
    name, position = state.line(position)
    state.stack.append(state.find_global(module.decode("utf-8"), name.decode("utf-8")))
    return position


def _stack_global(state: PickleState, position: int) -> int:
    name, module = state.stack.pop(), state.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise MalformedPickleError("a name in it is not a text")
    state.stack.append(state.find_global(module, name))
    return position


def _reduce(state: PickleState, position: int) -> int:
    arguments, constructor = state.stack.pop(), state.stack.pop()
    state.stack.append(state.call(constructor, arguments))
    return position


def _build(state: PickleState, position: int) -> int:
    # The attributes of an OrderedDict, where torch keeps `_metadata`: no weight is among them.
    state.stack.pop()
    if type(state.stack[-1]) is not dict:
        raise MalformedPickleError(f"it sets attributes of a {type(state.stack[-1]).__name__}")
    return position


def _binpersid(state: PickleState, position: int) -> int:
    state.stack.append(state.load_persistent(state.stack.pop()))
    return position


def _unknown(state: PickleState, position: int) -> int:
    raise MalformedPickleError(f"instruction {state.data[position - 1]:#04x} is none that plain values need")


_KNOWN: dict[bytes, Instruction] = {
    b"\x80": _proto,
    b"\x95": _frame,
    b"(": _mark,
    b"0": _pop,
    b"1": _pop_mark,
    b"\x94": _memoize,
    b"q": _binput,
    b"r": _long_binput,
    b"h": _binget,
    b"j": _long_binget,
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"K": _number(_UINT8),
    b"M": _number(_UINT16),
    b"J": _number(_INT32),
    b"G": _number(_FLOAT64),
    b"I": _int,
    b"\x8a": _counted(_UINT8, _integer),
    b"\x8b": _counted(_UINT32, _integer),
    b"\x8c": _counted(_UINT8, _text),
    b"X": _counted(_UINT32, _text),
    b"\x8d": _counted(_UINT64, _text),
    b"U": _counted(_UINT8, _python2_string),
    b"T": _counted(_UINT32, _python2_string),
    b"C": _counted(_UINT8, bytes),
    b"B": _counted(_UINT32, bytes),
    b"\x8e": _counted(_UINT64, bytes),
    b")": _constant(()),
    b"\x85": _tuple1,
    b"\x86": _tuple2,
    b"\x87": _tuple3,
    b"t": _tuple,
    b"]": _new(list),
    b"a": _append,
    b"e": _appends,
    b"}": _new(dict),
    b"s": _setitem,
    b"u": _setitems,
    b"\x8f": _new(set),
    b"\x90": _additems,
    b"\x91": _frozenset,
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"b": _build,
    b"Q": _binpersid,
}
INSTRUCTIONS = tuple(_KNOWN.get(bytes([opcode]), _unknown) for opcode in range(256))
STOP = ord(".")
