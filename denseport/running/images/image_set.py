"""What a parity check runs on: described without holding it, and made or read batch by batch in each worker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from denseport.errors import UsageError
from denseport.net.config import DenseNetConfig
from denseport.preprocessing import Preprocessing, find_preprocessing
from denseport.running.images import arrays, pictures
from denseport.running.images.sizes import noise_shapes, require_size, shown, training_size, usual_size

SEED = 20170128
# 64 MB of float32; a batch of large images holds fewer of them.
MAX_BATCH_VALUES = 1 << 24


class Source(Protocol):
    """Where images come from."""

    def batches(self, shape: tuple[int, ...], size: int) -> Iterator[np.ndarray]:
        """Float32 arrays (n, *spatial, C) of `size` images each, the last one perhaps of fewer."""

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` of the same class takes."""


@dataclass(frozen=True)
class Noise:
    """Standard normal values, the same in every process."""

    def batches(self, shape: tuple[int, ...], size: int) -> Iterator[np.ndarray]:
        """Float32 arrays (n, *spatial, C); the values do not depend on `size`."""
        random = np.random.default_rng((SEED, *shape))
        for at in range(0, shape[0], size):
            yield random.standard_normal((min(size, shape[0] - at), *shape[1:]), np.float32)

    def to_json(self) -> dict[str, Any]:
        """No values: the shape says all."""
        return {}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Noise:  # noqa: ARG003 - as every source has it
        """What `to_json` gave."""
        return cls()


SOURCES: Mapping[str, Any] = MappingProxyType({"noise": Noise, "npz": arrays.NpzImages, "files": pictures.ImageFiles})


@dataclass(frozen=True)
class ImageSet:
    """Images of equal shape.

    Attributes:
        name: `224x224` for noise, else the name of the file or folder.
        shape: (N, *spatial, C).
        source: Where they come from.
        labels: (N,) integers, or None.
        names: One an image: the file's name within the folder, or `images[17]`; () for noise.
    """

    name: str
    shape: tuple[int, ...]
    source: Source
    labels: np.ndarray | None = field(default=None, compare=False)
    names: tuple[str, ...] = ()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """C-contiguous float32 arrays (n, *spatial, C), in order, n at most `size`, and fewer where images are large.

        Raises:
            UsageError: A file is damaged, or has changed since it was looked at.
        """
        yield from self.source.batches(self.shape, self._bounded(size))

    def batch_count(self, size: int) -> int:
        """How many arrays `batches(size)` gives."""
        return -(-self.shape[0] // self._bounded(size))

    def _bounded(self, size: int) -> int:
        return min(size, max(1, MAX_BATCH_VALUES // math.prod(self.shape[1:])))

    def to_json(self) -> dict[str, Any]:
        """Plain values for the process that runs on these images, which has no need of labels and names."""
        (kind,) = (kind for kind, source in SOURCES.items() if type(self.source) is source)
        return {"name": self.name, "shape": list(self.shape), "kind": kind, "source": self.source.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ImageSet:
        """What `to_json` gave, without labels and names."""
        source = SOURCES[values["kind"]].from_json(values["source"])
        return cls(values["name"], tuple(values["shape"]), source)


def noise(config: DenseNetConfig) -> tuple[ImageSet, ...]:
    """Noise of a fixed seed: two images with even sides, two with odd ones, and one of unequal sides, as far as fit.

    Raises:
        UsageError: The net needs larger images than can be made up.
    """
    return tuple(ImageSet(shown(shape[1:-1]), shape, Noise()) for shape in noise_shapes(config))


def training_shape(config: DenseNetConfig) -> tuple[int, ...]:
    """The shape (*spatial, C) of an image to train a net on."""
    return (*training_size(config), config.in_channels)


def given(
    path: Path,
    config: DenseNetConfig,
    preprocessing: str | Preprocessing | None = None,
    default: str | Preprocessing = "none",
) -> tuple[ImageSet, ...]:
    """A user's images, checked before any framework starts: a npz file, a picture, or a folder of pictures.

    Args:
        path: A npz file with `images` (N, *spatial, C) and perhaps `labels` (N,); or a picture; or a folder of them.
        config: The net that is to take them.
        preprocessing: What to do to images first. Where None, arrays are taken as they are.
        default: What to do to pictures where `preprocessing` is None.

    Raises:
        UsageError: There is no such file, it is damaged, or the images do not fit the net.
        FrameworkMissingError: Pictures are given, and Pillow is not installed.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not is_folder and not is_file:
        raise UsageError(f"{path}: there is no such file or folder; check the path")
    if is_folder or path.suffix.lower() in pictures.SUFFIXES:
        return (_pictures(path, config, _spec(default if preprocessing is None else preprocessing)),)
    return (_arrays(path, config, None if preprocessing is None else _spec(preprocessing)),)


def _spec(preprocessing: str | Preprocessing) -> Preprocessing:
    return preprocessing if isinstance(preprocessing, Preprocessing) else find_preprocessing(preprocessing)


def _arrays(file: Path, config: DenseNetConfig, spec: Preprocessing | None) -> ImageSet:
    if spec is not None:
        spec.statistics(config.in_channels)
    shape, labels = arrays.checked(file, config)
    require_size(config, shape[1:-1], file)
    names = tuple(f"images[{n}]" for n in range(shape[0]))
    return ImageSet(file.name, shape, arrays.NpzImages(file, spec), labels, names)


def _pictures(path: Path, config: DenseNetConfig, spec: Preprocessing) -> ImageSet:
    pictures.require_pillow()
    if config.dimensions != 2 or config.in_channels not in (1, 3):
        raise UsageError(
            f"{path}: pictures have 2 dimensions and 1 or 3 channels, the net takes {config.dimensions} and "
            f"{config.in_channels}; give a npz file with images (N, *spatial, C)"
        )
    height, width = (spec.crop, spec.crop) if spec.crop else usual_size(config)
    require_size(config, (height, width), path)
    if height != width:
        raise UsageError(f"{path}: the net takes {height}x{width} pixels, pictures are made square; give a npz file")
    folder, names, labels = pictures.found(path, config.num_classes)
    files = pictures.ImageFiles(folder, names, spec)
    files.check(height)
    return ImageSet(path.resolve().name, (len(names), height, width, config.in_channels), files, labels, names)
