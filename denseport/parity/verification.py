"""The parity check: both files, each in a framework of its own, on the same images, at once."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from denseport.atomic import temporary_folder
from denseport.errors import UsageError
from denseport.layouts.spec import EPSILON_ROUNDING
from denseport.load import sha256
from denseport.net.config import DenseNetConfig, Traits
from denseport.options import EXACT_TOLERANCE, TOLERANCE, Comparing, valid
from denseport.parity.comparison import compare, disagreements
from denseport.parity.diagnosis import explain, first_divergence
from denseport.parity.findings import outputs, tap_errors, training
from denseport.parity.illustrations import illustrate
from denseport.parity.report import Comparison, Disagreement, FrameworkRun, ParityReport
from denseport.parity.sides import NARROW, Side, both_sides, stored
from denseport.requirements import keras_backend as backend_of_environment
from denseport.requirements import require_parity
from denseport.running.images import ImageSet, given, noise, training_shape
from denseport.running.libraries import LIBRARIES
from denseport.running.request import BATCH, OUTPUTS, OWN_TRAITS, REFERENCE, ROUNDED_REFERENCE, Pass, Request, Training
from denseport.running.workers import Workers

# Inside a net values cancel, so that rounding is larger there than in the outputs. What is this much larger is no
# rounding, and counts even where it does not reach the outputs, behind a dead normalisation say.
INSIDE = 100
LEARNING_RATE = 0.01


def verify(
    a: str | Path,
    b: str | Path,
    *,
    layout_a: str | Path | None = None,
    layout_b: str | Path | None = None,
    device: str = "auto",
    tolerance: float | None = None,
    inputs: str | Path | None = None,
    preprocess: str | None = None,
    head: Literal["keep", "drop"] = "keep",
    same_traits: bool = False,
    exact: bool = False,
    against: Sequence[str] = (),
    keras_backend: str | None = None,
    allow_tf32: bool = False,
    train_steps: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: Workers | None = None,
) -> ParityReport:
    """Compares what two files compute, each read from disk and run in a framework of its own.

    Where both files belong to the same framework, one of them runs in the other. Beside the outputs, the activations
    on the way are compared, and where the outputs are too far apart the report says where the two part and why. In
    float32 the first file is also computed in float64, to tell rounding from error.

    Where one file is stored in a narrower dtype, the other's weights are rounded alike, so that the figure shows the
    mapping. Against the weights as they were, the outputs may be as far off as rounding alone makes them in float64.

    Args:
        a: The reference file.
        b: The other file.
        layout_a: The layout of `a`, where it is not to be detected; `layout_b` likewise.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where both frameworks can use it, else the CPU.
        tolerance: The largest relative error that passes, max|a - b| / max|a|; where None, 1e-5, or 1e-10 if `exact`.
        inputs: A npz file with `images` (N, *spatial, C), and perhaps `labels` (N,), an image, or a folder of images;
            where None, fixed-seed noise of an even, an odd and a non-square size.
        preprocess: How images are prepared, one of `denseport.preprocessing.PREPROCESSING`; where None, image files as
            the first file's layout has it, and arrays not at all.
        head: `drop` compares pooled features, whether or not the files have a classifier.
        same_traits: Whether the second file runs under the first one's traits where theirs differ; what its own
            traits do to the outputs is then reported beside the figure.
        exact: Whether both compute in float64, where a right mapping agrees to about 1e-13. Epsilons that mean the
            same and are written in two ways, 1e-5 and 1.001e-5, count as the first file's; what that does is reported.
        against: Libraries whose own model loads and runs a file in place of the twin, at most one a framework:
            `torchvision`, `timm`, `monai`; `keras-applications`, `keras-hub`.
        keras_backend: `tensorflow`, `torch` or `jax`; where None, what KERAS_BACKEND says, else `tensorflow`.
        allow_tf32: Whether a GPU may round to TF32.
        train_steps: How many steps of training are compared as well, in float64; epsilons count as for `exact`.
        progress: Is called with the number of batches that are done, and of all batches.
        workers: Processes to run in, for many checks in a row; where None, each check starts its own.

    Returns:
        The report, passed or not.

    Raises:
        FrameworkMissingError: A framework or a library is not installed.
        UsageError: The device, the backend, the inputs or other options cannot be used.
        FormatError, LayoutError: A file cannot be read, or the two are not the same architecture.
        VerificationError: A library refuses its file, or a framework ended without a result.
    """
    started = time.perf_counter()
    given_options = {"device": device, "tolerance": tolerance, "train_steps": train_steps, "against": against}
    valid(Comparing, given_options | {"keras_backend": keras_backend, "preprocess": preprocess})
    backend = _checked_backend(keras_backend, exact or train_steps > 0)
    if preprocess is not None and inputs is None:
        raise UsageError(f"--preprocess {preprocess} says how images are prepared; give some by --inputs")
    require_parity(backend)
    dtype = "float64" if exact else "float32"
    tolerance = (EXACT_TOLERANCE if exact else TOLERANCE) if tolerance is None else tolerance
    sides = both_sides(Path(a), Path(b), layout_a, layout_b, head, against)
    config = sides[0].config
    ran_with = _traits(sides, same_traits, exact or train_steps > 0)
    configs = [side.config.replace(traits=traits) for side, traits in zip(sides, ran_with, strict=True)]
    preprocessing = sides[0].preprocessing
    images = noise(config) if inputs is None else given(Path(inputs), config, preprocess, default=preprocessing)
    if config.num_classes in (None, 1):  # pooled features, or a single logit, have no largest that is a class
        images = tuple(dataclasses.replace(each, labels=None) for each in images)
    with _results_folder() as folder, ThreadPoolExecutor(1) as background:
        hashes = [background.submit(sha256, side.path) for side in sides]
        requests = [
            Request(
                framework=side.framework,
                device=device,
                allow_tf32=allow_tf32,
                keras_backend=backend,
                passes=tuple(_passes(side, ran, sides, exact)),
                images=tuple(each.to_json() for each in images),
                training=Training(train_steps, LEARNING_RATE, training_shape(config)) if train_steps else None,
                folder=str(folder),
            )
            for side, ran in zip(sides, configs, strict=True)
        ]
        counter = _counter(requests, images, progress)
        with nullcontext(workers) if workers else Workers() as processes:
            replies = processes.run(requests, counter)
        runs = [
            FrameworkRun(
                file=str(side.path),
                sha256=hashed.result(),
                layout=side.layout,
                framework=side.framework,
                model=LIBRARIES[side.library].version() if side.library else "twin",
                **reply,
            )
            for side, hashed, reply in zip(sides, hashes, replies, strict=True)
        ]
        comparisons = _compared(requests, images)
        if not same_traits:
            comparisons = tuple(map(_under_own_traits, comparisons))
        taps = tap_errors(requests, configs)
        with ExitStack() as stack:
            files = [
                stack.enter_context(stored(side, config.traits, each.passes[0].rounded))
                for side, config, each in zip(sides, configs, requests, strict=True)
            ]
            failed = not all(comparison.passes(tolerance) for comparison in comparisons)
            inside = any(tap.relative_error > INSIDE * tolerance for tap in taps)
            parted = first_divergence(taps, tolerance, dtype) if failed or inside else None
            divergence = explain(*parted, *files) if parted else None
            illustrations = illustrate(requests, configs, files, images, taps, divergence)
        return ParityReport(
            a=runs[0],
            b=runs[1],
            comparisons=comparisons,
            taps=taps,
            divergence=divergence,
            disagreements=_disagreements(requests, images),
            training=training(requests),
            dtype=dtype,
            tolerance=tolerance,
            seconds=time.perf_counter() - started,
            illustrations=illustrations,
        )


def _under_own_traits(comparison: Comparison) -> Comparison:
    """The comparison as the second file's own traits have it, where those were taken for the first one's in vain."""
    effect = comparison.trait_error or 0
    if effect <= TOLERANCE:
        return comparison
    # Two epsilons that mean the same do not where a running variance is tiny.
    return dataclasses.replace(comparison, relative_error=max(comparison.relative_error, effect))


@contextmanager
def _results_folder() -> Iterator[Path]:
    """Where the workers' results go.

    Raises:
        UsageError: There is no folder for temporary files that can be used.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(Path(tempfile.gettempdir()), "denseport-parity-"))
        except OSError as error:
            raise UsageError(
                f"temporary files cannot be made ({error.strerror}); set TMPDIR to a folder with space"
            ) from None
        yield folder


