"""The options that several commands share, each with its help."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

# The tables that these names come from would bring numpy into `--help`; a test holds both to each other.
FORMATS = click.Choice(["pth", "h5", "safetensors", "keras"])
PREPROCESSING = click.Choice(["torch", "keras-cv", "caffe", "densenet-caffe", "torchxrayvision", "none"])
LIBRARIES = click.Choice(["torchvision", "timm", "monai", "keras-applications", "keras-hub"])
BACKENDS = click.Choice(["tensorflow", "torch", "jax"])
Command = TypeVar("Command", bound=Callable[..., Any])


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several options as one decorator, so that commands share them."""
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
comparing = _options(
    click.option(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda|cuda:N",
        help="Where both frameworks run; auto takes CUDA where both can use it.  [default: auto]",
    ),
    click.option(
        "--tolerance",
        type=click.FloatRange(0, 1),
        help="Largest relative error that passes.  [default: 1e-5, with --exact 1e-10]",
    ),
    click.option("--exact", is_flag=True, help="Compute in float64, where a right mapping agrees to about 1e-13."),
    click.option(
        "--inputs",
        metavar="FILE|FOLDER",
        help="Images to compare on: npz with `images` (N, H, W, C) and perhaps `labels` (N,); an image; or a folder.",
    ),
    click.option(
        "--preprocess",
        type=PREPROCESSING,
        help="How images are prepared.  [default: image files as A's layout says, arrays not at all]",
    ),
    click.option(
        "--against",
        multiple=True,
        type=LIBRARIES,
        help="Let that library's own model load and run its file, in place of the twin.",
    ),
    click.option(
        "--keras-backend",
        type=BACKENDS,
        help="What Keras runs on.  [default: KERAS_BACKEND, or tensorflow]",
    ),
    click.option("--allow-tf32", is_flag=True, help="Let a GPU round to TF32 on its way."),
    click.option(
        "--train-steps", type=click.IntRange(0, 1000), default=0, help="Compare N steps of training too.", metavar="N"
    ),
)
showing = _options(
    click.option("--report", "document", type=click.Path(path_type=Path), help="Write the findings to an HTML page."),
    click.option("-v", "--verbose", is_flag=True, help="Show every tap along the net."),
)
converting = _options(
    click.option("--from", "from_format", type=FORMATS, help="Format of SRC.  [default: by its content]"),
    click.option("--to", "to_format", type=FORMATS, help="Format of DST.  [default: by its suffix]"),
    click.option("--from-layout", metavar="NAME|FILE.toml", help="Layout of SRC.  [default: detected]"),
    click.option(
        "--to-layout",
        metavar="NAME|FILE.toml",
        help="Layout of DST.  [default: torchvision, or keras-applications for h5]",
    ),
    click.option(
        "--head", type=click.Choice(["keep", "drop"]), default="keep", help="Keep the classifier, or leave it out."
    ),
    click.option(
        "--classes", type=click.IntRange(1), metavar="N", help="Replace the classifier by one of N zero outputs."
    ),
    click.option(
        "--allow-trait-mismatch",
        is_flag=True,
        help="Go on where the target layout computes something else with the same weights.",
    ),
    click.option(
        "--compensate-epsilon",
        is_flag=True,
        help="Where epsilons differ, move the difference into the running variances.",
    ),
    click.option("--allow-nonfinite", is_flag=True, help="Convert weights that are NaN or Inf, too."),
    click.option(
        "--dtype",
        type=click.Choice(["keep", "float32", "float16", "bfloat16"]),
        default="keep",
        help="Keep the dtype, or round every tensor to another.",
    ),
    click.option("--verify/--no-verify", default=True, help="Run both frameworks and compare their outputs."),
)
