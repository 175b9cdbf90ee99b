"""What a net sees in images: the most probable classes of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from denseport.errors import UsageError, VerificationError, quoted
from denseport.options import Framework, Predicting, valid
from denseport.preprocessing import Preprocessing
from denseport.presets.preset import class_names
from denseport.requirements import keras_backend, require_keras, require_torch
from denseport.running import whole_models
from denseport.running.images import ImageSet, given
from denseport.running.request import OUTPUTS, Pass, Request, ran_by
from denseport.running.workers import Progress, Workers, results_folder
from denseport.source import Source


@dataclass(frozen=True)
class RankedClass:
    """One of a net's classes.

    Attributes:
        index: Its output, counted from 0.
        name: What it is called, or "".
        probability: Its softmax over all outputs; the sigmoid of its logit where the net is one of sigmoids.
    """

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a net sees in one image.

    Attributes:
        image: The image.
        classes: The net's classes, the most probable first.
        ran: Whose model ran the file, in words.
    """

    image: str
    classes: tuple[RankedClass, ...]
    ran: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def predict(
    file: str | Path,
    images: Sequence[str | Path],
    framework: Framework = "torch",
    top: int = 5,
    *,
    layout: str | Path | None = None,
    net: str | None = None,
    traits: Mapping[str, Any] | None = None,
    preprocess: str | Preprocessing | None = None,
    classes: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> tuple[Prediction, ...]:
    """The most probable classes of images, in a process of its own.

    Where Keras runs a file that holds a whole model, it runs that model, else denseport's twin.

    Args:
        file: Weights in any format, or the name of a preset.
        images: Pictures, folders of them, or npz files with `images` (N, H, W, C).
        framework: What runs the twin; KERAS_BACKEND says what Keras runs on.
        top: How many classes of each image.
        layout: The file's layout, where it is not to be detected.
        net: The path of the net that is meant, where the file holds several.
        traits: Those of its net that are stated, by name.
        preprocess: How images are prepared. Where None, pictures are prepared as the preset says, or the file's
            metadata, or the file's layout, in this order; arrays are taken as they are.
        classes: The classes' names: `imagenet-1k`, or a text file with one a line; None takes the preset's.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        progress: Is called with the number of batches that are done, and of all of them.
        workers: Processes to run in, for many calls in a row; where None, each call starts its own.

    Raises:
        UsageError: Options cannot be used, images cannot be read or do not fit, or the net has no classifier.
        FormatError, LayoutError: The file cannot be read, or is no DenseNet of a known layout.
        FrameworkMissingError: The framework is not installed.
        VerificationError: The net gives NaN or Inf.
    """
    given_options = {"framework": framework, "top": top, "preprocess": preprocess, "device": device}
    stated = valid(Predicting, {**given_options, "traits": traits or {}})["traits"]
    if not images:
        raise UsageError("there are no images to predict; give pictures, or a folder of them")
    require_torch() if framework == "torch" else require_keras()
    with Source.named(file, layout, net=net, traits=stated) as source:
        source.require_decided()
        run = Pass(OUTPUTS, str(source.path), str(source.shown), source.detection, source.detection.config)
        config, default, checkpoint = run.config, source.preprocessing, source.checkpoint
        classes = classes or (source.preset.classes if source.preset else None)
    if config.num_classes is None:
        raise UsageError(
            f"{run.shown}: has no classifier, so there are no classes to predict; give a file that has one"
        )
    names = class_names(classes, config.num_classes) if classes else ("",) * config.num_classes
    paths = [Path(image) for image in images]
    size = whole_models.image_size(checkpoint.description)
    sets = [given(image, config, preprocess, default, size)[0] for image in paths]
    model, reason = whole_models.choice(checkpoint, framework, sets)
    shown = [name for image, images_of in zip(paths, sets, strict=True) for name in _shown(image, images_of)]
    run = dataclasses.replace(run, model=model, reason=reason)
    logits, ran = _run(framework, run, sets, device, progress, workers)
    for image, row in zip(shown, logits, strict=True):
        if not np.isfinite(row).all():
            raise VerificationError(f"{run.shown}: gives NaN or Inf for {quoted(image, 300)}; inspect the file")
    return tuple(
        Prediction(image, _first(_probabilities(row, config.traits.head_activation), names, top), ran)
        for image, row in zip(shown, logits, strict=True)
    )


def _shown(given_as: Path, images: ImageSet) -> list[str]:
    """What a report calls each image, by the path that the user gave."""
    if given_as.is_dir():
        return [str(given_as / name) for name in images.names]
    return [str(given_as) if name == given_as.name else f"{given_as}: {name}" for name in images.names]


def _run(
    framework: str,
    run: Pass,
    sets: Sequence[ImageSet],
    device: str,
    progress: Progress | None,
    workers: Workers | None,
) -> tuple[np.ndarray, str]:
    """The logits (N, C) of all images, float32; and whose model gave them, in words."""
    with results_folder() as folder:
        request = Request(
            framework=framework,
            device=device,
            allow_tf32=False,
            keras_backend=keras_backend(),
            passes=(run,),
            images=tuple(sets),
            folder=str(folder),
        )
        with nullcontext(workers) if workers else Workers() as processes:
            (reply,) = processes.run([request], progress)
        with np.load(request.outputs(OUTPUTS)) as outputs:
            logits = np.concatenate(list(outputs.values()))
    return logits, ran_by(reply["model"], reply["reason"])


def _probabilities(logits: np.ndarray, activation: str) -> np.ndarray:
    """(C,) in float64: each output's sigmoid where that is the net's activation, else the softmax over all."""
    exact = logits.astype(np.float64)
    normaliser = np.logaddexp(0, exact) if activation == "sigmoid" else np.logaddexp.reduce(exact)
    probabilities: np.ndarray = np.exp(exact - normaliser)
    return probabilities


def _first(probabilities: np.ndarray, names: Sequence[str], top: int) -> tuple[RankedClass, ...]:
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(RankedClass(int(index), names[index], float(probabilities[index])) for index in order)
