"""Containers of named arrays, and of plain JSON beside them: files and folders. Nothing here knows what a DenseNet is.

Each format has a module with the same two verbs, `read` and `write`. `--help` takes the names of the formats from here:
this module imports no numpy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import count, takewhile
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from denseport.errors import FormatError, UsageError, listed, quoted
from denseport.formats.foreign import kind_of_file, kind_of_folder
from denseport.formats.source_file import SourceFile

if TYPE_CHECKING:
    from denseport.checkpoint import Checkpoint, Tensor

# A DenseNet of a thousand layers has 7,000 tensors with names of half a megabyte in all; to look for a net among far
# more takes minutes.
MAX_TENSORS = 1 << 14
MAX_LETTERS_OF_NAMES = 1 << 20

# Of the folders of libraries, those with weights first.
CONFIG = "config.json"
TIMM_FILES = ("model.safetensors", CONFIG)
KERAS_HUB_FILES = (
    "model.weights.h5",
    "task.weights.h5",
    CONFIG,
    "metadata.json",
    "task.json",
    "preprocessor.json",
    "image_converter.json",
)


@dataclass(frozen=True)
class Format:
    """A container.

    Attributes:
        name: What `--from` and `--to` call it; of a folder, what `--to-layout` calls it.
        framework: Whose parameter names and axes are usual in it: `torch` or `keras`.
        room: Its module, below this package.
        suffixes: With which names of such files end; the first is the one that is written.
        compound: A suffix of two parts, both of which belong to it, or "".
        files: Of a folder, the names that its files may have; the first and `CONFIG` are always there.
        described: Whether it holds a description of its model beside the weights, without which it is not written.
    """

    name: str
    framework: str
    room: str
    suffixes: tuple[str, ...] = ()
    compound: str = ""
    files: tuple[str, ...] = ()
    described: bool = False

    @property
    def module(self) -> ModuleType:
        """What reads and writes it: `read(path, shown)` and `write(tensors, metadata, path, shown)`.

        `write` takes the description before the path where there is one, and h5's the inner models behind it.
        """
        return import_module(f"denseport.formats.{self.room}")


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        each.name: each
        for each in (
            Format("pth", "torch", "pth", (".pth", ".pt", ".tar", ".bin", ".ckpt"), ".pth.tar"),
            Format("h5", "keras", "keras.legacy", (".h5", ".hdf5"), ".weights.h5"),
            Format("safetensors", "torch", "safetensors", (".safetensors",)),
            Format("keras", "keras", "keras.archive", (".keras",), described=True),
            Format("timm", "torch", "folders.timm", files=TIMM_FILES, described=True),
            Format("keras-hub", "keras", "folders.keras_hub", files=KERAS_HUB_FILES, described=True),
        )
    }
)
"""Every format by its name."""

NAMES = tuple(each.name for each in FORMATS.values() if not each.files)
"""The names of the formats of files."""

INDEXES: Mapping[str, str] = MappingProxyType(
    {".safetensors.index.json": "safetensors", ".bin.index.json": "pth", ".weights.json": "h5"}
)
"""The format of the shards that an index lists, by the end of the index's name."""

SHARD = re.compile(r"-\d{5}-of-\d{5}\.|_\d{5}\.weights\.h5$")

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
    with closing(SourceFile(path, shown)) as file:
        start = file.read(0, 64)
        # A safetensors file starts with its header's length, whose first byte may be that of any other format.
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file.size:
            return "safetensors"
        if start.startswith(b"PK\x03\x04"):
            return "keras" if _is_keras_archive(start[30:]) else "pth"
        if start[:1] == b"\x80":
            return "pth"
        if _is_hdf5(file):
            return "h5"
        kind = kind_of_file(file, path)
    if kind:
        raise FormatError(f"{file.path}: is {kind}")
    raise FormatError(
        f"{file.path}: starts with {quoted(start[:8].decode('latin-1'))}, which no pth, h5, safetensors or .keras file "
        "does; check the path, unpack the file, or download it again"
    )


def _is_keras_archive(first_name: bytes) -> bool:
    """Whether a zip archive starts with one of the files of a .keras archive; PyTorch's start with a folder."""
    from denseport.formats.keras.archive import CONFIG, METADATA, WEIGHTS

    return first_name.startswith((CONFIG.encode(), METADATA.encode(), WEIGHTS.encode()))


