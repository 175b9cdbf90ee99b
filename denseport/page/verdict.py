"""What a parity check comes to, in words for readers who have not run it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from denseport.page.wording import count, figure, limit, of_the_largest, share, sides
from denseport.parity.report import ParityReport


def headline(report: ParityReport) -> str:
    """The verdict in one line."""
    if report.passed:
        return "Both files compute the same" + (", and train alike" if report.training else "")
    if report.computes_the_same:
        return "These files compute the same, but do not train alike"
    return "These files do not compute the same"


def sentences(report: ParityReport) -> Iterator[str]:
    """What the verdict means, the most important first."""
    yield _outputs(report)
    agreed = agreement(report)
    if agreed < 1:
        yield f"Both put the same class first for {share(agreed)} of the images."
    if report.training is not None:
        yield _training(report)
    yield from _reservations(report)
    references = [pair for comparison in report.comparisons if (pair := comparison.reference_errors)]
    if report.dtype == "float64" and report.outputs_agree:
        yield "Both computed in float64, where a mistake in the mapping would stand out by orders of magnitude."
    elif references and report.outputs_agree and max(map(max, references)) <= report.tolerance:
        first, second = (max(pair[n] for pair in references) for n in (0, 1))
        yield (
            f"Each is as close to the first file computed in float64 ({figure(first)} and {figure(second)}): what is "
            "left between the two is rounding."
        )


def images(report: ParityReport) -> int:
    """How many images were compared."""
    return sum(comparison.input_shape[0] for comparison in report.comparisons)


def agreement(report: ParityReport) -> float:
    """The share of all images for which both frameworks put the same class first."""
    agreed = sum(comparison.top1_agreement * comparison.input_shape[0] for comparison in report.comparisons)
    return agreed / images(report) if images(report) else 0.0


def _outputs(report: ParityReport) -> str:
    a, b = sides(report)
    on, error = f"On {count(images(report), 'image')}", report.relative_error
    if not math.isfinite(error):
        return f"{on}, outputs of {a} or of {b} hold NaN or Inf: they cannot be used."
    if error == 0 and report.divergence is None:
        same = f"{on}, the outputs of {a} and {b} are equal to the last digit."
        return same if report.outputs_agree else f"{same} {_rounding(report)}"
    if report.outputs_agree and report.divergence is not None:
        return (
            f"{on}, the outputs of {a} and {b} agree, but not what is on the way to them: other images would show it. "
            "Whoever uses the second file gets other results than from the first."
        )
    if report.outputs_agree:
        digits = max(1, math.floor(-math.log10(error)))
        return (
            f"{on}, the outputs of {a} and {b} agree to {count(digits, 'digit')}: they are at most {figure(error)} of "
            f"the largest output apart, where up to {limit(report.tolerance)} passes."
        )
    if error <= report.tolerance:
        return f"{on}, the outputs of {a} and {b} are alike, but not those of the first file. {_rounding(report)}"
    return (
        f"{on}, the outputs of {a} and {b} are up to {of_the_largest(error)} apart, where up to "
        f"{limit(report.tolerance)} passes. Whoever uses the second file gets other results than from the first."
    )


def _rounding(report: ParityReport) -> str:
    worst = max(report.comparisons, key=lambda comparison: comparison.source_error or 0)
    return (
        f"The second file's are {figure(worst.source_error)} from the first's, of which rounding the weights explains "
        f"{figure(worst.rounding_error)}."
    )


def _training(report: ParityReport) -> str:
    training = report.training
    assert training is not None  # noqa: S101 - asked for only where there was training
    far = f"tensors are up to {figure(training.relative_error)} apart, where up to {limit(training.tolerance)} passes"
    return f"After {count(training.steps, 'step')} of the same training, gradients and {far}."


def _reservations(report: ParityReport) -> Iterator[str]:
    """What a reader must know before trusting a verdict that says the same."""
    rounding = [error for comparison in report.comparisons if (error := comparison.rounding_error) is not None]
    if rounding and report.outputs_agree:
        yield (
            f"The second file holds its weights in a narrower type; that rounding alone moves the outputs by "
            f"{of_the_largest(max(rounding))}, and is allowed for."
        )
    traits = [error for comparison in report.comparisons if (error := comparison.trait_error) is not None]
    if traits:
        yield (
            "Both ran under the first file's traits. Under those of its own layout, the second file's outputs differ "
            f"by {of_the_largest(max(traits))}."
        )
