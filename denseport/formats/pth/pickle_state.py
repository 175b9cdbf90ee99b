"""What a pickle works on while it is interpreted, with the rules that keep its values plain and its cost bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from denseport.errors import quoted

# A state dict takes about 40 instructions and 150 bytes a tensor. No instruction makes a value of over 216 bytes (an
# empty set), so that a million of them stay under 300 MB and two seconds whatever they are.
MAX_INSTRUCTIONS = 1_000_000
MAX_BYTES = 32 << 20
MAX_DEPTH = 256
MAX_INTEGER_BYTES = 255
MAX_LINE_BYTES = 512

_KEY_TYPES = frozenset({str, int, float, bool, bytes, type(None)})


class MalformedPickleError(ValueError):
    """A pickle does what none of plain values does; `pickle_machine.run` turns it into a `FormatError`."""


@dataclass(frozen=True, slots=True)
class Constructor:
    """What a pickle may call: `build` makes a value of the arguments or raises `MalformedPickleError`."""

    name: str
    build: Callable[[tuple[object, ...]], object]


class PickleState:
    """The stack, marks and memo of one run over `data`, which may use `MAX_BYTES` from `position` on."""

    def __init__(
        self,
        data: bytes,
        position: int,
        find_global: Callable[[str, str], object],
        load_persistent: Callable[[object], object],
    ) -> None:
        self.data = data
        self.find_global = find_global
        self.load_persistent = load_persistent
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self._end = min(len(data), position + MAX_BYTES)
        self._marked: list[list[object]] = []
        self._copied = 0

    def take(self, position: int, length: int) -> bytes:
        """The `length` bytes at `position`."""
        if position + length > self._end:
            raise MalformedPickleError(f"it ends inside a value, or is longer than {MAX_BYTES} bytes")
        return self.data[position : position + length]

    def line(self, position: int) -> tuple[bytes, int]:
        """The bytes up to a line end, and the position after that."""
        end = self.data.find(b"\n", position, position + MAX_LINE_BYTES)
        if end < 0:
            raise MalformedPickleError(f"a line has no end within {MAX_LINE_BYTES} bytes")
        return self.data[position:end], end + 1

    def mark(self) -> None:
        """Puts the stack aside for a new one."""
        if len(self._marked) >= MAX_DEPTH:
            raise MalformedPickleError(f"it is nested deeper than {MAX_DEPTH} levels")
        self._marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[object]:
        """The values since the last mark; the stack is as it was at the mark."""
        items, self.stack = self.stack, self._marked.pop()
        return items

    def result(self) -> object:
        """The only value that is left."""
        if self._marked or len(self.stack) != 1:
            raise MalformedPickleError("it ends with values left over")
        return self.stack.pop()

    def call(self, constructor: object, arguments: object) -> object:
        """The value that the constructor builds; only what a name stood for can be called."""
        if type(constructor) is not Constructor:
            raise MalformedPickleError(f"it calls a {type(constructor).__name__}")
        if type(arguments) is not tuple:
            raise MalformedPickleError(f"it calls {constructor.name} without arguments")
        # A call may copy its arguments, and a pickle can recall the same long one again and again in two bytes.
        for argument in arguments:
            if isinstance(argument, (list, tuple, dict, set)):
                self._copied += len(argument)
            elif isinstance(argument, str):
                self._copied += len(argument) // 16  # characters take so much less than items
        if self._copied > MAX_INSTRUCTIONS:
            raise MalformedPickleError("it copies values over and over")
        return constructor.build(arguments)


def checked_key(key: object) -> object:
    """A value that may be hashed: nested tuples take exponential time, huge integers all collide."""
    kind = type(key)
    if kind not in _KEY_TYPES or (kind is int and not -(1 << 63) <= key < 1 << 63):  # type: ignore[operator]
        raise MalformedPickleError(f"a dict or set has a {kind.__name__} for a key")
    return key


def add_item(target: object, key: object, value: object) -> None:
    """Puts a value under a new key of a dict."""
    if type(target) is not dict:
        raise MalformedPickleError(f"it puts an item into a {type(target).__name__}")
    if checked_key(key) in target:
        raise MalformedPickleError(f"a dict has the key {quoted(key)} twice")
    target[key] = value


def set_of(items: Iterable[object]) -> set[object]:
    """The set of values that are plain enough to be hashed."""
    return {checked_key(item) for item in items}
