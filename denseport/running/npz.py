"""Images in a npz file, read a batch at a time: what it declares is held to its bytes before anything is allocated."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from denseport.errors import UsageError, quoted
from denseport.net.config import DenseNetConfig
from denseport.preprocessing import Preprocessing, preprocess

MAX_HEADER_BYTES = 1 << 14
MAX_IMAGES = 1_000_000
MAX_IMAGE_VALUES = 1 << 26
# Deflate turns 1 MB into 1 GB. Even flat images shrink less than this, or are small.
MAX_INFLATION = 100
FREE_INFLATION = 128 << 20

# What zipfile and numpy raise for a file that is damaged, hostile, or none of theirs.
UNREADABLE = (
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class _Header:
    """What an array's header says, and after how many bytes its values begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int


def batches(
    file: Path, shape: tuple[int, ...], size: int, preprocessing: Preprocessing | None = None
) -> Iterator[np.ndarray]:
    """The array `images` as float32 arrays (n, *spatial, C) of `size` images each, the last one perhaps of fewer.

    Without preprocessing they are as they are, integers converted and not scaled.

    Raises:
        UsageError: The file is damaged, is not the one that was looked at, or holds NaN, Inf or what float32 cannot
            hold.
    """
    with _reading(file, "images"), zipfile.ZipFile(file) as archive:
        header = _header(file, archive, "images")
        if header.shape != shape:
            raise ValueError(f"its shape was {shape} a moment ago and is {header.shape} now")
        with archive.open("images.npy") as data:
            data.read(header.start)
            for at in range(0, shape[0], size):
                images = _values(data, header.dtype, (min(size, shape[0] - at), *shape[1:]))
                if preprocessing is not None:
                    images = preprocess(images, preprocessing)
                with np.errstate(over="ignore", invalid="ignore"):
                    images = images.astype(np.float32)
                finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
                if not finite.all():
                    raise UsageError(
                        f"{file}: images[{at + int(finite.argmin())}] holds NaN or Inf, or what float32 cannot hold; "
                        "leave such images out"
                    )
                yield images


def checked(file: Path, config: DenseNetConfig) -> tuple[tuple[int, ...], np.ndarray | None]:
    """The shape of a npz file's `images`, and its `labels` (N,), where it has any, as int64.

    Raises:
        UsageError: The file is no npz of plain arrays, or its images or labels do not fit the net.
    """
    with _reading(file, "images"), zipfile.ZipFile(file) as archive:
        header = _header(file, archive, "images")
        _check_images(file, header, config)
        if "labels.npy" not in archive.namelist():
            return header.shape, None
        with _reading(file, "labels"):
            return header.shape, _labels(file, archive, header.shape[0], config.num_classes)


def _check_images(file: Path, header: _Header, config: DenseNetConfig) -> None:
    shape = header.shape
    if len(shape) != config.dimensions + 2 or shape[-1] != config.image_channels or min(shape) < 1:
        raise UsageError(
            f"{file}: images of shape {quoted(shape)} do not fit; the net takes (N, "
            f"{'height, width, ' if config.dimensions == 2 else '*spatial, '}{config.image_channels})"
        )
    if header.dtype.kind not in "uif":
        raise UsageError(
            f"{file}: images of dtype {quoted(header.dtype)} are no numbers; save them as float32 or uint8"
        )
    if shape[0] > MAX_IMAGES or math.prod(shape[1:]) > MAX_IMAGE_VALUES:
        raise UsageError(f"{file}: images of shape {quoted(shape)} are too many, or too large; give a part of them")


def _labels(file: Path, archive: zipfile.ZipFile, images: int, classes: int | None) -> np.ndarray:
    header = _header(file, archive, "labels")
    if header.shape != (images,):
        raise UsageError(
            f"{file}: labels of shape {quoted(header.shape)} do not fit {images} images; give one an image"
        )
    if header.dtype.kind not in "ui":
        raise UsageError(f"{file}: labels of dtype {quoted(header.dtype)} are no integers; save them as int64")
    with archive.open("labels.npy") as data:
        data.read(header.start)
        labels = _values(data, header.dtype, header.shape)
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= (classes or MAX_IMAGES):
        raise UsageError(
            f"{file}: labels from {least} to {most} do not fit the net's {classes or ''} classes, which are counted "
            "from 0; correct them, or leave them out"
        )
    return labels.astype(np.int64)


def _header(file: Path, archive: zipfile.ZipFile, name: str) -> _Header:
    """The header of an array, whose declared shape accounts for all its bytes."""
    entries = [entry for entry in archive.infolist() if entry.filename == f"{name}.npy"]
    if not entries:
        raise ValueError(f"it holds {quoted(', '.join(archive.namelist()))}")
    (entry,) = entries
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed in an uncommon way")
    stored = min(entry.compress_size, file.stat().st_size)
    if entry.file_size > max(MAX_INFLATION * stored, FREE_INFLATION):
        raise ValueError(f"{stored} bytes claim to hold {entry.file_size}")
    with archive.open(entry) as data:
        start = io.BytesIO(data.read(MAX_HEADER_BYTES))
    version = npy.read_magic(start)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its npy version is {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read(start)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never loaded")
    if fortran_order:
        raise ValueError("it is in Fortran order; save numpy.ascontiguousarray of it")
    size = start.tell() + math.prod(shape) * dtype.itemsize
    if size != entry.file_size:
        raise ValueError(f"its header declares {size} bytes, {entry.file_size} are there")
    return _Header(shape, dtype, start.tell())


def _values(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    values = data.read(size)
    if len(values) != size:
        raise EOFError("it ends too early")
    return np.frombuffer(values, dtype).reshape(shape)


@contextmanager
def _reading(file: Path, name: str) -> Iterator[None]:
    """Turns what zipfile and numpy raise into a UsageError."""
    try:
        yield
    except UNREADABLE as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"{file}: holds no array `{name}` ({quoted(why)}); save it with numpy.savez(file, images=..., labels=...)"
        ) from None
