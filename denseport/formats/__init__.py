"""Containers of named arrays, and of plain JSON beside them: files and folders. Nothing here knows what a DenseNet is.

Each format has a module with the same two verbs, `read(path, shown)` and `write(tensors, metadata, path, shown)`, where
`shown` is what errors call the file. `--help` takes the names of the formats from here: this module imports no numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from denseport.errors import FormatError, UsageError, quoted

if TYPE_CHECKING:
    from denseport.checkpoint import Checkpoint, Tensor

# A DenseNet of a thousand layers has 7,000 tensors with names of half a megabyte in all; to look for a net among far
# more takes minutes.
MAX_TENSORS = 1 << 14
MAX_LETTERS_OF_NAMES = 1 << 20


@dataclass(frozen=True)
class Format:
    """A container.

    Attributes:
        name: What `--from` and `--to` call it; of a folder, what `--to-layout` calls it.
        framework: Whose parameter names and axes are usual in it: `torch` or `keras`.
        room: Its module, below this package.
        suffixes: With which names of such files end; the first is the one that is written.
        compound: A suffix of two parts, both of which belong to it, or "".
        is_folder: Whether it is a folder of files, which a library writes.
        described: Whether the model is described beside its weights; without a description it cannot be written.
    """

    name: str
    framework: str
    room: str
    suffixes: tuple[str, ...] = ()
    compound: str = ""
    is_folder: bool = False
    described: bool = False

    @property
    def module(self) -> ModuleType:
        """The module that reads and writes it."""
        return import_module(f"denseport.formats.{self.room}")


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        each.name: each
        for each in (
            Format("pth", "torch", "pth", (".pth", ".pt", ".tar", ".bin", ".ckpt"), ".pth.tar"),
            Format("h5", "keras", "keras.legacy", (".h5", ".hdf5"), ".weights.h5"),
            Format("safetensors", "torch", "safetensors", (".safetensors",)),
            Format("keras", "keras", "keras.archive", (".keras",), described=True),
            Format("timm", "torch", "folder", is_folder=True, described=True),
            Format("keras-hub", "keras", "folder", is_folder=True, described=True),
        )
    }
)
"""Every format by its name."""

NAMES = tuple(each.name for each in FORMATS.values() if not each.is_folder)
"""The names of the formats of files."""

SUFFIXES: Mapping[str, str] = MappingProxyType(
    {suffix: each.name for each in FORMATS.values() for suffix in each.suffixes}
)
"""The format that each suffix stands for."""


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
    # A safetensors file starts with its header's length, whose first byte may be that of any other format.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "keras" if _is_keras_archive(head[30:]) else "pth"
    if head[:1] == b"\x80":
        return "pth"
    if _is_hdf5(path):
        return "h5"
    start = quoted(head[:8].decode("latin-1"))
    raise FormatError(
        f"{shown}: starts with {start}, which no pth, h5, safetensors or .keras file does; check the path, unpack the "
        "file, or download it again"
    )


def _is_keras_archive(first_name: bytes) -> bool:
    """Whether a zip archive starts with one of the files of a .keras archive; PyTorch's start with a folder."""
    from denseport.formats.keras.archive import CONFIG, METADATA, WEIGHTS

    return first_name.startswith((CONFIG.encode(), METADATA.encode(), WEIGHTS.encode()))


def _is_hdf5(path: Path) -> bool:
    """Whether HDF5 begins at once, or behind a user block of 512 bytes, or of that doubled any number of times.

    Source: "HDF5 File Format Specification Version 3.0", section II.A.
    """
    from denseport.formats.hdf5.file import SIGNATURE

    with path.open("rb") as file:
        for start in chain([0], (512 << doubled for doubled in count())):
            file.seek(start)
            if (found := file.read(len(SIGNATURE))) in (SIGNATURE, b""):
                return found == SIGNATURE
    return False


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
    room = import_module("denseport.formats.folder") if path.is_dir() else FORMATS[sniff(path, shown)].module
    checkpoint: Checkpoint = room.read(path, shown)
    held, letters = len(checkpoint.tensors), sum(map(len, checkpoint.tensors))
    fault = ""
    if format not in (None, checkpoint.format):
        fault = f"is a {checkpoint.format} file, not {format}; leave --from out"
    elif held > MAX_TENSORS or letters > MAX_LETTERS_OF_NAMES:
        fault = (
            f"holds {held} tensors with names of {letters} letters, more than {MAX_TENSORS} or {MAX_LETTERS_OF_NAMES}, "
            "which no DenseNet has; save the weights of one net alone"
        )
    if fault:
        checkpoint.close()
        raise FormatError(f"{checkpoint.path}: {fault}")
    return checkpoint


def files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights: the path itself, or in a folder that a library wrote, one or two of them.

    Raises:
        UsageError: It is a folder that none of the libraries wrote.
    """
    if not path.is_dir():
        return (path,)
    found: tuple[Path, ...] = import_module("denseport.formats.folder").weights_files(path)
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
    if format not in FORMATS or FORMATS[format].described:
        plain = ", ".join(each.name for each in FORMATS.values() if not each.described)
        more = "; convert writes .keras" if format == "keras" else ""
        raise UsageError(f"{shown or path}: {quoted(format)} cannot be written; choose one of {plain}{more}")
    if format == "h5":
        room = "weights" if path.name.endswith(".weights.h5") else "legacy"
        import_module(f"denseport.formats.keras.{room}").write(tensors, metadata, path, nesting, shown)
    else:
        FORMATS[format].module.write(tensors, metadata, path, shown)


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


def stem(path: Path) -> str:
    """A file's name without its suffix, both parts of a compound one."""
    every = [each.compound for each in FORMATS.values() if each.compound]
    return next((path.name.removesuffix(suffix) for suffix in every if path.name.endswith(suffix)), "") or path.stem
