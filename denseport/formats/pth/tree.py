"""The tensors within a pickled value, each under its full path: keys, places in lists and names joined by dots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from denseport.errors import FormatError, listed, quoted
from denseport.formats import MAX_LETTERS_OF_NAMES, MAX_TENSORS
from denseport.formats.pth.objects import TensorRecord
from denseport.formats.pth.pickles import SAVE_STATE_DICT

MAX_LEVELS = 64


@dataclass
class Tree:
    """What a pickled value holds.

    Attributes:
        tensors: The records of tensors by their paths, in the order of the file.
        others: The paths of what else stands beside them.
    """

    tensors: dict[str, TensorRecord] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def flattened(file: str | Path, value: object) -> Tree:
    """Every tensor within a value; one that stands at several places has several paths.

    Raises:
        FormatError: There is none, or none with a name; two have the same path; a path is no text; or there are more
            paths than any checkpoint has.
    """
    if type(value) is TensorRecord:
        raise FormatError(f"{file}: holds a tensor without a name, not a state dict; {SAVE_STATE_DICT}")
    holding = _holding(value)
    if id(value) not in holding:
        names = listed((name for name, _ in children(value)), 5)
        held = names if names else f"a{'n empty' * _is_container(value)} {type(value).__name__}"
        raise FormatError(f"{file}: holds no tensors, only {held}; {SAVE_STATE_DICT}")
    return _Walk(file, holding).tree(value)


def children(value: object) -> Iterator[tuple[object, object]]:
    """What a container holds, by key or place."""
    if type(value) is dict:
        yield from value.items()
    elif type(value) in (list, tuple):
        yield from enumerate(value)  # type: ignore[arg-type]


def _is_container(value: object) -> bool:
    return type(value) in (dict, list, tuple)


def _holding(value: object) -> set[int]:
    """The ids of the containers within a value that hold a tensor at any depth; they may contain themselves."""
    parents: dict[int, list[int]] = {}
    direct: list[int] = []
    found, seen = [value], {id(value)}
    while found:
        container = found.pop()
        for _, child in children(container):
            if type(child) is TensorRecord:
                direct.append(id(container))
            elif _is_container(child):
                parents.setdefault(id(child), []).append(id(container))
                if id(child) not in seen:
                    seen.add(id(child))
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
        # Iterators of what is left to see of each container from the root to the one that is looked at.
        open_, paths, above = [children(value)], [""], [id(value)]
        while open_:
            for key, child in open_[-1]:
                path = self._path(paths[-1], key)
                if type(child) is TensorRecord:
                    self._add(path, child)
                elif id(child) in self._holding and id(child) not in above:
                    if len(above) == MAX_LEVELS:
                        raise FormatError(f"{self._file}: {quoted(path)} lies too deep; {SAVE_STATE_DICT}")
                    open_.append(children(child))
                    paths.append(f"{path}.")
                    above.append(id(child))
                    break
                else:
                    self._found.others.append(path)
            else:
                open_.pop()
                paths.pop()
                above.pop()
        return self._found

    def _path(self, above: str, key: object) -> str:
        if type(key) not in (str, int):
            raise FormatError(f"{self._file}: a key beside tensors is {quoted(repr(key))}, no name; {SAVE_STATE_DICT}")
        name = str(key)
        self._letters += len(above) + len(name)
        if self._letters > 4 * MAX_LETTERS_OF_NAMES:
            raise FormatError(f"{self._file}: holds more names than any checkpoint has; {SAVE_STATE_DICT}")
        return above + name

    def _add(self, path: str, tensor: TensorRecord) -> None:
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
