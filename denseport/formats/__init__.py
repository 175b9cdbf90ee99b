"""Containers of named arrays: `pth`, `h5`, `safetensors`, and folders of them. Nothing here knows what a DenseNet is.

Each module has the same two verbs: `read(path) -> Checkpoint` and `write(tensors, metadata, path)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from denseport.errors import FormatError, UsageError, quoted

if TYPE_CHECKING:
    from denseport.checkpoint import Checkpoint, Tensor

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
        ".keras": "keras",
    }
)


READERS = {"pth": "pth", "h5": "keras.legacy", "safetensors": "safetensors", "keras": "keras.archive"}
WRITABLE = ("pth", "h5", "safetensors")

# A DenseNet of a thousand layers has 7,000 tensors with names of half a megabyte in all; to look for a net among far
# more takes minutes.
MAX_TENSORS = 1 << 14
MAX_LETTERS_OF_NAMES = 1 << 20


def sniff(path: Path, shown: str | Path | None = None) -> str:
    """The format of a file by its first bytes, or HDF5's behind a user block; never by its name.

    Errors call the file `shown`, where that is given.

    Raises:
        UsageError: There is no such file, or it cannot be read.
        FormatError: It is empty or starts like none of the formats.
    """
    shown = shown or path
    try:
        if not path.is_file():
            fault = "is no file" if path.exists() else "does not exist"
            raise UsageError(f"{shown}: {fault}; check the path")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UsageError(f"{shown}: cannot be read ({error.strerror}); check its permissions") from None
    if not head:
        raise FormatError(f"{shown}: the file is empty; copy or download it again")
    if head.startswith(HDF5_MAGIC):
        return "h5"
    # A safetensors file starts with its header's length, whose first byte may be that of any other format.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if head.startswith(b"PK\x03\x04") and head[30:].startswith(KERAS_ENTRIES):
        return "keras"
    if head.startswith(b"PK\x03\x04") or head[:1] == b"\x80":
        return "pth"
    if _is_hdf5_behind_user_block(path):
        return "h5"
    start = quoted(head[:8].decode("latin-1"))
    raise FormatError(
        f"{shown}: starts with {start}, which no pth, h5, safetensors or .keras file does; check the path, unpack the "
        "file, or download it again"
    )


def read(
    path: Path,
    format: str | None = None,  # noqa: A002 - the option's name
    shown: str | Path | None = None,
) -> Checkpoint:
    """The tensors and metadata of a file, not yet loaded; its content says which format it is.

    Args:
        path: The file, or the folder.
        format: The format that it must be of, or None.
        shown: What errors and `Checkpoint.path` call it, where that is not `path`: a copy has a name of no use.

    Raises:
        FormatError: The file is broken, hostile, or not of the format that was named, or holds too many tensors.
    """
    if path.is_dir():
        checkpoint: Checkpoint = _module("folder").read(path, shown)
        found = checkpoint.format
    else:
        found = sniff(path, shown)
        checkpoint = _module(READERS[found]).read(path, shown)
    if format not in (None, found):
        checkpoint.close()
        raise FormatError(f"{checkpoint.path}: is a {found} file, not {format}; leave --from out")
    count, letters = len(checkpoint.tensors), sum(map(len, checkpoint.tensors))
    if count > MAX_TENSORS or letters > MAX_LETTERS_OF_NAMES:
        checkpoint.close()
        raise FormatError(
            f"{checkpoint.path}: holds {count} tensors with names of {letters} letters, more than {MAX_TENSORS} or "
            f"{MAX_LETTERS_OF_NAMES}, which no DenseNet has; save the weights of one net alone"
        )
    return checkpoint


def files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights: the path itself, or in a folder that a library wrote, one or two of them.

    Raises:
        UsageError: It is a folder that none of the libraries wrote.
    """
    if not path.is_dir():
        return (path,)
    found: tuple[Path, ...] = _module("folder").weights_files(path)
    return found


def write(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    path: Path,
    format: str,  # noqa: A002
    nesting: Mapping[str, str] = MappingProxyType({}),
    shown: str | Path | None = None,
) -> None:
    """Writes every tensor to `path`, one at a time in memory.

    `nesting` names the inner model of each Keras layer that belongs to one; other formats have no such thing.
    A name that ends in `.weights.h5` gives the Keras 3 container, any other h5 name the legacy one. Errors call the
    file `shown`, where that is given.

    Raises:
        FormatError: The container cannot hold these names or dtypes.
    """
    if format not in WRITABLE:
        more = "; convert writes .keras" if format == "keras" else ""
        raise UsageError(
            f"{shown or path}: {quoted(format)} cannot be written; choose one of {', '.join(WRITABLE)}{more}"
        )
    if format == "h5":
        keras = _module("keras.weights" if path.name.endswith(".weights.h5") else "keras.legacy")
        keras.write(tensors, metadata, path, nesting, shown)
    else:
        _module(format).write(tensors, metadata, path, shown)


def _is_hdf5_behind_user_block(path: Path) -> bool:
    """Whether HDF5 begins at 512 bytes, or at twice that any number of times, behind what its user has put there.

    Source: "HDF5 File Format Specification Version 3.0", section II.A.
    """
    start = 512
    with path.open("rb") as file:
        while file.seek(start) and (found := file.read(len(HDF5_MAGIC))):
            if found == HDF5_MAGIC:
                return True
            start *= 2
    return False


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
