"""A preset: published weights, where they are, what is known and computed of them, and what their outputs mean."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from denseport.errors import UsageError
from denseport.net.config import DenseNetConfig
from denseport.net.graph import multiply_adds, parameters, statistics
from denseport.preprocessing import Preprocessing

IMAGENET = "imagenet-1k"
MAX_BYTES_OF_NAMES = 1 << 26


@dataclass(frozen=True)
class Preset:
    """Weights that someone published.

    Attributes:
        name: `publisher/name`.
        config: The architecture with its traits.
        layout: What the file's tensors are called.
        url: Where the publisher offers the file.
        hash: `sha256:` or `md5:` and the digits that the publisher states, perhaps only the first ones; "" where it
            states none.
        preprocessing: How images are prepared.
        side: The side in pixels of the square that the net takes.
        top1: Share of ImageNet's validation images whose class comes first, in percent as published, or None.
        top5: The same for the first five.
        published_parameters: How many parameters the publisher says there are, or None.
        counts_statistics: Whether that figure holds running means and variances too.
        classes: Whose names the outputs have, such as `imagenet-1k`, or "".
        licence: As the publisher states it.
        source: Where these facts were read.
    """

    name: str
    config: DenseNetConfig
    layout: str
    url: str
    hash: str
    preprocessing: Preprocessing
    side: int
    top1: float | None
    top5: float | None
    published_parameters: int | None
    counts_statistics: bool
    classes: str
    licence: str
    source: str

    @property
    def variant(self) -> str:
        """The architecture's name, or its parameters in words."""
        return self.config.variant

    @property
    def file_name(self) -> str:
        """What the publisher calls the file."""
        return file_name(self.url)

    @property
    def parameters(self) -> int:
        """How many trainable parameters the architecture has."""
        return parameters(self.config)

    @property
    def statistics(self) -> int:
        """How many running means and variances the architecture has."""
        return statistics(self.config)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of one image of the size that the net takes."""
        return multiply_adds(self.config, (self.side,) * self.config.dimensions)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the weights."""
        if self.hash:
            return ()
        return (
            f"{self.name}: the publisher states no hash, so the file was only held to the architecture that it should "
            "have",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: what is known, and what is computed."""
        return {
            "name": self.name,
            "variant": self.variant,
            "layout": self.layout,
            "url": self.url,
            "hash": self.hash or None,
            "parameters": self.parameters,
            "statistics": self.statistics,
            "published_parameters": self.published_parameters,
            "multiply_adds": self.multiply_adds,
            "top1": self.top1,
            "top5": self.top5,
            "classes": self.classes or None,
            "preprocessing": self.preprocessing.to_dict(),
            "licence": self.licence,
            "source": self.source,
            "config": self.config.to_dict(),
        }


def file_name(url: str) -> str:
    """The last part of an address."""
    return posixpath.basename(unquote(urlsplit(url).path))


def class_names(source: str | Path, count: int) -> tuple[str, ...]:
    """The names of `count` outputs, in their order.

    Args:
        source: `imagenet-1k`, or a text file with one name a line.
        count: How many outputs there are.

    Raises:
        UsageError: There is no such file, it is no text, or it has another number of names.
    """
    if str(source) == IMAGENET:
        # Without the number of the WordNet synset, by which the file also tells apart two that have the same name.
        text = Path(__file__).with_name(f"{IMAGENET}.txt").read_text(encoding="utf-8")
        names = [line.partition(" ")[2] for line in text.splitlines() if not line.startswith("#")]
    else:
        names = _lines(Path(source))
    if len(names) != count:
        raise UsageError(f"{source}: names {len(names):,} classes, and the net has {count:,}; give a file of its own")
    return tuple(names)


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > MAX_BYTES_OF_NAMES:
            raise UsageError(f"{file}: is too large to be a list of names; check the path")
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UsageError(f"{file}: cannot be read ({why}); give a text file with one name a line") from None
