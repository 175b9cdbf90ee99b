"""From a file to weights, and to a live twin in either framework."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from denseport import formats, layouts
from denseport.checkpoint import Checkpoint, dtype_of
from denseport.errors import UsageError
from denseport.layouts.frameworks import KERAS
from denseport.net.config import Traits
from denseport.presets import resolve
from denseport.requirements import require_keras, require_torch

if TYPE_CHECKING:
    import keras
    import torch


def read(path: str | Path, *, format: str | None = None) -> Checkpoint:  # noqa: A002 - the option's name
    """The tensors of a file under the names they have there, read when they are needed, and its metadata.

    Raises:
        UsageError: There is no such file.
        FormatError: It is broken, hostile, of no known format, or not of `format`.
    """
    return formats.read(Path(path), format)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits; of a folder, that of its weights, file behind file.

    Raises:
        UsageError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for each in formats.files(path):
            with each.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        return digest.hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path and the disk") from None


@contextmanager
def opened(
    path: Path,
    layout: str | Path | None = None,
    format: str | None = None,  # noqa: A002 - the option's name
    head: Literal["keep", "drop"] = "keep",
) -> Iterator[tuple[Checkpoint, layouts.Detection]]:
    """A file's checkpoint with its layout; closed when the block ends.

    Raises:
        FormatError: The file cannot be read.
        LayoutError: No layout fits, or several do.
    """
    with formats.read(path, format) as checkpoint:
        yield checkpoint, layouts.detect(checkpoint, layout, head=head)


def load_torch(
    path: str | Path,
    *,
    layout: str | Path | None = None,
    head: Literal["keep", "drop"] = "keep",
    traits: Traits | None = None,
    dtype: str = "float32",
    rounded: str | None = None,
) -> torch.nn.Module:
    """The PyTorch twin with a file's weights, in eval mode on the CPU; any supported format and layout.

    Args:
        path: The file, or the name of a preset, which is downloaded where it is not in the cache.
        layout: Its layout, where it is not to be detected.
        head: `drop` leaves the classifier out; the twin then returns pooled features.
        traits: Traits to give to the twin instead of those of the file's layout.
        dtype: The dtype to compute in.
        rounded: A dtype to round the weights to first, as a file of that dtype would hold them.

    Raises:
        FormatError, LayoutError: The file cannot be read, or is no DenseNet of a known layout.
        DownloadError: The preset cannot be had.
        FrameworkMissingError: torch is not installed.
    """
    require_torch()
    from denseport.models import pytorch

    file, preset = resolve(path)
    with opened(file, layout or (preset.layout if preset else None), head=head) as (checkpoint, found):
        weights = _weights(checkpoint, found, head, traits, rounded)
        return pytorch.load(weights.config, {name: t.read() for name, t in weights.tensors.items()}, dtype=dtype)


def load_keras(
    path: str | Path,
    *,
    layout: str | Path | None = None,
    head: Literal["keep", "drop"] = "keep",
    traits: Traits | None = None,
    dtype: str = "float32",
    rounded: str | None = None,
) -> keras.Model:
    """The Keras twin with a file's weights, on Keras' current backend; parameters and errors as for `load_torch`."""
    require_keras()
    from denseport.models import keras as twin

    file, preset = resolve(path)
    with opened(file, layout or (preset.layout if preset else None), head=head) as (checkpoint, found):
        weights = _weights(checkpoint, found, head, traits, rounded)
        tensors = layouts.from_canonical(weights, layouts.find_layout("denseport"), KERAS)
        return twin.load(weights.config, {name: t.read() for name, t in tensors.items()}, dtype=dtype)


def _weights(
    checkpoint: Checkpoint, found: layouts.Detection, head: str, traits: Traits | None, rounded: str | None
) -> layouts.Weights:
    weights = layouts.to_canonical(checkpoint, found)
    if traits is not None:
        weights = weights.concatenated(traits.concatenation)
        weights = replace(weights, config=weights.config.replace(traits=traits))
    weights = weights.without_head() if head == "drop" else weights
    return weights if rounded is None else weights.cast(dtype_of(rounded))
