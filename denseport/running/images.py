"""The images that nets run on: described without holding them, and made or read batch by batch in each process."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from denseport.errors import UsageError
from denseport.net.config import DenseNetConfig, Inputs
from denseport.net.graph import reduction, sizes
from denseport.preprocessing import Preprocessing, find_preprocessing
from denseport.running import npz, pictures

SEED = 20170128
# 64 MB of float32; a batch of large images holds fewer of them.
MAX_BATCH_VALUES = 1 << 24
# Two images of a size are made at once; a net that needs larger ones than this has more pools than any that is trained.
MAX_NOISE_VALUES = 1 << 26

# The spatial shape of the images that a model takes, None where it takes any; () where it says nothing.
FreeSize = tuple[int | None, ...]


@dataclass(frozen=True)
class ImageSet:
    """Images of equal shape.

    Attributes:
        name: `224x224` for noise, else the name of the file or folder.
        shape: (N, *spatial, C).
        kind: `noise` of standard normal values, the same in every process; the array of a `npz` file; or `pictures`.
        path: The npz file, or the folder of the pictures; None for noise.
        names: One an image: the picture's name within the folder, or `images[17]`; () for noise.
        preprocessing: How they are prepared; None where they are taken as they are.
        labels: (N,) integers, or None.
        scale: What a net multiplies each channel by before its stem, by which noise is divided; () for 1.
        offset: What it then adds, which is taken off noise before; () for 0.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["noise", "npz", "pictures"] = "noise"
    path: Path | None = None
    names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    labels: np.ndarray | None = field(default=None, compare=False)
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """C-contiguous float32 arrays (n, *spatial, C), in order, n at most `size`, and fewer where images are large.

        Raises:
            UsageError: A file is damaged, or has changed since it was looked at.
        """
        size = self._bounded(size)
        if self.path is None:
            return self._noise(size)
        if self.kind == "npz":
            return npz.batches(self.path, self.shape, size, self.preprocessing)
        files = [self.path / name for name in self.names]
        return pictures.batches(files, self.shape, size, self.preprocessing or find_preprocessing("none"))

    def is_of(self, size: FreeSize) -> bool:
        """Whether a model that takes this size alone takes these images."""
        return not size or _fixed(self.shape[1:-1], size) == self.shape[1:-1]

    def batch_count(self, size: int) -> int:
        """How many arrays `batches(size)` gives."""
        return -(-self.shape[0] // self._bounded(size))

    def _noise(self, size: int) -> Iterator[np.ndarray]:
        """Standard normal values where a net's stem sees them, which do not depend on `size`."""
        random = np.random.default_rng((SEED, *self.shape))
        for at in range(0, self.shape[0], size):
            values: np.ndarray = random.standard_normal((min(size, self.shape[0] - at), *self.shape[1:]), np.float32)
            if self.scale:
                values = (values - np.asarray(self.offset, np.float32)) / np.asarray(self.scale, np.float32)
            yield values

    def _bounded(self, size: int) -> int:
        return min(size, max(1, MAX_BATCH_VALUES // math.prod(self.shape[1:])))

    def to_json(self) -> dict[str, Any]:
        """Plain values for the process that runs on these images, which has no need of labels."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "kind": self.kind,
            "path": self.path and str(self.path),
            "names": self.names if self.kind == "pictures" else (),
            "preprocessing": self.preprocessing and self.preprocessing.to_dict(),
            "scale": self.scale,
            "offset": self.offset,
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> ImageSet:
        """What `to_json` gave."""
        path, spec = plain["path"], plain["preprocessing"]
        return cls(
            plain["name"],
            tuple(plain["shape"]),
            plain["kind"],
            path and Path(path),
            tuple(plain["names"]),
            spec and Preprocessing.from_dict(spec, path),
            scale=tuple(plain["scale"]),
            offset=tuple(plain["offset"]),
        )


def noise(config: DenseNetConfig, size: FreeSize = ()) -> tuple[ImageSet, ...]:
    """Noise of a fixed seed: two images with even sides, two with odd ones, and one of unequal sides, as far as fit.

    `same` and symmetric padding differ at even sides alone, and mixed-up axes show where sides are unequal. A flattened
    head takes those alone that leave it its map, and all are of the `size` that a model takes alone. A net that
    prepares its images gets what becomes such values before its stem: divided by 255, noise would show little.

    Raises:
        UsageError: The net needs larger images than can be made up.
    """
    even = _fixed(_usual_size(config), size)
    if math.prod(even) * config.image_channels > MAX_NOISE_VALUES:
        raise UsageError(
            f"images of {shown_size(even)} pixels and {config.image_channels} channels, that this net needs are too "
            "large for noise; give --inputs, or --no-verify"
        )
    odd = tuple(side + 1 for side in even)
    shares = (0.75, 0.875, 0.75)  # of which the second becomes odd
    unequal = tuple(int(side * shares[axis]) // 2 * 2 + axis % 2 for axis, side in enumerate(even))
    scale, offset = _undone(config.inputs)
    counts = Counter({even: 2})
    for sides, count in ((odd, 2), (unequal, 1 if config.dimensions > 1 else 0)):
        counts[_fixed(sides, size)] += count
    return tuple(
        ImageSet(shown_size(sides), (count, *sides, config.image_channels), scale=scale, offset=offset)
        for sides, count in counts.items()
        if count and _takes(config, sides)
    )


def _undone(inputs: Inputs | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The scale and the offset of each channel that a net is fed: those of the first that it makes of it."""
    if inputs is None:
        return (), ()
    made_of = [inputs.order.index(n) if n in inputs.order else None for n in range(inputs.channels)]
    return (
        tuple(1.0 if c is None else inputs.scale[c] for c in made_of),
        tuple(0.0 if c is None else inputs.offset[c] for c in made_of),
    )


def _fixed(sides: tuple[int, ...], size: FreeSize) -> tuple[int, ...]:
    """The sides, but those of a model that takes no others."""
    return tuple(own or side for side, own in zip(sides, size or sides, strict=True))


def training_shape(config: DenseNetConfig) -> tuple[int, ...]:
    """The shape (*spatial, C) of an image to train a net on.

    Its sides are even, small since each step of training costs three times a run, and leave a map of several positions.
    """
    small = tuple(max(32, 2 * least) for least in _least(config))
    return (*(_usual_size(config) if _flattened(config) else small), config.image_channels)


def given(
    path: Path,
    config: DenseNetConfig,
    preprocessing: str | Preprocessing | None = None,
    default: str | Preprocessing = "none",
    size: FreeSize = (),
) -> tuple[ImageSet, ...]:
    """A user's images, checked before any framework starts: a npz file, a picture, or a folder of pictures.

    Args:
        path: A npz file with `images` (N, *spatial, C) and perhaps `labels` (N,); or a picture; or a folder of them.
        config: The net that is to take them.
        preprocessing: What to do to images first. Where None, arrays are taken as they are.
        default: What to do to pictures where `preprocessing` is None.
        size: What a model takes alone, to which pictures are cut where the preprocessing says nothing.

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
        return (_pictures(path, config, _spec(default if preprocessing is None else preprocessing), size),)
    return (_arrays(path, config, None if preprocessing is None else _spec(preprocessing)),)


def _spec(preprocessing: str | Preprocessing) -> Preprocessing:
    return preprocessing if isinstance(preprocessing, Preprocessing) else find_preprocessing(preprocessing)


def _arrays(file: Path, config: DenseNetConfig, spec: Preprocessing | None) -> ImageSet:
    if spec is not None:
        spec.statistics(config.image_channels)
    shape, labels = npz.checked(file, config)
    _require_size(config, shape[1:-1], file)
    names = tuple(f"images[{n}]" for n in range(shape[0]))
    return ImageSet(file.name, shape, "npz", file, names, spec, labels)


def _pictures(path: Path, config: DenseNetConfig, spec: Preprocessing, size: FreeSize) -> ImageSet:
    pictures.require_pillow()
    if config.dimensions != 2 or config.image_channels not in (1, 3):
        raise UsageError(
            f"{path}: pictures have 2 dimensions and 1 or 3 channels, the net takes {config.dimensions} and "
            f"{config.image_channels}; give a npz file with images (N, *spatial, C)"
        )
    height, width = (spec.crop, spec.crop) if spec.crop else _fixed(_usual_size(config), size)
    _require_size(config, (height, width), path)
    if height != width:
        raise UsageError(f"{path}: the net takes {height}x{width} pixels, pictures are made square; give a npz file")
    folder, names, labels = pictures.found(path, config.num_classes)
    pictures.check([folder / name for name in names], height, spec)
    shape = (len(names), height, width, config.image_channels)
    return ImageSet(path.resolve().name, shape, "pictures", folder, names, spec, labels)


def _usual_size(config: DenseNetConfig) -> tuple[int, ...]:
    """The even sides that a net of this kind usually takes; where the head is flattened, the ones that fit it."""
    if _flattened(config):
        return tuple(map(operator.mul, config.head_shape, _least(config)))
    usual = 32 if config.traits.stem_stride == 1 else 64 if config.dimensions == 3 else 224
    return tuple(max(usual, 2 * least) for least in _least(config))


def _require_size(config: DenseNetConfig, size: tuple[int, ...], file: Path) -> None:
    """Raises UsageError where a net cannot take images of a spatial shape; the message names `file`."""
    if not _takes(config, size):
        wanted = shown_size(_usual_size(config)) if _flattened(config) else f"sides of {max(_least(config))} or more"
        raise UsageError(f"{file}: images of {shown_size(size)} do not fit; the net takes {wanted}")


def _takes(config: DenseNetConfig, size: tuple[int, ...]) -> bool:
    last_map = [positions for positions in sizes(config, size).values() if positions][-1]
    return last_map == config.head_shape if _flattened(config) else min(last_map) > 0


def _flattened(config: DenseNetConfig) -> bool:
    return bool(config.head_shape) and config.num_classes is not None


def _least(config: DenseNetConfig) -> tuple[int, ...]:
    """The sides of which one position is left in the map; beyond 2^40 it is of no use to say how much larger."""
    return tuple(min(pixels, 1 << 40) for pixels in reduction(config))


def shown_size(size: FreeSize) -> str:
    """A spatial shape as people write it: `224x224`; a free side is `N`."""
    return "x".join("N" if side is None else str(side) for side in size)
