"""PyTorch checkpoints: the zip container and the one before torch 1.6, read and written without torch."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError
from denseport.formats.pth.arrays import ArrayRecord
from denseport.formats.pth.containers import Contents, read_legacy, read_zip
from denseport.formats.pth.modules import described
from denseport.formats.pth.tensors import TensorReader
from denseport.formats.pth.tree import flattened
from denseport.formats.pth.writer import write
from denseport.formats.source_file import SourceFile

__all__ = ["read", "write"]


def read(path: Path, shown: str | Path | None = None) -> Checkpoint:
    """Every tensor of a checkpoint under its full path, read-only, read when it is needed and verified the first time.

    Raises:
        FormatError: The file is broken or unsafe, holds no named tensors, or a tensor looks outside its storage.
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
    tree = flattened(file.path, contents.value)
    reader = TensorReader(file.path, file.size, contents.stored, contents.byteorder)
    tensors = {
        name: Tensor.of(record.to_numpy()) if isinstance(record, ArrayRecord) else reader.tensor(name, record)
        for name, record in tree.tensors.items()
    }
    description = described(contents.value, contents.figures)
    return Checkpoint(
        MappingProxyType(tensors),
        metadata=contents.metadata,
        format="pth",
        container=contents.container,
        path=file.path,
        others=tuple(tree.others),
        notes=contents.notes,
        description=description,
        described_by="torch" if description else "",
        close=file.close,
    )