def _compared(requests: Sequence[Request], images: Sequence[ImageSet]) -> tuple[Comparison, ...]:
    """The outputs of both sides for each image array."""
    a, b = (outputs(request, OUTPUTS) for request in requests)
    own_traits = outputs(requests[1], OWN_TRAITS)
    in_torch = next(request for request in requests if request.framework == "torch")
    reference, rounded = (outputs(in_torch, name) for name in (REFERENCE, ROUNDED_REFERENCE))
    return tuple(
        compare(
            each.name,
            a[str(n)],
            b[str(n)],
            each.shape,
            each.labels,
            reference=reference.get(str(n)),
            rounded_reference=rounded.get(str(n)),
            own_traits=own_traits.get(str(n)),
        )
        for n, each in enumerate(images)
    )


def _disagreements(requests: Sequence[Request], images: Sequence[ImageSet]) -> tuple[Disagreement, ...]:
    a, b = (outputs(request, OUTPUTS) for request in requests)
    return tuple(
        disagreement
        for n, each in enumerate(images)
        for disagreement in disagreements(each.name, a[str(n)], b[str(n)], each.names, each.labels)
    )


def _checked_backend(backend: str | None, in_float64: bool) -> str:
    """The backend that Keras is to run on.

    Raises:
        UsageError: There is none of that name, or it cannot compute in float64 where that is needed.
    """
    backend = backend_of_environment(backend)
    if in_float64 and backend != "tensorflow":
        raise UsageError(
            f"--keras-backend {backend}: Keras computes in float64 on tensorflow only, which --exact and --train-steps "
            "need; give --keras-backend tensorflow"
        )
    return backend


