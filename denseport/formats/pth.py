"""PyTorch checkpoints: the zip container and the one before torch 1.6, read and written without torch."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError, listed, quoted
from denseport.formats.mapped_file import MappedFile
from denseport.formats.pytorch.containers import Contents, read_legacy, read_zip
from denseport.formats.pytorch.objects import TensorRecord
from denseport.formats.pytorch.tensors import TensorReader
from denseport.formats.pytorch.writer import write

__all__ = ["read", "write"]

# Where training scripts keep the weights among other things, in the order in which they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def read(path: Path) -> Checkpoint:
    """The tensors of a checkpoint as read-only views over the mapped file, verified when they are first read.

    Raises:
        FormatError: The file is broken or unsafe, holds code (a whole model, TorchScript) or no named tensors, or a
            tensor looks outside its storage.
        UsageError: The file cannot be opened.
    """
    file = MappedFile(path)
    try:
        contents = read_zip(file) if file.bytes[:2] == b"PK" else read_legacy(file)
        return _checkpoint(file, contents)
    except FormatError:
        file.close()
        raise


def _checkpoint(file: MappedFile, contents: Contents) -> Checkpoint:
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


def _checked_name(path: Path, name: object) -> str:
    if type(name) is str:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise FormatError(f"{path}: tensor {quoted(name)} has a lone surrogate in its name; rename it") from None
        return name
    raise FormatError(f"{path}: a tensor is named by {quoted(repr(name))}, which is no text; save a state dict")


def _state_dict(path: Path, value: object) -> tuple[str, dict[object, object], list[str]]:
    """The dict that holds the weights, under which key it was found, and the names of the keys beside it.

    A wrapper that is not known is one that holds more tensors than stand beside it: the dict alone may be one too.
    """
    if type(value) is not dict:
        kind = "a tensor without a name" if type(value) is TensorRecord else f"a {type(value).__name__}"
        raise FormatError(
            f"{path}: holds {kind}, not a dict of tensors; save one: torch.save(model.state_dict(), 'new.pth')"
        )
    inner = {id(item): item for item in value.values() if type(item) is dict}
    sizes = {identity: _count(items) for identity, items in inner.items()}  # once each, however often it is named
    counts = {name: sizes[id(item)] for name, item in value.items() if sizes.get(id(item))}
    known = [name for name in WRAPPERS if name in counts]
    beside = _count(value)
    if not known and not beside and len(counts) > 1:
        raise FormatError(f"{path}: holds several dicts of tensors ({listed(counts)}); save the one that is meant")
    if not known and len(counts) == 1 and max(counts.values()) > beside:
        known = list(counts)
    if known:
        wrapper = known[0]
        return str(wrapper), value[wrapper], [str(name) for name in value if name != wrapper]
    if not beside:
        raise FormatError(f"{path}: holds no tensors, only {listed(value, 5) or 'an empty dict'}; save a state dict")
    return "", value, []


def _count(items: dict[object, object]) -> int:
    return sum(type(item) is TensorRecord for item in items.values())
