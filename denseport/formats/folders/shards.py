"""Weights that a library has divided among several files, and the index that says which tensor is in which.

Source: huggingface_hub/serialization/_torch.py: save_torch_state_dict, in safetensors and in PyTorch's format;
keras/src/saving/saving_lib.py: ShardedH5IOStore.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError, UsageError, listed, quoted
from denseport.formats import INDEXES, pth, safetensors
from denseport.formats.hdf5 import File, Group, open_root
from denseport.formats.keras import parse_config, weights
from denseport.formats.source_file import SourceFile

MAX_INDEX_BYTES = 4 << 20
MOST_SHARDS = 256
NAME = re.compile(r"[^/\\\0:]{1,200}")


def files(index: Path, shown: str | Path | None = None) -> tuple[Path, ...]:
    """The index, and the files with the tensors that it lists.

    Raises:
        FormatError: It is no index.
        UsageError: A file is missing.
    """
    return (index, *_shards(index, _weight_map(index, shown), shown))


def read(index: Path, shown: str | Path | None = None) -> Checkpoint:
    """The tensors of every shard as one checkpoint, in the order of the shards.

    Raises:
        FormatError: The index is none, a shard is broken, or holds other tensors than the index says.
        UsageError: A shard is missing.
    """
    shown = shown or index
    placed = _weight_map(index, shown)
    shards = _shards(index, placed, shown)
    with ExitStack() as opened:
        kind = next(kind for suffix, kind in INDEXES.items() if index.name.endswith(suffix))
        if kind == "h5":
            checkpoint = _of_keras(shards, placed, shown, opened)
        else:
            checkpoint = _of_torch(
                shards, placed, {"safetensors": safetensors.read, "pth": pth.read}[kind], shown, opened
            )
        return replace(
            checkpoint,
            path=shown,
            container=f"{len(shards)} shards, each {checkpoint.container}",
            close=opened.pop_all().close,
        )


def _of_torch(
    shards: tuple[Path, ...],
    placed: Mapping[str, Any],
    reading: Callable[[Path, Path], Checkpoint],
    shown: str | Path,
    opened: ExitStack,
) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    parts = []
    for path in shards:
        parts.append(part := opened.enter_context(reading(path, _shown(path, shown))))
        listed_here = {name for name, file in placed.items() if file == path.name}
        if part.tensors.keys() != listed_here:
            apart = listed(part.tensors.keys() ^ listed_here, 4)
            raise FormatError(f"{shown}: {path.name} holds other tensors than the index lists: {apart}; get both again")
        tensors |= part.tensors
    metadata = {key: text for part in parts for key, text in part.metadata.items()}
    others = tuple(name for part in parts for name in part.others)
    return replace(parts[0], tensors=tensors, metadata=metadata, others=others)


def _of_keras(shards: tuple[Path, ...], placed: Mapping[str, Any], shown: str | Path, opened: ExitStack) -> Checkpoint:
    parts: list[tuple[File, Group]] = []
    for path in shards:
        file = File(path, shown=_shown(path, shown))
        opened.callback(file.close)
        parts.append((file, open_root(file)))
    checkpoint, paths = weights.read_parts(parts)
    if missing := [name for name in placed if name.strip("/").removesuffix("vars").strip("/") not in paths]:
        raise FormatError(f"{shown}: its shards lack {listed(missing, 4)}, which the index lists; get both again")
    return checkpoint


def _shown(shard: Path, shown: str | Path) -> Path:
    """What messages call a shard, where they call the folder or its index so."""
    folder = Path(shown)
    return (folder.parent if folder.suffix == ".json" else folder) / shard.name


def _weight_map(index: Path, shown: str | Path | None) -> dict[str, Any]:
    """The file, or for Keras perhaps the files, of each name."""
    name = shown or index
    with closing(SourceFile(index, name)) as file:
        found = parse_config(file.read(0, MAX_INDEX_BYTES + 1), str(name), MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(found, dict) or not found or not all(_names(value) for value in found.values()):
        raise FormatError(f"{name}: has no weight_map of names to files; give the file that holds the weights")
    return found


def _names(value: object) -> list[str]:
    """The files that an entry of an index names, or [] where it is none."""
    every = value if isinstance(value, list) else [value]
    names = [name for name in every if isinstance(name, str) and NAME.fullmatch(name) and name not in (".", "..")]
    return names if len(names) == len(every) else []


def _shards(index: Path, placed: Mapping[str, Any], shown: str | Path | None) -> tuple[Path, ...]:
    every = sorted({name for value in placed.values() for name in _names(value)})
    if len(every) > MOST_SHARDS:
        raise FormatError(f"{shown or index}: lists {len(every)} files, more than {MOST_SHARDS}; save the net in one")
    if missing := [name for name in every if not index.with_name(name).is_file()]:
        raise UsageError(f"{shown or index}: lists {listed(map(quoted, missing), 4)}, not there; get all of its files")
    return tuple(index.with_name(name) for name in every)
