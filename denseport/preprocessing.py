"""From an image's pixels to what a net was trained on: size, order of channels, scale, mean and deviation.

`--help` takes the names of preprocessings from here, so that numpy is imported by the functions that need it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_type_hints

from denseport.errors import FormatError, UsageError, quoted

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# Beyond what any image or net has; they keep figures out of a stranger's file from reaching infinity or all memory.
MAX_VALUE = 1e6
MAX_CROP = 4096
# Of the pixels of ImageNet's photographs, 0 to 255.
MEAN_PIXEL, PIXEL_SPREAD = 115.0, 68.0
# The side of the square that such nets usually take.
USUAL_CROP = 224


def _require_number(field: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UsageError(f"preprocessing: {field} must be a number from {least:g} to {most:g}, not {quoted(value)}")


@dataclass(frozen=True)
class Preprocessing:
    """(pixels * scale - mean) / std, where pixels are 0 to 255.

    Attributes:
        mean: One number a channel, in the net's order of channels, or a single one for all of them.
        std: Likewise.
        scale: What pixels are multiplied by first.
        channel_order: The order in which the net takes channels; images come as RGB.
        crop: Side of the square that the net takes, or None for what such a net usually takes.
        crop_fraction: The share of the resized image's shorter side that the central crop keeps; timm's `crop_pct`.
        interpolation: How an image is resized.

    Raises:
        UsageError: A value is out of its range.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    channel_order: Literal["rgb", "bgr"] = "rgb"
    crop: int | None = None
    crop_fraction: float = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"

    def __post_init__(self) -> None:
        for field, least in (("mean", -MAX_VALUE), ("std", 1 / MAX_VALUE)):
            values = getattr(self, field)
            if type(values) is not tuple or len(values) not in (1, 3):
                raise UsageError(f"preprocessing: {field} must be one number or one a channel, not {quoted(values)}")
            for value in values:
                _require_number(field, value, least, MAX_VALUE)
        _require_number("scale", self.scale, 1 / MAX_VALUE, MAX_VALUE)
        _require_number("crop_fraction", self.crop_fraction, 0.1, 1)
        if self.crop is not None and (type(self.crop) is not int or not 1 <= self.crop <= MAX_CROP):
            raise UsageError(f"preprocessing: crop must be 1 to {MAX_CROP} pixels, not {quoted(self.crop)}")
        for field in ("channel_order", "interpolation"):
            choices = get_args(get_type_hints(Preprocessing)[field])
            if getattr(self, field) not in choices:
                raise UsageError(
                    f"preprocessing: {field} must be one of {', '.join(choices)}, not {quoted(getattr(self, field))}"
                )

    @classmethod
    def from_dict(cls, table: object, file: str) -> Preprocessing:
        """What `to_dict` gave, out of a file's metadata; what is not named there is the default.

        Raises:
            FormatError: It is no table of such values; the message names `file`.
        """
        if not isinstance(table, dict) or (unknown := table.keys() - {field.name for field in dataclasses.fields(cls)}):
            why = f"has no {quoted(min(map(str, unknown)))}" if isinstance(table, dict) else "must be a table"
            raise FormatError(f"{file}: preprocessing {why}; correct the file's metadata, or take it out")
        try:
            values: dict[str, Any] = {name: tuple(own) if isinstance(own, list) else own for name, own in table.items()}
            return cls(**values)
        except UsageError as error:
            raise FormatError(f"{file}: {error}; correct the file's metadata, or take it out") from None

    @classmethod
    def of_inputs(cls, order: tuple[int, ...], scale: tuple[float, ...], offset: tuple[float, ...]) -> Self | None:
        """What makes channels x[order] * scale + offset of an image x, or None where no preprocessing does."""
        if order not in ((0,), (0, 1, 2), (2, 1, 0)) or min(scale) <= 0:
            return None
        pixels = 1 / 255 if max(scale) <= 1 / 16 else 1.0
        std = tuple(pixels / each for each in scale)
        mean = tuple(-shift * spread if shift else 0.0 for shift, spread in zip(offset, std, strict=True))
        try:
            return cls(mean, std, pixels, "bgr" if order == (2, 1, 0) else "rgb")
        except UsageError:
            return None

    def of_pixels(self) -> Preprocessing:
        """The same for pixels from 0 to 255, where the figures tell that they are meant for those from 0 to 1."""
        if self.scale != 1.0 or self == Preprocessing(scale=1.0):
            return self
        scale = tuple(1 / each for each in self.std)
        offset = tuple(-mean / self.std[0] for mean in self.mean)
        return dataclasses.replace(self, scale=1 / 255) if takes_unit_pixels(scale, offset) else self

    def followed_by(self, other: Preprocessing) -> Preprocessing | None:
        """This one's size and the other's figures, or None where this one has figures of its own as well."""
        if any(self.mean) or set(self.std) != {1.0} or self.channel_order != "rgb" or self.scale != 1.0:
            return None
        own = {name: getattr(self, name) for name in ("crop", "crop_fraction", "interpolation")}
        return dataclasses.replace(other, **own)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: list(own) if isinstance(own, tuple) else own for name, own in dataclasses.asdict(self).items()}

    def statistics(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std, float64, of shape (channels,).

        A grey image takes the averages of the three channels' figures, 0.449 and 0.226 for ImageNet's.

        Raises:
            UsageError: There are three figures, and neither one nor three channels.
        """
        import numpy as np

        both = [np.array(figures, np.float64) for figures in (self.mean, self.std)]
        if channels == 1:
            both = [figures.mean(keepdims=True) for figures in both]
        if any(len(figures) not in (1, channels) for figures in both):
            raise UsageError(f"preprocessing for 3 channels does not fit {channels}; give --preprocess none")
        mean, std = (np.broadcast_to(figures, (channels,)) for figures in both)
        return mean, std

    def of_unit_pixels(self, channels: int) -> tuple[list[float], list[float]]:
        """Mean and std, one number a channel, of pixels that are divided by 255 first, as many libraries do."""
        mean, std = (values * (1 / (255 * self.scale)) for values in self.statistics(channels))
        return mean.tolist(), std.tolist()

    @property
    def of_photographs(self) -> tuple[float, float]:
        """About the mean and the standard deviation that it gives the pixels of photographs."""
        mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
        return (MEAN_PIXEL * self.scale - mean) / std, PIXEL_SPREAD * self.scale / std

    def is_rgb(self, channels: int) -> bool:
        """Whether a library can do it that takes grey or RGB images and has one number for each of their channels."""
        fits = channels == 1 or all(len(figures) in (1, channels) for figures in (self.mean, self.std))
        return fits and self.channel_order == "rgb"


_CAFFE = Preprocessing(mean=(103.939, 116.779, 123.68), scale=1.0, channel_order="bgr")

PREPROCESSING: Mapping[str, Preprocessing] = MappingProxyType(
    {
        # torchvision/transforms/_presets.py: ImageClassification; keras imagenet_utils.py: preprocess_input, `torch`
        "torch": Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_fraction=0.875),
        # keras_cv densenet_backbone.py: include_rescaling
        "keras-cv": Preprocessing(),
        # keras imagenet_utils.py: preprocess_input, `caffe`
        "caffe": _CAFFE,
        # titu1994/DenseNet and keras_contrib densenet.py: preprocess_input; flyyufelix' nets take it too, with means
        # rounded to two decimals
        "densenet-caffe": dataclasses.replace(_CAFFE, std=(1 / 0.017,)),
        # torchxrayvision/utils.py: normalize, from -1024 to 1024
        "torchxrayvision": Preprocessing((0.5,), (1 / 2048,)),
        "none": Preprocessing(scale=1.0),
    }
)
"""The preprocessings that have a name."""


def takes_unit_pixels(scale: tuple[float, ...], offset: tuple[float, ...]) -> bool:
    """Whether x * scale + offset is more likely meant for pixels from 0 to 1 than for those from 0 to 255.

    The likelier of the two gives photographs a spread near 1, and a mean near 0 beside that.
    """
    factor, shift = sum(map(abs, scale)) / len(scale), sum(offset) / len(offset)

    def oddity(pixels: float) -> float:
        spread = PIXEL_SPREAD * pixels * factor
        return abs(math.log(spread)) + abs(MEAN_PIXEL * pixels * factor + shift) / spread

    return oddity(1 / 255) < oddity(1.0)


def find_preprocessing(name: str) -> Preprocessing:
    """A preprocessing by its name.

    Raises:
        UsageError: None is called so.
    """
    if name not in PREPROCESSING:
        raise UsageError(f"no preprocessing is called {quoted(name)}; known: {', '.join(PREPROCESSING)}")
    return PREPROCESSING[name]


def preprocess(images: np.ndarray, spec: Preprocessing) -> np.ndarray:
    """What a net takes, float32 (N, H, W, C), from RGB or grey images (N, H, W, C) of numbers from 0 to 255.

    Computed in float64, so that the result is the nearest float32. Neither resized nor cropped; see `fitted`.

    Raises:
        UsageError: The images are no numbers, or the figures do not fit their channels.
    """
    import numpy as np

    if images.dtype.kind not in "uif":
        raise UsageError(f"images of dtype {images.dtype} are no numbers; give them as uint8 or float32")
    mean, std = spec.statistics(images.shape[-1])
    ordered = images[..., ::-1] if spec.channel_order == "bgr" else images
    values = ordered.astype(np.float64)
    values *= spec.scale
    values -= mean
    values /= std
    return np.ascontiguousarray(values, np.float32)


def resized(width: int, height: int, side: int, spec: Preprocessing) -> tuple[int, int]:
    """Width and height of an image whose shorter side is resized so that the central crop of `side` is its share.

    Source: timm/data/transforms_factory.py: transforms_imagenet_eval; torchvision/transforms/functional.py:
    _compute_resized_output_size.
    """
    shorter = math.floor(side / spec.crop_fraction)
    longer = int(shorter * max(width, height) / min(width, height))
    return (shorter, longer) if width <= height else (longer, shorter)


def fitted(image: Image.Image, side: int, spec: Preprocessing) -> np.ndarray:
    """The central square of a grey or RGB image, resized; uint8 (side, side, C).

    Source: as for `resized`, and center_crop of the same file of torchvision.
    """
    import numpy as np
    from PIL import Image

    size = resized(*image.size, side, spec)
    image = image.resize(size, Image.Resampling[spec.interpolation.upper()])
    left, top = (round((length - side) / 2) for length in size)
    pixels = np.asarray(image.crop((left, top, left + side, top + side)))
    return pixels.reshape(side, side, -1)
