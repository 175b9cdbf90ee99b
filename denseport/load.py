"""From a file to a live net in either framework: denseport's twin, with the file's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from denseport import layouts
from denseport.checkpoint import Tensor, dtype_of
from denseport.layouts.frameworks import KERAS
from denseport.net.config import Traits
from denseport.options import Head, Reading, checked
from denseport.requirements import require_keras, require_torch
from denseport.source import Source

if TYPE_CHECKING:
    import keras
    import torch


def load_torch(
    path: str | Path,
    *,
    layout: str | Path | None = None,
    head: Head = "keep",
    net: str | None = None,
    traits: Traits | Mapping[str, Any] | None = None,
    dtype: str = "float32",
    rounded: str | None = None,
) -> torch.nn.Module:
    """The PyTorch twin with a file's weights, in eval mode on the CPU; any supported format and layout.

    Args:
        path: The file, or the name of a preset, which is downloaded where it is not in the cache.
        layout: Its layout, where it is not to be detected.
        head: `drop` leaves the classifier out; the twin then returns pooled features.
        net: The path of the net that is meant, where the file holds several.
        traits: All traits to give to the twin instead of the file's; or some by name, which are stated of the net.
        dtype: The dtype to compute in.
        rounded: A dtype to round the weights to first, as a file of that dtype would hold them.

    Raises:
        FormatError, LayoutError: The file cannot be read, or is no DenseNet of a known layout.
        DownloadError: The preset cannot be had.
        FrameworkMissingError: torch is not installed.
    """
    require_torch()
    from denseport.models import pytorch

    with Source.named(path, layout, head=head, net=net, traits=_stated(traits)) as source:
        weights = _weights(source, traits, rounded)
        return pytorch.load(weights.config, _arrays(weights.tensors), dtype=dtype)


def load_keras(
    path: str | Path,
    *,
    layout: str | Path | None = None,
    head: Head = "keep",
    net: str | None = None,
    traits: Traits | Mapping[str, Any] | None = None,
    dtype: str = "float32",
    rounded: str | None = None,
) -> keras.Model:
    """The Keras twin with a file's weights, on Keras' current backend; parameters and errors as for `load_torch`."""
    require_keras()
    from denseport.models import keras as twin

    with Source.named(path, layout, head=head, net=net, traits=_stated(traits)) as source:
        weights = _weights(source, traits, rounded)
        tensors = layouts.from_canonical(weights, layouts.find_layout("denseport"), KERAS)
        return twin.load(weights.config, _arrays(tensors), dtype=dtype)


def _stated(traits: Traits | Mapping[str, Any] | None) -> Mapping[str, Any]:
    return checked(Reading, {"traits": traits if isinstance(traits, Mapping) else {}})["traits"]


def _weights(source: Source, traits: Traits | Mapping[str, Any] | None, rounded: str | None) -> layouts.Weights:
    if not isinstance(traits, Traits):
        source.require_decided()
    weights = source.weights
    if isinstance(traits, Traits):
        weights = weights.concatenated(traits.concatenation)
        weights = replace(weights, config=weights.config.replace(traits=traits))
    return weights if rounded is None else weights.cast(dtype_of(rounded))


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in tensors.items()}
