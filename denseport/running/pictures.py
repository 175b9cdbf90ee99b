"""Picture files, decoded a batch at a time; only their headers are read beforehand."""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from denseport.errors import FrameworkMissingError, UsageError, quoted
from denseport.preprocessing import Preprocessing, fitted, preprocess, resized

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
# Of 8 bits a channel; how wider ones are to be brought to 0..255, no file says.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# Four bytes a pixel, and up to four copies while a format is decoded and an image turned: less than 1 GB.
MAX_PIXELS = 3 << 24
MAX_IMAGES = 1_000_000

# What Pillow raises for a file that is cut off, damaged or hostile.
UNREADABLE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def batches(
    files: Sequence[Path], shape: tuple[int, ...], size: int, preprocessing: Preprocessing
) -> Iterator[np.ndarray]:
    """Float32 arrays (n, H, W, C) of `size` pictures each, the last one perhaps of fewer: resized, cropped, prepared.

    Raises:
        UsageError: A file is damaged.
    """
    _, side, _, channels = shape
    for at in range(0, len(files), size):
        pixels = [_pixels(file, side, channels, preprocessing) for file in files[at : at + size]]
        yield preprocess(np.stack(pixels), preprocessing)


def _pixels(file: Path, side: int, channels: int, preprocessing: Preprocessing) -> np.ndarray:
    """Uint8 (side, side, channels); an image is turned as its camera was held, and its transparency is dropped."""
    from PIL import ImageOps

    with _opened(file) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return fitted(image.convert("L" if channels == 1 else "RGB"), side, preprocessing)


def check(files: Sequence[Path], side: int, preprocessing: Preprocessing) -> None:
    """Looks at every file's header, before any framework starts.

    Raises:
        UsageError: A file is no picture, or too large, or has more than 8 bits a channel.
    """
    for file in files:
        with _opened(file) as image:
            width, height = image.size
            if math.prod(resized(width, height, side, preprocessing)) > MAX_PIXELS:
                raise UsageError(f"{file}: is {width}x{height} pixels, too long for its width; crop it")


def require_pillow() -> None:
    """Raises FrameworkMissingError where Pillow is not installed."""
    if find_spec("PIL") is None:
        raise FrameworkMissingError("images need Pillow: pip install 'denseport[parity]', or give a npz file")


def found(path: Path, classes: int | None) -> tuple[Path, tuple[str, ...], np.ndarray | None]:
    """The folder of the images that a path means, their names in it, and their labels where these show.

    A path means itself, or the pictures in it and in its folders. Where all are in folders, and of these there are as
    many as the net has classes, each folder is a class, in the order of their names.

    Raises:
        UsageError: There is no picture, or there are too many.

    Source: torchvision/datasets/folder.py: ImageFolder, find_classes.
    """
    if not path.is_dir():
        return path.parent, (path.name,), None
    try:
        folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        names = _pictures(path)
        labels: list[int] = []
        for label, folder in enumerate(folders):
            within = [f"{folder}/{name}" for name in _pictures(path / folder)]
            names += within
            labels += [label] * len(within)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if not names:
        raise UsageError(f"{path}: holds no picture ({', '.join(SUFFIXES)}); check the path")
    if len(names) > MAX_IMAGES:
        raise UsageError(f"{path}: holds {len(names)} pictures, more than {MAX_IMAGES}; give a part of them")
    known = len(labels) == len(names) and len(folders) == classes
    return path, tuple(names), np.array(labels) if known else None


def _pictures(folder: Path) -> list[str]:
    files = [entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    return sorted(file.name for file in files if not file.name.startswith("."))


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """A picture of which only the header has been read, within a `with` block.

    Raises:
        UsageError: It is no picture, too large, has more than 8 bits a channel, or turns out to be damaged.
    """
    from PIL import Image, UnidentifiedImageError

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                _check(file, image)
                yield image
    except bombs:
        raise UsageError(f"{file}: has more than {MAX_PIXELS} pixels; resize it") from None
    except UnidentifiedImageError:
        raise UsageError(f"{file}: is no picture of a known format ({', '.join(FORMATS)}); leave it out") from None
    except UNREADABLE as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{file}: cannot be read as a picture ({quoted(why)}); leave it out") from None


def _check(file: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UsageError(f"{file}: has {width}x{height} pixels, more than {MAX_PIXELS}; resize it")
    if image.mode not in MODES:
        raise UsageError(
            f"{file}: has pixels of kind {quoted(image.mode)}, not of 8 bits a channel; save it with 8, or give a "
            "npz file"
        )
