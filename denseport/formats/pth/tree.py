"""The tensors within a pickled value, each under its full path: keys, places in lists and names joined by dots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from denseport.errors import FormatError, listed, quoted
from denseport.formats import MAX_LETTERS_OF_NAMES, MAX_TENSORS
from denseport.formats.pth.arrays import ArrayRecord
from denseport.formats.pth.modules import MAX_LEVELS, is_module, members
from denseport.formats.pth.objects import TensorRecord
from denseport.formats.pth.pickles import SAVE_STATE_DICT
from denseport.formats.pth.records import MalformedPickleError, Record
from denseport.formats.source_file import COPY_AGAIN

_CONTAINERS = frozenset({dict, list, tuple, Record})
_NAMES = frozenset({str, int})


@dataclass
class Tree:
    """What a pickled value holds.

    Attributes:
        tensors: The records of tensors by their paths, in the order of the file.
        others: The paths of what else stands beside them, with the classes of objects.
    """

    tensors: dict[str, TensorRecord | ArrayRecord] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def flattened(file: str | Path, value: object) -> Tree:
    """Every tensor within a value; one that stands at several places has several paths.

    Raises:
        FormatError: There is none, or none with a name; two have the same path; a path is no text; or there are more
            paths than any checkpoint has.
    """
    if type(value) in (TensorRecord, ArrayRecord):
        raise FormatError(f"{file}: holds a tensor without a name, not a state dict; {SAVE_STATE_DICT}")
    try:
        holding = _holding(value)
    except MalformedPickleError as error:
        raise FormatError(f"{file}: {error}; {COPY_AGAIN}") from None
    if id(value) not in holding:
        names = listed((name for name, _ in children(value)), 5)
        held = names if names else f"a{'n empty' * (type(value) in _CONTAINERS)} {type(value).__name__}"
        raise FormatError(f"{file}: holds no tensors, only {held}; {SAVE_STATE_DICT}")
    return _Walk(file, holding).tree(value)


def children(value: Any) -> Iterator[tuple[object, Any]]:
    """What a container holds, by name or place; a key that is neither counts by its place."""
    kind = type(value)
    if kind is dict:
        for place, (key, child) in enumerate(value.items()):
            yield (key if type(key) in _NAMES else f"<{place}>"), child
    elif kind is list or kind is tuple:
        yield from enumerate(value)
    elif kind is Record:
        yield from members(value) if is_module(value) else value.children()


def _is_tensor(value: Any) -> bool:
    return type(value) is TensorRecord or (type(value) is ArrayRecord and value.is_tensor)


def _holding(value: object) -> set[int]:
    """The ids of the containers within a value that hold a tensor at any depth; they may contain themselves."""
    parents: dict[int, list[int]] = {}
    direct: list[int] = []
    found = [value]
    while found:
        container = found.pop()
        own = id(container)
        for _, child in children(container):
            kind = type(child)
            if kind is TensorRecord or (kind is ArrayRecord and child.is_tensor):
                direct.append(own)
            elif kind in _CONTAINERS:
                of = parents.setdefault(id(child), [])
                of.append(own)
                if len(of) == 1:
                    found.append(child)
    holding: set[int] = set()
    while direct:
        container_id = direct.pop()
        if container_id not in holding:
            holding.add(container_id)
            direct += parents.get(container_id, ())
    return holding


class _Walk:
    """One walk through the containers that hold tensors, within bounds."""

    def __init__(self, file: str | Path, holding: set[int]) -> None:
        self._file = file
        self._holding = holding
        self._letters = 0
        self._found = Tree()

    def tree(self, value: object) -> Tree:
        """The tree of a container that holds tensors."""
        # From the root to the container that is looked at: it, its path, and what of it has not been seen.
        open_: list[tuple[object, str, Iterator[tuple[object, Any]]]] = [(value, "", children(value))]
        above = {id(value)}
        while open_:
            container, path, left = open_[-1]
            for key, child in left:
                name = self._path(path, key)
                if _is_tensor(child):
                    self._add(name, child)
                elif id(child) in self._holding and id(child) not in above:
                    if len(open_) == MAX_LEVELS:
                        raise FormatError(f"{self._file}: {quoted(name)} lies too deep; {SAVE_STATE_DICT}")
                    open_.append((child, f"{name}.", children(child)))
                    above.add(id(child))
                    break
                elif type(container) is not Record:
                    self._found.others.append(f"{name} ({child.dotted})" if type(child) is Record else name)
            else:
                open_.pop()
                above.discard(id(container))
        return self._found

    def _path(self, above: str, key: object) -> str:
        name = f"{above}{key}"
        self._letters += len(name)
        if self._letters > 4 * MAX_LETTERS_OF_NAMES:
            raise FormatError(f"{self._file}: holds more names than any checkpoint has; {SAVE_STATE_DICT}")
        return name

    def _add(self, path: str, tensor: TensorRecord | ArrayRecord) -> None:
        try:
            path.encode("utf-8")
        except UnicodeEncodeError:
            raise FormatError(
                f"{self._file}: tensor {quoted(path)} has a lone surrogate in its name; rename it"
            ) from None
        if path in self._found.tensors:
            raise FormatError(f"{self._file}: two tensors are called {quoted(path)}; {SAVE_STATE_DICT}")
        if len(self._found.tensors) > MAX_TENSORS:
            raise FormatError(f"{self._file}: holds more than {MAX_TENSORS} tensors; {SAVE_STATE_DICT}")
        self._found.tensors[path] = tensor
