"""A net as the modules of a pickled model say that it was built: what they state goes before what a layout assumes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, quoted
from denseport.layouts.descriptions import torch
from denseport.layouts.detection import Detection
from denseport.layouts.heads import BEHIND_THE_POOL as HEAD
from denseport.layouts.heads import in_words
from denseport.layouts.traits import refuse_contradiction
from denseport.net.config import HeadLayer, Inputs

IMAGE_NORM = ("weight", "bias", "running_mean", "running_var")


def as_built(found: Detection, checkpoint: Checkpoint) -> Detection:
    """A detection with what the file's modules state; as it is where the file holds no modules.

    Raises:
        LayoutError: They compute what no net of denseport's does, or the user states of a trait what they deny.
    """
    if checkpoint.described_by != "torch":
        return found
    tensors = {role: checkpoint.tensors[name] for role, name in found.roles.items()}
    kernels = {role.removesuffix(".weight"): each.shape[2:] for role, each in tensors.items() if len(each.shape) > 2}
    head = found.config.head_layers
    built = torch.built(checkpoint.description, found.roles, kernels, head, checkpoint.label)
    options = {name: getattr(found.config.traits, name) for name, of in found.origins.items() if of == "option"}
    refuse_contradiction({"file": built.traits, "option": options}, checkpoint.label)
    config = found.config.replace(**built.traits, head_layers=built.head or head)
    inputs = None
    for path in reversed(built.before):
        inputs = _after(_prepared(checkpoint, path, config.in_channels), inputs)
    prepared = tuple(name for name in found.dropped if name.startswith(tuple(f"{path}." for path in built.before)))
    return dataclasses.replace(
        found,
        config=config.replace(inputs=inputs or config.inputs),
        origins={**found.origins, **dict.fromkeys(built.traits, "file")},
        reading=(*_reading(found, built.head),),
        dropped=tuple(name for name in found.dropped if name not in prepared),
    )


def _reading(found: Detection, head: tuple[HeadLayer, ...]) -> list[str]:
    """What a user should know of the reading, with the head as the modules say it."""
    notes = [note for note in found.reading if not (head and note.startswith(HEAD))]
    if head:
        notes.append(f"{HEAD}, as the file's modules say: {in_words(head, {})}")
    return notes


def _prepared(checkpoint: Checkpoint, path: str, channels: int) -> Inputs:
    """What a module before the net makes of an image: a normalisation of its channels.

    Raises:
        LayoutError: It is something else.
    """
    figures = dict(torch.attributes(checkpoint.description, path))
    figures |= {
        name.removeprefix(f"{path}."): tensor.read().astype(np.float64).reshape(-1).tolist()
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(f"{path}.") and tensor.size in (1, channels)
    }
    if {"mean", "std"} <= figures.keys():
        mean, std = (_each(figures[name], channels) for name in ("mean", "std"))
        if mean and std and all(std):
            scale = tuple(1 / value for value in std)
            shift = tuple(-value * by for value, by in zip(mean, scale, strict=True))
            return Inputs(channels, tuple(range(channels)), scale, shift)
    if set(IMAGE_NORM) <= figures.keys() and "eps" in figures:
        weight, bias, mean, variance = (_each(figures[name], channels) for name in IMAGE_NORM)
        by = [w / math.sqrt(v + figures["eps"]) for w, v in zip(weight, variance, strict=True)]
        shift = tuple(b - m * each for b, m, each in zip(bias, mean, by, strict=True))
        return Inputs(channels, tuple(range(channels)), tuple(by), shift)
    raise LayoutError(
        f"{checkpoint.label}: its module {quoted(path)} stands before the net and is no normalisation of channels by "
        "figures that the file has; save the state dict of the net alone: torch.save(model.state_dict(), 'new.pth')"
    )


def _each(value: Any, channels: int) -> list[float]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, (int, float)) for each in values):
        return []
    return [
        float(each) for each in (values if len(values) == channels else values * channels if len(values) == 1 else [])
    ]


def _after(first: Inputs, then: Inputs | None) -> Inputs:
    """One change of the image after the other, both of the same channels."""
    if then is None:
        return first
    scale = tuple(a * b for a, b in zip(first.scale, then.scale, strict=True))
    offset = tuple(a * b + c for a, b, c in zip(first.offset, then.scale, then.offset, strict=True))
    return dataclasses.replace(first, scale=scale, offset=offset)
