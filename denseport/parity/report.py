"""What a parity check found: figures, the place where two nets part, and what a document shows beyond them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from denseport.errors import VerificationError, figure, limit, listed, quoted
from denseport.running.request import TWIN, WHOLE_MODEL, ran_by

EQUAL = "equal"

Cause = Literal["", "outputs", "rounding", "inside", "training"]


@dataclass(frozen=True)
class FrameworkRun:
    """One file as one framework ran it.

    Attributes:
        file: The file.
        sha256: Its content's hash.
        layout: Its layout.
        framework: `torch` or `keras`.
        traits: Those of its net, by name; `origins` whether each is `stated`, `shown` or `assumed`.
        model: `twin`; `whole-model`, the one in the file, as Keras has built it; or the library whose own model it
            was, with its version.
        reason: Why it was denseport's twin; "" where it was not.
        version: The framework's version, with Keras' backend.
        device: Where it ran, in the framework's words.
        settings: What can change the figures, by name: TF32, determinism, CUDA and cuDNN versions.
        seconds: Wall time that the process took, its start included where it was started for this check.
        peak_memory: Peak resident memory of the process in bytes, that of earlier checks included.
        prepared: What was made of images x for it, as the other file's net does by itself, or "".
    """

    file: str
    sha256: str
    layout: str
    framework: str
    traits: Mapping[str, Any]
    origins: Mapping[str, str]
    model: str
    reason: str
    version: str
    device: str
    settings: Mapping[str, str]
    seconds: float
    peak_memory: int
    prepared: str = ""

    @property
    def ran_on(self) -> str:
        """What ran the file, where, and with what settings."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items() if self.device != "cpu")
        return f"{self.version}, {self.device}{f' ({settings})' if settings else ''}: {self.ran}"

    @property
    def read_as(self) -> str:
        """Whose reading of the file was run, as a verdict says it."""
        if self.model == TWIN:
            return "as denseport reads it"
        return "by its own model" if self.model == WHOLE_MODEL else f"as {self.model} loads it"

    @property
    def ran(self) -> str:
        """Whose model it was, and where it was denseport's own, why."""
        return ran_by(self.model, self.reason)


@dataclass(frozen=True)
class Comparison:
    """The outputs of both frameworks for one array of images.

    Attributes:
        name: What the images are called, `224x224` or a file.
        input_shape: (N, *spatial, C).
        relative_error: max|a - b| / max|a|; infinite where either holds NaN or Inf.
        absolute_error: max|a - b|.
        top1_agreement: Share of the images for which both have the same largest output.
        accuracy: Share of the labels that each framework's largest output meets, where there are labels.
        reference_errors: How far each framework is from the first file computed in float64, on the first batch;
            None where both computed in float64 themselves.
        rounding_error: What rounding the first file's weights to the second's narrower dtype does in float64, on the
            first batch; None where none was rounded.
        source_error: How far the second framework is from the first file in float64 and in its own precision, on the
            first batch; None where none was rounded. It passes up to `rounding_error` and the tolerance together.
        trait_error: max|a - b'| / max|a|, where b' is the second file under its own layout's traits; None where these
            are the first one's.
    """

    name: str
    input_shape: tuple[int, ...]
    relative_error: float
    absolute_error: float
    top1_agreement: float
    accuracy: tuple[float, float] | None = None
    reference_errors: tuple[float, float] | None = None
    rounding_error: float | None = None
    source_error: float | None = None
    trait_error: float | None = None

    def passes(self, tolerance: float) -> bool:
        """Whether the outputs are finite and within the tolerance, beyond what rounding the weights explains."""
        if self.source_error is not None and self.source_error > (self.rounding_error or 0) + tolerance:
            return False
        return self.relative_error <= tolerance

    @property
    def effects(self) -> tuple[str, ...]:
        """What rounding and traits do to the outputs, a line each, where they do something."""
        lines = []
        if self.rounding_error is not None:
            lines.append(
                f"rounding the weights moves the outputs by {figure(self.rounding_error)} in float64; from the weights "
                f"as they were it is {figure(self.source_error)}"
            )
        if self.trait_error is not None:
            lines.append(f"the second file's own traits move the outputs by {figure(self.trait_error)}")
        return tuple(lines)


@dataclass(frozen=True)
class Tap:
    """How far both frameworks are apart at one place in the net, over all tapped images.

    Attributes:
        name: `stem`, `block1.layer3` (the features that the layer adds), `transition1`, `head.norm` or `head`.
        relative_error: max|a - b| / max|a|, the largest of all image arrays.
        reference_errors: As in `Comparison`.
    """

    name: str
    relative_error: float
    reference_errors: tuple[float, float] | None = None


