"""The parity check: both files, each in a framework of its own, on the same images, at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from denseport.errors import UsageError
from denseport.options import EXACT_TOLERANCE, TOLERANCE, Comparing, Head, Reading, checked
from denseport.parity.comparison import compare, disagreements, outputs, predictions, tap_errors, training
from denseport.parity.diagnosis import diagnose, illustrate
from denseport.parity.report import Comparison, FrameworkRun, ParityReport
from denseport.parity.sides import Side, both_sides, fed_alike
from denseport.requirements import keras_backend, require_parity
from denseport.running.images import ImageSet, given, noise, training_shape
from denseport.running.libraries import LIBRARIES
from denseport.running.request import FILE_TRAITS, OUTPUTS, REFERENCE, ROUNDED_REFERENCE, TWIN, Pass, Request
from denseport.running.workers import Progress, Workers, results_folder
from denseport.source import Source

PREDICTED_IMAGES = 8


def verify(
    a: str | Path,
    b: str | Path,
    *,
    layout_a: str | Path | None = None,
    layout_b: str | Path | None = None,
    head: Head = "keep",
    net_a: str | None = None,
    net_b: str | None = None,
    traits: Mapping[str, Any] | None = None,
    same_traits: bool = False,
    progress: Progress | None = None,
    workers: Workers | None = None,
    **options: Unpack[Comparing],
) -> ParityReport:
    """Compares what two files compute, each read from disk and run in a framework of its own.

    Where both files belong to the same framework, one of them runs in the other. Beside the outputs, the activations
    on the way are compared, and where the outputs are too far apart the report says where the two part and why. In
    float32 the first file is also computed in float64, to tell rounding from error. The figure is
    max|a - b| / max|a|.

    Where one file is stored in a narrower dtype, the other's weights are rounded alike, so that the figure shows the
    mapping. Against the weights as they were, the outputs may be as far off as rounding alone makes them in float64.

    In float64 (`exact`, `train_steps`), epsilons that mean the same and are written in two ways, 1e-5 and 1.001e-5,
    count as the first file's; what that does is reported.

    Args:
        a: The reference file.
        b: The other file.
        layout_a: The layout of `a`, where it is not to be detected; `layout_b` likewise.
        head: `drop` compares pooled features, whether or not the files have a classifier.
        net_a: The path of the net in `a` that is meant, where there are several; `net_b` likewise.
        traits: Those that are stated of both nets, by name.
        same_traits: Whether the second file runs under the first one's traits where theirs differ; what the traits that
            it has do to the outputs is then reported beside the figure.
        progress: Is called with the number of batches that are done, and of all batches.
        workers: Processes to run in, for many checks in a row; where None, each check starts its own.
        options: How they are compared: see `denseport.options.Comparing`.

    Returns:
        The report, passed or not.

    Raises:
        FrameworkMissingError: A framework or a library is not installed.
        UsageError: The device, the backend, the inputs or other options cannot be used.
        FormatError, LayoutError: A file cannot be read, changes meanwhile, or the two are not the same architecture.
        VerificationError: A library refuses its file, or a framework ended without a result.
    """
    chosen = checked_comparing(options)
    said: Any = {"head": head, "traits": checked(Reading, {"traits": traits or {}})["traits"]}
    with Source(Path(a), layout_a, net=net_a, **said) as first, Source(Path(b), layout_b, net=net_b, **said) as second:
        return compared(first, second, chosen, same_traits=same_traits, progress=progress, workers=workers)


def checked_comparing(options: Mapping[str, Any]) -> Comparing:
    """All options of a comparison, with defaults, checked before any file is opened.

    Raises:
        UsageError: One is no option, has a wrong value, or contradicts another.
        FrameworkMissingError: A framework is not installed.
    """
    chosen = checked(Comparing, options)
    backend = keras_backend(chosen["keras_backend"])
    if _in_float64(chosen) and backend != "tensorflow":
        raise UsageError(
            f"--keras-backend {backend}: Keras computes in float64 on tensorflow only, which --exact and --train-steps "
            "need; give --keras-backend tensorflow"
        )
    if chosen["preprocess"] is not None and chosen["inputs"] is None:
        raise UsageError(f"--preprocess {chosen['preprocess']} says how images are prepared; give some by --inputs")
    require_parity(backend)
    exact = EXACT_TOLERANCE if chosen["exact"] else TOLERANCE
    return {
        **chosen,
        "keras_backend": backend,
        "tolerance": exact if chosen["tolerance"] is None else chosen["tolerance"],
    }


def compared(
    a: Source,
    b: Source,
    options: Comparing,
    *,
    same_traits: bool = False,
    folded: bool = False,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> ParityReport:
    """As `verify`, of two files that are open; `folded` where the second takes raw images though it has no inputs."""
    started = time.perf_counter()
    options = checked_comparing(options)
    for source in (a, b):
        source.hash_in_background()
        source.require_decided()
    sides = both_sides(a, b, options["against"], same_traits=same_traits, in_float64=_in_float64(options))
    images, sides = _images(sides if folded else fed_alike(*sides), options)
    with results_folder() as folder:
        requests = [_request(side, sides, images, options, folder) for side in sides]
        try:
            with nullcontext(workers) if workers else Workers() as processes:
                replies = processes.run(requests, progress)
        finally:  # what ran, or could not, may have been another file than the one that was recognised
            for source in (a, b):
                source.check_unchanged()
        report = _report(sides, requests, replies, images, options, same_traits)
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def _in_float64(options: Comparing) -> bool:
    return options["exact"] or options["train_steps"] > 0


def _images(sides: tuple[Side, Side], options: Comparing) -> tuple[tuple[ImageSet, ...], tuple[Side, Side]]:
    """What both nets see: the user's images, prepared as the first file has it, or noise of a size that both take.

    A model in a file may take images of one size alone: where the user's are of another, the twin takes its place.
    """
    inputs, config = options["inputs"], sides[0].config
    size = next((side.image_size for side in sides if side.image_size), ())
    if inputs is None:
        images = noise(config, size)
    else:
        images = given(Path(inputs), config, options["preprocess"], sides[0].source.preprocessing, size)
    if config.num_classes in (None, 1):  # pooled features, or a single logit, have no largest that is a class
        images = tuple(dataclasses.replace(each, labels=None) for each in images)
    return images, (sides[0].taking(images), sides[1].taking(images))


def _request(
    side: Side, sides: tuple[Side, Side], images: tuple[ImageSet, ...], options: Comparing, folder: Path
) -> Request:
    return Request(
        framework=side.framework,
        device=options["device"],
        allow_tf32=options["allow_tf32"],
        keras_backend=options["keras_backend"] or "",
        passes=tuple(_passes(side, sides, options["exact"])),
        images=images,
        folder=str(folder),
        train_steps=options["train_steps"],
        train_shape=training_shape(sides[0].config),
    )


def _passes(side: Side, sides: tuple[Side, Side], exact: bool) -> Iterator[Pass]:
    """The runs of one side: that which is compared, and those that explain the figures."""
    looking = not any(each.model in LIBRARIES for each in sides)
    main = dataclasses.replace(
        _pass(OUTPUTS, side),
        config=side.config,
        dtype="float64" if exact else "float32",
        rounded=None if side.model in LIBRARIES else side.rounded,
        model=side.model,
        reason=side.reason,
        tapped=looking,
    )
    yield main
    if side.framework == "torch" and not (exact and side.rounded is None):
        plain = dataclasses.replace(_pass(REFERENCE, sides[0]), dtype="float64", tapped=looking, first_batch=True)
        yield plain
        if side.rounded:
            yield dataclasses.replace(plain, name=ROUNDED_REFERENCE, rounded=side.rounded)
    if side.config != side.file_config and side is sides[1] and side.model == TWIN:
        yield dataclasses.replace(main, name=FILE_TRAITS, config=side.file_config, tapped=False)


def _pass(name: str, side: Side) -> Pass:
    source = side.source
    return Pass(name, str(source.path), str(source.shown), source.detection, side.file_config)


def _report(
    sides: tuple[Side, Side],
    requests: Sequence[Request],
    replies: Sequence[dict[str, Any]],
    images: Sequence[ImageSet],
    options: Comparing,
    same_traits: bool,
) -> ParityReport:
    """What both processes left behind, compared and explained; `seconds` is for the caller to say."""
    tolerance, dtype = options["tolerance"] or 0.0, "float64" if options["exact"] else "float32"
    found = [outputs(request) for request in requests]
    pairs = list(zip(images, found[0][OUTPUTS], found[1][OUTPUTS], strict=True))
    comparisons = _comparisons(pairs, found[0] | found[1], same_traits)
    taps = tap_errors(requests, sides)
    outputs_agree = all(comparison.passes(tolerance) for comparison in comparisons)
    divergence = diagnose(taps, sides, outputs_agree, tolerance, dtype)
    predicted = [each for pair in pairs for each in predictions(*pair, PREDICTED_IMAGES)][:PREDICTED_IMAGES]
    return ParityReport(
        a=_run(sides[0], replies[0]),
        b=_run(sides[1], replies[1]),
        comparisons=comparisons,
        taps=taps,
        divergence=divergence,
        disagreements=tuple(each for pair in pairs for each in disagreements(*pair)),
        training=training(requests),
        dtype=dtype,
        tolerance=tolerance,
        seconds=0.0,
        illustrations=illustrate(requests, sides, predicted, taps, divergence),
    )


def _run(side: Side, reply: dict[str, Any]) -> FrameworkRun:
    return FrameworkRun(
        file=str(side.source.shown),
        sha256=side.source.sha256,
        layout=side.layout,
        framework=side.framework,
        traits=vars(side.file_config.traits),
        origins=side.source.detection.known_as,
        prepared=side.prepared,
        **reply,
    )


def _comparisons(
    pairs: Sequence[tuple[ImageSet, np.ndarray, np.ndarray]],
    found: Mapping[str, Sequence[np.ndarray]],
    same_traits: bool,
) -> tuple[Comparison, ...]:
    """The outputs of both sides for each array of images, beside those of the passes that explain them."""
    nothing = [None] * len(pairs)
    explaining = zip(*(found.get(name, nothing) for name in (REFERENCE, ROUNDED_REFERENCE, FILE_TRAITS)), strict=True)
    comparisons = [compare(*pair, *passes) for pair, passes in zip(pairs, explaining, strict=True)]
    return tuple(comparisons if same_traits else map(_under_file_traits, comparisons))


def _under_file_traits(comparison: Comparison) -> Comparison:
    """The comparison as the second file's traits have it, where those were taken for the first one's in vain."""
    effect = comparison.trait_error or 0
    if effect <= TOLERANCE:
        return comparison
    # Two epsilons that mean the same do not where a running variance is tiny.
    return dataclasses.replace(comparison, relative_error=max(comparison.relative_error, effect))