def _is_hdf5(file: SourceFile) -> bool:
    """Whether HDF5 begins at once, or behind a user block of 512 bytes, or of that doubled any number of times.

    Source: "HDF5 File Format Specification Version 3.0", section II.A.
    """
    from denseport.formats.hdf5.file import SIGNATURE

    starts = takewhile(lambda start: start < file.size, (512 << doubled for doubled in count()))
    return any(file.read(start, len(SIGNATURE)) == SIGNATURE for start in (0, *starts))


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
    checkpoint = _read(path, shown)
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
    if FORMATS[checkpoint.format].framework == "torch":
        from denseport.formats.reparametrised import computed

        tensors, notes = computed(checkpoint.tensors)
        return replace(checkpoint, tensors=tensors, notes=(*checkpoint.notes, *notes))
    return checkpoint


def _read(path: Path, shown: str | Path | None) -> Checkpoint:
    checkpoint: Checkpoint
    if index := _index(path, shown):
        from denseport.formats.folders import shards

        checkpoint = shards.read(index, shown or path)
        return checkpoint
    if path.is_file() and SHARD.search(path.name) and (index := _index(path.parent, path.parent)):
        raise FormatError(f"{shown or path}: is one of the shards that {index.name} lists; give that file instead")
    found = _folder(path, shown) if path.is_dir() else FORMATS[sniff(path, shown)]
    checkpoint = found.module.read(path, shown)
    return checkpoint


def _index(path: Path, shown: str | Path | None) -> Path | None:
    """The index of weights that are divided among files: the path itself, or the one in a folder; or None.

    Raises:
        UsageError: There are several.
    """
    if path.is_file():
        return path if path.name.endswith((*INDEXES,)) else None
    if not path.is_dir() or any((path / name).is_file() for name in (TIMM_FILES[0], KERAS_HUB_FILES[0])):
        return None
    by_suffix = ((suffix, sorted(path.glob(f"*{suffix}"))) for suffix in INDEXES)
    every = next((found for _, found in by_suffix if found), [])
    if len(every) > 1:
        raise UsageError(
            f"{shown or path}: has the indexes of several models: {listed(p.name for p in every)}; give one"
        )
    return every[0] if every else None


def files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights: the path itself, or in a folder that a library wrote, some of them.

    Raises:
        UsageError: It is a folder that none of the libraries wrote.
    """
    if index := _index(path, path):
        from denseport.formats.folders import shards

        return shards.files(index)
    if not path.is_dir():
        return (path,)
    weights = [path / name for name in _folder(path).files if not name.endswith(".json")]
    return tuple(file for file in weights if file.is_file())


def _folder(path: Path, shown: str | Path | None = None) -> Format:
    """The format of a folder.

    Raises:
        UsageError: None of the libraries wrote it.
    """
    folders = [each for each in FORMATS.values() if each.files]
    for each in folders:
        if (path / each.files[0]).is_file() and (path / CONFIG).is_file():
            return each
    if kind := kind_of_folder(path):
        raise FormatError(f"{shown or path}: is {kind}")
    raise UsageError(
        f"{shown or path}: is a folder without {CONFIG} and {' or '.join(each.files[0] for each in folders)}, which "
        f"{' and '.join(each.name for each in folders)} write, and without the index of shards; give the file that "
        "holds the weights"
    )


def write(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    path: Path,
    format: str,  # noqa: A002
    nesting: Mapping[str, str] = MappingProxyType({}),
    shown: str | Path | None = None,
    description: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes every tensor, one at a time in memory.

    Args:
        tensors: What to write, by name.
        metadata: The strings that travel with the weights.
        path: The file, which is made or overwritten, or a folder that is there. A name that ends in `.weights.h5` gives
            the Keras 3 container, any other h5 name the legacy one.
        format: The format's name.
        nesting: The inner model of each Keras layer that belongs to one; of use to h5 alone.
        shown: What errors call the file, where that is not `path`.
        description: What describes the net beside its weights, as `Checkpoint.description`, where the format has that.

    Raises:
        FormatError: The container cannot hold these names or dtypes.
        UsageError: There is no such format, or it needs a description.
    """
    if format not in FORMATS or (FORMATS[format].described and not description):
        plain = ", ".join(each.name for each in FORMATS.values() if not each.described)
        more = "; convert writes .keras" if format == "keras" else ""
        raise UsageError(f"{shown or path}: {quoted(format)} cannot be written; choose one of {plain}{more}")
    if FORMATS[format].described:
        FORMATS[format].module.write(tensors, metadata, description, path, shown)
    elif format == "h5":
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