@dataclass(frozen=True)
class FeedingTensor:
    """A tensor between the last tap that agrees and the first that does not.

    Attributes:
        name: Its canonical name.
        a: Its name in the first file.
        b: Its name in the second file.
        largest: max|a - b| of its values; zero where they are equal, None where either holds NaN or Inf.
        finding: `equal`, or in words what is different, as far as it shows.
    """

    name: str
    a: str
    b: str
    largest: float | None
    finding: str

    @property
    def equal(self) -> bool:
        """Whether both files hold the same values."""
        return self.finding == EQUAL


@dataclass(frozen=True)
class Divergence:
    """Where two nets part.

    Attributes:
        tap: The first tap whose error jumps above the noise of those before it.
        relative_error: Its error.
        noise: The largest error before it, or what rounding in that precision explains.
        tensors: What feeds the tap, since the one before it.
        explanation: The finding in one line.
    """

    tap: str
    relative_error: float
    noise: float
    tensors: tuple[FeedingTensor, ...]
    explanation: str

    @property
    def place(self) -> str:
        """Where the two part, and by how much, in one line."""
        error = figure(self.relative_error)
        return f"{self.tap}: {error} relative, where it was {figure(self.noise)} or less before"

    @property
    def findings(self) -> tuple[str, ...]:
        """The tensors that feed the place, a line each where they differ; the explanation where none does."""
        different = [
            f"{tensor.name} {tensor.finding} ({quoted(tensor.a)} against {quoted(tensor.b)})"
            for tensor in self.tensors
            if not tensor.equal
        ]
        equal = listed(tensor.name for tensor in self.tensors if tensor.equal)
        if not different:
            return (self.explanation,)
        return (*different, f"equal: {equal}") if equal else tuple(different)


@dataclass(frozen=True)
class Disagreement:
    """An image for which the two frameworks' largest outputs differ; `label` is the true class where it is known."""

    image: str
    a: int
    b: int
    label: int | None


@dataclass(frozen=True)
class TrainedTensor:
    """How far both frameworks are apart on one tensor after training.

    Attributes:
        name: Its canonical name.
        gradient_error: Of the first step's gradient, relative to its largest value; None for running statistics.
        updated_error: Of the value after the last step, relative to its largest.
    """

    name: str
    gradient_error: float | None
    updated_error: float

    @property
    def error(self) -> float:
        """The larger of the two."""
        return max(self.gradient_error or 0, self.updated_error)


@dataclass(frozen=True)
class TrainingReport:
    """Whether two files train alike: plain SGD in float64 on one batch, normalisations in training mode.

    Attributes:
        steps: How many steps were taken.
        learning_rate: Of plain SGD.
        losses: The loss, a mean squared error, before each step in both frameworks.
        tensors: Every trained tensor and running statistic, in graph order.
        tolerance: The largest error that passes.
    """

    steps: int
    learning_rate: float
    losses: tuple[tuple[float, float], ...]
    tensors: tuple[TrainedTensor, ...]
    tolerance: float

    @property
    def worst(self) -> TrainedTensor:
        """The tensor with the largest error of either kind."""
        return max(self.tensors, key=lambda tensor: tensor.error)

    @property
    def relative_error(self) -> float:
        """The largest error of gradients and updated tensors."""
        return self.worst.error

    @property
    def passed(self) -> bool:
        """Whether every gradient and every updated tensor is within the tolerance."""
        return self.relative_error <= self.tolerance

    @property
    def verdict(self) -> str:
        """Passed or failed, by what figure, and the tensor that is furthest apart, in one line."""
        return (
            f"{'passed' if self.passed else 'FAILED'}: {figure(self.relative_error)} relative after {self.steps} steps "
            f"in float64, tolerance {limit(self.tolerance)}; furthest: {self.worst.name}"
        )


