"""Containers of named arrays: `pth`, `h5` and `safetensors`. Nothing here knows what a DenseNet is.

Each module has the same two verbs: `read(path) -> Checkpoint` and `write(tensors, metadata, path)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError, UsageError, quoted

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

# What a .keras archive may begin with; a PyTorch archive begins with a folder.
KERAS_ENTRIES = (b"config.json", b"metadata.json", b"model.weights.h5")

SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        ".pth": "pth",
        ".pt": "pth",
        ".tar": "pth",
        ".bin": "pth",
        ".ckpt": "pth",
        ".h5": "h5",
        ".hdf5": "h5",
        ".safetensors": "safetensors",
    }
)


WRITABLE = ("pth", "h5", "safetensors")


def sniff(path: Path) -> str:
    """The format of a file by its first bytes, never by its name.

    Raises:
        UsageError: There is no such file, or it cannot be read.
        FormatError: It is empty or starts like none of the formats.
    """
    try:
        if not path.is_file():
            raise UsageError(
                f"{path}: is no file; check the path" if path.exists() else f"{path}: does not exist; check the path"
            )
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if not head:
        raise FormatError(f"{path}: the file is empty; copy or download it again")
    if head.startswith(HDF5_MAGIC):
        return "h5"
    # A safetensors file starts with its header's length, whose first byte may be that of any other format.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if head.startswith(b"PK\x03\x04") and head[30:].startswith(KERAS_ENTRIES):
        return "keras"
    if head.startswith(b"PK\x03\x04") or head[:1] == b"\x80":
        return "pth"
    raise FormatError(f"{path}: starts with {quoted(head[:8])}, which no pth, h5, safetensors or .keras file does")


def read(path: Path, format: str | None = None) -> Checkpoint:  # noqa: A002 - the option's name
    """The tensors and metadata of a file, not yet loaded; the format is sniffed where it is not given.

    Raises:
        FormatError: The file is broken, hostile, or not of the format that was named.
    """
    found = sniff(path)
    if format not in (None, found):
        raise FormatError(f"{path}: is a {found} file, not {format}; leave --from out")
    return _module(found).read(path)  # type: ignore[no-any-return]


def write(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    path: Path,
    format: str,  # noqa: A002
    nesting: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes every tensor to `path`, one at a time in memory.

    `nesting` names the inner model of each Keras layer that belongs to one; other formats have no such thing.
    A name that ends in `.weights.h5` gives the Keras 3 container, any other h5 name the legacy one.

    Raises:
        FormatError: The container cannot hold these names or dtypes.
    """
    if format not in WRITABLE:
        raise UsageError(f"{path}: {quoted(format)} cannot be written; choose one of {', '.join(WRITABLE)}")
    if format == "h5":
        keras = _module("keras3" if path.name.endswith(".weights.h5") else "h5")
        keras.write(tensors, metadata, path, nesting)
    else:
        _module(format).write(tensors, metadata, path)


def by_suffix(path: Path) -> str:
    """The format that a file name asks for.

    Raises:
        UsageError: The suffix is not known.
    """
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{path}: the suffix says no format; end it in .pth, .h5, .weights.h5 or .safetensors, or give --to"
        ) from None


def _module(name: str) -> ModuleType:
    return import_module(f"denseport.formats.{name}")
