"""PyTorch checkpoints: the zip container and the one before torch 1.6, read and written without torch."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError, listed, quoted
from denseport.formats.pth.containers import Contents, read_legacy, read_zip
from denseport.formats.pth.objects import TensorRecord
from denseport.formats.pth.pickles import SAVE_STATE_DICT
from denseport.formats.pth.tensors import TensorReader
from denseport.formats.pth.writer import write
from denseport.formats.source_file import SourceFile

__all__ = ["read", "write"]

# Where training scripts keep the weights among other things, in the order in which they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def read(path: Path, shown: str | Path | None = None) -> Checkpoint:
    """The tensors of a checkpoint, read-only, which are read when they are needed, and verified the first time.

    Raises:
        FormatError: The file is broken or unsafe, holds code (a whole model, TorchScript) or no named tensors, or a
            tensor looks outside its storage.
        UsageError: The file cannot be opened.
    """
    file = SourceFile(path, shown)
    try:
        contents = read_zip(file) if file.read(0, 2) == b"PK" else read_legacy(file)
        return _checkpoint(file, contents)
    except FormatError:
        file.close()
        raise


def _checkpoint(file: SourceFile, contents: Contents) -> Checkpoint:
    wrapper, found, others = _state_dict(file.path, contents.value)
    reader = TensorReader(file.path, file.size, contents.stored, contents.byteorder)
    tensors: dict[str, Tensor] = {}
    for name, value in found.items():
        if type(value) is TensorRecord:
            checked = _checked_name(file.path, name)
            tensors[checked] = reader.tensor(checked, value)
        else:
            others.append(f"{wrapper}.{name}" if wrapper else str(name))
    return Checkpoint(
        MappingProxyType(tensors),
        metadata=contents.metadata,
        format="pth",
        container=contents.container,
        path=file.path,
        wrapper=wrapper,
        others=tuple(others),
        close=file.close,
    )


def _checked_name(path: str | Path, name: object) -> str:
    if type(name) is str:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise FormatError(f"{path}: tensor {quoted(name)} has a lone surrogate in its name; rename it") from None
        return name
    raise FormatError(f"{path}: the name of a tensor is {quoted(repr(name))}, not a string; {SAVE_STATE_DICT}")


def _state_dict(path: str | Path, value: object) -> tuple[str, dict[object, object], list[str]]:
    """The dict that holds the weights, under which keys it was found, joined by dots, and what stands beside it."""
    if type(value) is not dict:
        kind = "a tensor without a name" if type(value) is TensorRecord else f"a {type(value).__name__}"
        raise FormatError(f"{path}: holds {kind}, not a state dict; {SAVE_STATE_DICT}")
    tensors = _TensorCounts()
    found, place, others = value, "", []
    while (wrapper := _wrapper(path, found, tensors, deep=not place)) is not None:
        others += [f"{place}{name}" for name in found if name != wrapper]
        place += f"{wrapper}."
        found = found[wrapper]
        if tensors.among(found):
            break
    if not tensors.among(found):
        raise FormatError(f"{path}: holds no tensors, only {listed(found, 5) or 'an empty dict'}; {SAVE_STATE_DICT}")
    return place.removesuffix("."), found, others


def _wrapper(path: str | Path, items: dict[object, object], tensors: _TensorCounts, *, deep: bool) -> object | None:
    """The key under which the weights are, or None where the dict itself holds them; `deep`: perhaps one level below.

    A wrapper that is not known is one that holds more tensors than stand beside it: the dict alone may be one too.
    """
    dicts = {name: item for name, item in items.items() if type(item) is dict}
    direct = {name: count for name, item in dicts.items() if (count := tensors.among(item))}
    below = {name: count for name, item in dicts.items() if deep and (count := tensors.below(item))}
    known = [name for name in WRAPPERS if name in direct or name in below]
    if known:
        return known[0]
    beside, counts = tensors.among(items), direct or below
    if not beside and len(counts) > 1:
        raise FormatError(
            f"{path}: holds several state dicts ({listed(counts)}); save the one that is meant: "
            "torch.save(torch.load(path)[name], 'new.pth')"
        )
    return next(iter(counts)) if len(counts) == 1 and max(counts.values()) > beside else None


class _TensorCounts:
    """How many tensors a dict holds, counted once however often the dict is named; dicts must stay alive."""

    def __init__(self) -> None:
        self._among: dict[int, int] = {}
        self._below: dict[int, int] = {}

    def among(self, items: dict[object, object]) -> int:
        """The tensors that are values of the dict."""
        if id(items) not in self._among:
            self._among[id(items)] = sum(type(item) is TensorRecord for item in items.values())
        return self._among[id(items)]

    def below(self, items: dict[object, object]) -> int:
        """The most tensors that are values of one dict in this one."""
        if id(items) not in self._below:
            counts = (self.among(item) for item in items.values() if type(item) is dict)
            self._below[id(items)] = max(counts, default=0)
        return self._below[id(items)]
