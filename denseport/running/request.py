"""What a process that holds a framework is asked to do: values that travel as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denseport.layouts import Detection
from denseport.net.config import DenseNetConfig
from denseport.running.images import ImageSet

OUTPUTS = "outputs"
REFERENCE = "reference"
ROUNDED_REFERENCE = "rounded-reference"
FILE_TRAITS = "file-traits"
BATCH = 32
# What runs a file; else it is the name of a library.
TWIN, WHOLE_MODEL = "twin", "whole-model"


def ran_by(model: str, reason: str) -> str:
    """Whose model ran a file, in words; where it was denseport's own, with the reason."""
    if model == TWIN:
        return f"denseport's twin, since {reason}"
    return "the model in the file, run by Keras" if model == WHOLE_MODEL else f"the model of {model}"


@dataclass(frozen=True)
class Pass:
    """One run of all images through one net.

    Attributes:
        name: What its results are called: `outputs`, `reference`, `rounded-reference` or `file-traits`.
        file: Where the weights are.
        shown: What the user calls the file.
        found: Its layout, and the role of each of its tensors.
        config: The net to run: the file's, without the classifier where that takes no part, under the traits to run it
            with.
        dtype: What is computed in.
        rounded: The dtype to round the weights to first, or None.
        model: What runs the file: the `twin`; the `whole-model` that it holds; or a library's, by the library's name.
        reason: Why it is the twin, which computes what denseport reads from the file; "" where it is not.
        tapped: Whether the net is looked into on the way.
        first_batch: Whether only the first batch of each image array is run.
    """

    name: str
    file: str
    shown: str
    found: Detection
    config: DenseNetConfig
    dtype: str = "float32"
    rounded: str | None = None
    model: str = TWIN
    reason: str = ""
    tapped: bool = False
    first_batch: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "found": self.found.to_dict(), "config": self.config.to_dict()}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Pass:
        """The pass that `to_json` gave the values of."""
        found, config = Detection.from_dict(plain["found"]), DenseNetConfig.from_dict(plain["config"])
        return cls(**{**plain, "found": found, "config": config})


@dataclass(frozen=True)
class Request:
    """Everything that one worker does.

    Attributes:
        framework: `torch` or `keras`.
        device: `cpu`, `cuda` or `cuda:N`; `auto` until it is known what all workers can use.
        allow_tf32: Whether the framework may round to TF32 on its way.
        keras_backend: What Keras runs on.
        passes: The runs, in order.
        images: What the runs see.
        train_steps: How many steps of training follow, with the net of the first pass.
        train_shape: The shape (*spatial, C) of the images that it is trained on.
        folder: Where results go.
    """

    framework: str
    device: str
    allow_tf32: bool
    keras_backend: str
    passes: tuple[Pass, ...]
    images: tuple[ImageSet, ...]
    folder: str
    train_steps: int = 0
    train_shape: tuple[int, ...] = ()

    @property
    def shown(self) -> str:
        """What the user calls the file that the first pass runs."""
        return self.passes[0].shown

    @property
    def batch_count(self) -> int:
        """How many batches of images all passes run in all."""
        batches = sum(images.batch_count(BATCH) for images in self.images)
        return sum(len(self.images) if each.first_batch else batches for each in self.passes)

    def outputs(self, name: str) -> Path:
        """Where the outputs (N, C) of a pass go: an npz with one array for each image array, `0`, `1`, ..."""
        return Path(self.folder) / f"{self.framework}.{name}.npz"

    def taps(self, name: str) -> Path:
        """Where the activations of a pass go: an npz with arrays (N, *spatial, C), `block1.layer3/0`, ..."""
        return Path(self.folder) / f"{self.framework}.{name}.taps.npz"

    @property
    def trained(self) -> Path:
        """Where training goes: an npz with `losses`, and `gradient/NAME` and `updated/NAME` by canonical tensor."""
        return Path(self.folder) / f"{self.framework}.trained.npz"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        lists = {name: [each.to_json() for each in getattr(self, name)] for name in ("passes", "images")}
        return {**vars(self), **lists}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Request:
        """The request that `to_json` gave the values of."""
        passes, images = map(Pass.from_json, plain["passes"]), map(ImageSet.from_json, plain["images"])
        tuples = {"passes": tuple(passes), "images": tuple(images), "train_shape": tuple(plain["train_shape"])}
        return cls(**{**plain, **tuples})
