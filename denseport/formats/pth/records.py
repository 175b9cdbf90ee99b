"""What a pickle says of objects whose classes nobody imports: a name, arguments and state, which do nothing."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator


class MalformedPickleError(pickle.UnpicklingError):
    """A pickle does what none of plain values does; the unpickler turns it into a `FormatError`."""


class Name:
    """What a pickle calls a class or function: a dotted name, and nothing behind it."""

    __slots__ = ("dotted",)

    def __init__(self, dotted: str) -> None:
        self.dotted = dotted


class Record:
    """An object as a pickle describes it.

    Attributes:
        dotted: The name of its class, or of the function that would make it.
        arguments: What that would be given.
        state: What would become its attributes, as its class understands it; or None.
        entries: What it would hold as a dict, or None.
        values: What it would hold as a list or set, or None.
    """

    __slots__ = ("arguments", "dotted", "entries", "state", "values")

    def __init__(self, dotted: str, arguments: tuple[object, ...] = ()) -> None:
        self.dotted = dotted
        self.arguments = arguments
        self.state: object = None
        self.entries: dict[object, object] | None = None
        self.values: list[object] | None = None

    def append(self, value: object) -> None:
        """Adds a value, as a pickle adds to a list."""
        if self.values is None:
            self.values = []
        self.values.append(value)

    def extend(self, values: Iterable[object]) -> None:
        """Adds values."""
        for value in values:
            self.append(value)

    @property
    def attributes(self) -> dict[object, object]:
        """Its attributes, where its state is a dict of them, as it is unless a class says otherwise."""
        return self.state if type(self.state) is dict else {}

    def children(self) -> Iterator[tuple[object, object]]:
        """Its attributes, then what it holds by key or place; of an object that is all arguments, those."""
        parts = self.state if type(self.state) is tuple else (self.state,)  # attributes in a dict, and in slots
        held = [part for part in (*parts[:2], self.entries) if type(part) is dict]
        for part in held:
            for key, value in part.items():
                yield (key if type(key) in (str, int) else f"<{type(key).__name__}>"), value
        if self.values is not None or not held:
            yield from enumerate(self.arguments if self.values is None else self.values)


def new_object(kind: object, arguments: object = ()) -> Record:
    """What a class would make of some arguments in its `__new__`."""
    if type(kind) is not Name or type(arguments) is not tuple:
        raise MalformedPickleError(f"it makes an object of a {type(kind).__name__}, or without arguments")
    return Record(kind.dotted, arguments)


def called_new(kind: object, *arguments: object) -> Record:
    """The same, as protocols before 2 spell it."""
    return new_object(kind, arguments)


def reconstructor(kind: object, _base: object, state: object) -> Record:
    """An object as protocols 0 and 1 spell it: of a class that builds on one of Python's own."""
    record = new_object(kind)
    if type(state) is dict:
        record.entries = state
    elif type(state) in (list, tuple, set):
        record.values = list(state)  # type: ignore[call-overload]
    return record