@dataclass(frozen=True)
class Histogram:
    """How many values of two arrays, `a` and `b`, fall between each two of the `edges`; `title` says of what."""

    title: str
    edges: tuple[float, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """An image's largest outputs in both frameworks: pairs of class and softmax share, largest first, at most five."""

    image: str
    a: tuple[tuple[int, float], ...]
    b: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Correspondence:
    """One row of the mapping table: a canonical tensor, and its name and shape in each file."""

    name: str
    a: str
    a_shape: tuple[int, ...]
    b: str
    b_shape: tuple[int, ...]


@dataclass(frozen=True)
class Illustrations:
    """What a document shows beyond the figures: distributions at the worst taps, predictions, the whole mapping."""

    histograms: tuple[Histogram, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    mapping: tuple[Correspondence, ...] = ()


@dataclass(frozen=True)
class ParityReport:
    """Whether two files compute the same, and by what figures.

    Attributes:
        a: The run of the first file, the reference.
        b: The run of the second file.
        comparisons: One for each array of images.
        taps: The errors along the net, in graph order; none where a library ran its own model.
        divergence: Where the two part, or None where they agree; it may be there though the outputs agree, where a
            mistake does not reach them.
        disagreements: Images on whose class the two do not agree.
        training: What training both showed, or None where it was not asked for.
        dtype: What both computed in, `float32` or `float64`.
        tolerance: The largest relative error that passes.
        seconds: Wall time of the whole check.
        illustrations: What a document shows beyond this; not in `to_dict`.
    """

    a: FrameworkRun
    b: FrameworkRun
    comparisons: tuple[Comparison, ...]
    taps: tuple[Tap, ...]
    divergence: Divergence | None
    disagreements: tuple[Disagreement, ...]
    training: TrainingReport | None
    dtype: str
    tolerance: float
    seconds: float
    illustrations: Illustrations = Illustrations()

    @property
    def relative_error(self) -> float:
        """The largest relative error of all comparisons."""
        return max(comparison.relative_error for comparison in self.comparisons)

    @property
    def passed(self) -> bool:
        """Whether both compute the same and, where training was asked for, train alike."""
        return self.computes_the_same and (self.training is None or self.training.passed)

    @property
    def outputs_agree(self) -> bool:
        """Whether every comparison is finite and within the tolerance."""
        return all(comparison.passes(self.tolerance) for comparison in self.comparisons)

    @property
    def computes_the_same(self) -> bool:
        """Whether the outputs agree, and so does all that is on the way to them."""
        return self.outputs_agree and self.divergence is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, verdict and figure included; an infinite figure is None."""
        plain = dataclasses.asdict(dataclasses.replace(self, illustrations=Illustrations()))
        del plain["illustrations"]
        training = self.training and {
            "passed": self.training.passed,
            "relative_error": self.training.relative_error,
            "worst": self.training.worst.name,
            **plain["training"],
        }
        found = {"passed": self.passed, "verdict": self.verdict, "scope": self.scope, "failure": self.failure}
        runs = {name: {**plain[name], "ran": run.ran} for name, run in (("a", self.a), ("b", self.b))}
        figures = {**found, "relative_error": self.relative_error, **plain, **runs, "training": training}
        finite: dict[str, Any] = _finite(figures)
        return finite

    @property
    def cause(self) -> Cause:
        """What the check failed by, the outputs before all else: "" where it has passed.

        `outputs` are beyond the tolerance; `rounding` the weights does not explain how far they are from the first
        file's; they agree, but `inside` the nets part; or only `training` shows a difference.
        """
        if self.passed:
            return ""
        if not self.outputs_agree:
            return "rounding" if self.relative_error <= self.tolerance else "outputs"
        return "inside" if self.divergence is not None else "training"

    @property
    def reason(self) -> str:
        """Why the check failed, in one line without the files' names; "" where it has passed."""
        if self.cause == "outputs":
            if not math.isfinite(self.relative_error):
                return "outputs hold NaN or Inf"
            error = figure(self.relative_error)
            return f"the outputs' relative error is {error}, above the tolerance {limit(self.tolerance)}"
        if self.cause == "rounding":
            worst = max(self.comparisons, key=lambda comparison: comparison.source_error or 0)
            return (
                f"the outputs' relative error from the first file is {figure(worst.source_error)}, of which rounding "
                f"the weights explains {figure(worst.rounding_error)}"
            )
        if self.cause == "inside":
            return "outputs agree, but not what is on the way to them, which other images would show"
        if self.training is not None and self.cause == "training":
            return (
                f"outputs agree, but after {self.training.steps} steps of training the tensors' relative error is "
                f"{figure(self.training.relative_error)}, above the tolerance {limit(self.training.tolerance)}; "
                f"furthest: {self.training.worst.name}"
            )
        return ""

    @property
    def scope(self) -> str:
        """What the verdict is about: what two twins share, and denseport has misread, it does not cover."""
        if self.a.model == self.b.model == TWIN:
            return "both files as denseport reads them"
        return f"the first file {self.a.read_as}, the second {self.b.read_as}"

    @property
    def verdict(self) -> str:
        """Passed or failed, by what figure, in what precision and of what, in one line."""
        told = f"{figure(self.relative_error)} relative, tolerance {limit(self.tolerance)}, in {self.dtype}"
        told = f"{told}; {self.scope}"
        if self.passed:
            return f"passed: {told}"
        return f"FAILED: {told}" if self.cause == "outputs" else f"FAILED: {told}; {self.reason}"

    @property
    def failure(self) -> str:
        """What is wrong with which file, and what to do, in one line; "" where the check has passed."""
        if self.passed:
            return ""
        told = f"{self.b.file}: {self.reason} ({self.b.framework}, against {self.a.file} in {self.a.framework})"
        if self.cause == "training":
            return told
        if self.cause == "rounding":
            return f"{told}; convert it again, or in a wider --dtype"
        if self.divergence is not None:
            return f"{told}; {self.divergence.explanation}"
        return f"{told}; {'see `denseport diff`' if self.taps else 'leave --against out to see where they part'}"

    def raise_if_failed(self, report: Any) -> None:
        """Raises VerificationError with `report` attached where the check has not passed."""
        if self.failure:
            raise VerificationError(self.failure, report)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
