"""The two containers of PyTorch checkpoints: where the pickle is, and where the bytes of each storage are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from struct import Struct
from struct import error as StructError
from typing import Any

from denseport.errors import FormatError, listed, quoted
from denseport.formats.pth import exported, scripts
from denseport.formats.pth.pickles import MAX_BYTES, SAVE_STATE_DICT, TorchUnpickler
from denseport.formats.pth.tensors import StoredBytes
from denseport.formats.source_file import COPY_AGAIN, SourceFile
from denseport.formats.zip import ZipArchive
from denseport.metadata import ZIP_RECORD

MAX_METADATA_BYTES = 1 << 20

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_COUNT = Struct("<q")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a container holds: the unpickled object, the storages that its tensors look into, and the metadata.

    `figures` are those of a program's classes, by dotted name; `notes` say what a user should know of the reading.
    """

    container: str
    value: object
    stored: Mapping[str, StoredBytes]
    byteorder: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_zip(file: SourceFile) -> Contents:
    """The contents of a zip container.

    Raises:
        FormatError: The archive is broken or unsafe, is no PyTorch checkpoint, or its pickle is refused.

    Source: torch/serialization.py `_load`, caffe2/serialize/inline_container.cc.
    """
    archive = ZipArchive(file)
    folders = dict.fromkeys(name.split("/")[0] + "/" for name in archive.entries)
    if exports := [root for root in folders if exported.is_exported(archive, root)]:
        tensors = exported.tensors(file, archive, exports[0])
        stored = _stored(archive, exports[0] + exported.WEIGHTS)
        return Contents("torch.export", tensors, stored, _byteorder(file, archive, exports[0]), notes=(exported.NOTE,))
    roots = [name.split("/")[0] for name in archive.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise FormatError(
            f"{file.path}: is a zip archive of {listed(archive.entries, 5)}, not a PyTorch checkpoint, which has one "
            f"data.pkl in one folder; {SAVE_STATE_DICT}"
        )
    root = roots[0] + "/"
    pickle = archive.content(archive.entries[root + "data.pkl"], MAX_BYTES)
    unpickler = TorchUnpickler(file.path, pickle, "data.pkl")
    value = unpickler.load()
    if rest := len(pickle) - unpickler.position:
        raise FormatError(f"{file.path}: {rest} bytes follow the pickle in data.pkl; {COPY_AGAIN}")
    is_program = root + "constants.pkl" in archive.entries
    return Contents(
        "TorchScript" if is_program else "PyTorch zip",
        value,
        _stored(archive, root + "data/"),
        _byteorder(file, archive, root),
        _metadata(file, archive, root),
        scripts.figures(archive, root, unpickler.names) if is_program else {},
    )


def _byteorder(file: SourceFile, archive: ZipArchive, root: str) -> str:
    if root + "byteorder" not in archive.entries:
        return "little"
    recorded = archive.content(archive.entries[root + "byteorder"], 16)
    if recorded not in (b"little", b"big"):
        raise FormatError(f"{file.path}: its byte order is {quoted(recorded)}, not little or big; {COPY_AGAIN}")
    return recorded.decode()


def _stored(archive: ZipArchive, prefix: str) -> dict[str, StoredBytes]:
    """The bytes of each entry of a folder, by its name there."""
    return {
        name.removeprefix(prefix): StoredBytes(entry.size, partial(archive.read, entry), entry.deflated)
        for name, entry in archive.entries.items()
        if name.startswith(prefix)
    }


def _metadata(file: SourceFile, archive: ZipArchive, root: str) -> dict[str, str]:
    entry = archive.entries.get(root + ZIP_RECORD)
    if entry is None:
        return {}
    text = archive.content(entry, MAX_METADATA_BYTES)
    try:
        metadata = json.loads(text, object_pairs_hook=_distinct)
        for part in (part for item in metadata.items() for part in item):
            part.encode("utf-8")  # a lone surrogate could not be written anywhere
    except (ValueError, RecursionError, AttributeError):
        raise FormatError(
            f"{file.path}: its metadata ({ZIP_RECORD}) is no JSON object of strings; write the file again"
        ) from None
    return metadata  # type: ignore[no-any-return]


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    items = dict(pairs)
    if len(items) != len(pairs):
        raise ValueError("a key occurs twice")
    return items


def read_legacy(file: SourceFile) -> Contents:
    """The contents of a container from before torch 1.6: five pickles, then the storages, each after its length.

    A file that is one pickle, of numpy's arrays perhaps, is what is in it.

    Raises:
        FormatError: The file is cut off, no PyTorch checkpoint, or its pickles are refused.

    Source: torch/serialization.py `_legacy_load`, torch/csrc/serialization.cpp `THPStorage_readFileRaw`.
    """
    unpickler = TorchUnpickler(file.path, file.read(0, MAX_BYTES), "its pickle")
    magic_number = unpickler.load()
    if unpickler.position == file.size and type(magic_number) is not int:
        return Contents("pickle", magic_number, {}, "little")
    if type(magic_number) is not int or magic_number != _MAGIC_NUMBER:
        raise FormatError(f"{file.path}: is a pickle, but not one of torch.save; {SAVE_STATE_DICT}")
    version = unpickler.load()
    if type(version) is not int or version != _PROTOCOL_VERSION:
        raise FormatError(f"{file.path}: its PyTorch protocol is not {_PROTOCOL_VERSION}; {COPY_AGAIN}")
    unpickler.load()  # what the machine that wrote it was
    value, keys = unpickler.load(), unpickler.load()
    stored = _legacy_storages(file, unpickler, keys)
    # Every version of torch writes these storages in little-endian order; `little_endian` in the third pickle says what
    # the machine was, and torch.load does not look at it.
    return Contents("PyTorch legacy (before 1.6)", value, stored, "little")


def _legacy_storages(file: SourceFile, unpickler: TorchUnpickler, keys: object) -> dict[str, StoredBytes]:
    if type(keys) is not list or any(type(key) not in (str, int) for key in keys):
        raise FormatError(f"{file.path}: the list of its storages is malformed; {COPY_AGAIN}")
    stored: dict[str, StoredBytes] = {}
    position = unpickler.position
    for key in map(str, keys):
        declared = unpickler.storages.get(key)
        if declared is None or key in stored:
            raise FormatError(f"{file.path}: storage {quoted(key)} is listed but not declared once; {COPY_AGAIN}")
        itemsize = declared.type.to_numpy().itemsize
        try:
            (count,) = _COUNT.unpack(file.read(position, _COUNT.size))
        except StructError:
            raise FormatError(f"{file.path}: ends before storage {quoted(key)}; {COPY_AGAIN}") from None
        position += _COUNT.size
        size = count * itemsize
        if count != declared.count or position + size > file.size:
            raise FormatError(
                f"{file.path}: storage {quoted(key)} should have {declared.count} elements, has {count}, and "
                f"{file.size - position} bytes are left; {COPY_AGAIN}"
            )
        stored[key] = StoredBytes(size, partial(_part, file, position))
        position += size
    if position != file.size:
        raise FormatError(f"{file.path}: {file.size - position} bytes follow its last storage; {COPY_AGAIN}")
    return stored


def _part(file: SourceFile, position: int, start: int, size: int) -> bytes:
    """Some bytes of what begins at a position."""
    return file.read(position + start, size)