def _traits(sides: tuple[Side, Side], same_traits: bool, in_float64: bool) -> tuple[Traits, Traits]:
    """The traits with which each file runs.

    Where frameworks write one epsilon in two ways (1e-5 and 1.001e-5), float64 would show nothing else; a library's own
    model keeps its own, so that the twin takes that one.
    """
    first, second = (side.config.traits for side in sides)
    if same_traits:
        return first, first
    if in_float64 and abs(first.epsilon - second.epsilon) <= EPSILON_ROUNDING:
        if sides[1].library is None:
            second = dataclasses.replace(second, epsilon=first.epsilon)
        elif sides[0].library is None:
            first = dataclasses.replace(first, epsilon=second.epsilon)
    return first, second


def _passes(side: Side, config: DenseNetConfig, sides: tuple[Side, Side], exact: bool) -> list[Pass]:
    """The runs of one side as this net: that which is compared, and those that explain the figures.

    Raises:
        UsageError: The other file is of a narrower dtype, and a library runs this one, which cannot be rounded.
    """
    reference = sides[0]
    rounded = max((each.narrow for each in sides), key=lambda dtype: -NARROW.get(dtype, 99)) or None
    looking = not any(each.library for each in sides)
    if side.library and rounded and side.narrow != rounded:
        raise UsageError(
            f"{side.path}: --against {side.library} runs the file as it is, and the other is in {rounded}; "
            "compare two files of one dtype, or leave --against out"
        )
    main = Pass(
        OUTPUTS,
        str(side.path),
        str(side.path),
        side.found,
        config,
        dtype="float64" if exact else "float32",
        rounded=None if side.library else rounded,
        library=side.library,
        tapped=looking,
    )
    passes = [main]
    if side.framework == "torch" and not (exact and rounded is None):
        plain = Pass(
            REFERENCE,
            str(reference.path),
            str(reference.path),
            reference.found,
            reference.config,
            dtype="float64",
            tapped=looking,
            first_batch=True,
        )
        passes.append(plain)
        if rounded:
            passes.append(dataclasses.replace(plain, name=ROUNDED_REFERENCE, rounded=rounded))
    if config != side.config and side is sides[1] and not side.library:
        passes.append(dataclasses.replace(main, name=OWN_TRAITS, config=side.config, tapped=False))
    return passes


def _counter(
    requests: Sequence[Request], images: Sequence[ImageSet], progress: Callable[[int, int], None] | None
) -> Callable[[], None]:
    """Counts the batches that are done in both workers."""
    batches = sum(each.batch_count(BATCH) for each in images)
    total = sum(len(images) if each.first_batch else batches for request in requests for each in request.passes)
    done = iter(range(1, total + 1))

    def one_batch_done() -> None:
        if progress is not None:
            progress(next(done, total), total)

    return one_batch_done
