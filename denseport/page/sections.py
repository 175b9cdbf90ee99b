"""The sections of the page, in their order; each is None where a report has nothing for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from xml.etree.ElementTree import Element

from denseport.errors import figure, quoted
from denseport.layouts.traits import told
from denseport.page.html import (
    NONE,
    Cell,
    code,
    count,
    element,
    folded,
    noted,
    prose,
    section,
    sentence,
    shape,
    share,
    sides,
    table,
)
from denseport.page.plots import error_plot, histogram_plots, noise
from denseport.parity.report import Comparison, FrameworkRun, ParityReport, Prediction

WORST_TAPS, WORST_TENSORS = 3, 10
DISAGREEMENTS, PREDICTIONS = 50, 12
# Longer tables are folded.
UNFOLDED = 10


def sections(report: ParityReport) -> Iterator[Element]:
    """All that there is to show below the verdict."""
    makers = (
        _divergence,
        _along_the_net,
        _comparisons,
        _files,
        _histograms,
        _predictions,
        _disagreements,
        _training,
        _mapping,
    )
    for make in makers:
        made = make(report)
        if made is not None:
            yield made


def _divergence(report: ParityReport) -> Element | None:
    """Where the two nets part, and what feeds that place."""
    parts = report.divergence
    if parts is None:
        return None
    rows = []
    for tensor in parts.tensors:
        cells = figure(tensor.largest), prose(tensor.finding, 300)
        judged = [element("td", cell, class_="equal" if tensor.equal else "fails") for cell in cells]
        rows.append([noted(code(quoted(tensor.name)), quoted(tensor.a), quoted(tensor.b)), *judged])
    columns = ("Tensor, by its names", "Largest difference", "Finding")
    return section(
        "Where they part",
        element("p", sentence(parts.explanation), class_="lead"),
        element("p", sentence(parts.place)),
        table("Tensors that feed the place", columns, rows) if rows else None,
        class_="failure",
    )


def _along_the_net(report: ParityReport) -> Element:
    """The plot of errors along the network, and its figures folded away."""
    heading = "Error along the network"
    if not report.taps:
        told = "A library ran its own model, into which there is no look: only the outputs were compared."
        return section(heading, element("p", told))
    worst = sorted(report.taps, key=lambda tap: -tap.relative_error)[:WORST_TAPS]
    largest = ", ".join(f"{quoted(tap.name)} ({figure(tap.relative_error)})" for tap in worst)
    told = (
        "Each mark is the largest difference at one place, relative to the largest value there. "
        + ("What stays within the grey band is rounding. " if noise(report) is not None else "")
        + f"Furthest apart: {largest}."
    )
    known = any(tap.reference_errors for tap in report.taps)
    columns = ["Tap", "Relative error", *[f"{side} to float64" for side in sides(report) if known]]
    rows: list[list[Cell]] = [
        [
            code(quoted(tap.name)),
            figure(tap.relative_error),
            *(map(figure, tap.reference_errors) if tap.reference_errors else [None] * (2 * known)),
        ]
        for tap in report.taps
    ]
    figures = folded(
        f"The figures of {count(len(rows), 'tap')}", table("Relative error at each tap", columns, rows, "figures")
    )
    return section(heading, element("p", told), error_plot(report), figures)


def _comparisons(report: ParityReport) -> Element:
    """The outputs for each array of images, one a column; a row for each figure that is known of any."""
    rows: list[list[Cell]] = [
        [noted(label, explanation), *cells]
        for label, explanation, cells in _figures(report)
        if any(cell is not None for cell in cells)
    ]
    columns = ["", *[prose(each.name, 60) for each in report.comparisons]]
    return section("Outputs compared", table("Outputs compared", columns, rows, "figures"))


def _figures(report: ParityReport) -> Iterator[tuple[str, str, Sequence[Cell]]]:
    """What is said of the comparisons: a label, an explanation, and a cell for each; None where it is not known."""
    every = report.comparisons

    def optional(errors: Iterable[float | None]) -> list[str | None]:
        return [None if error is None else figure(error) for error in errors]

    yield "Images", "number × sides × channels", [shape(each.input_shape) for each in every]  # noqa: RUF001
    yield "Relative error", "max |a − b| / max |a|", [_judged(each, report.tolerance) for each in every]  # noqa: RUF001
    yield "Absolute error", "max |a − b|", [figure(each.absolute_error) for each in every]  # noqa: RUF001
    yield "Same class first", "share of the images", [share(each.top1_agreement) for each in every]
    for n, side in enumerate(sides(report)):
        shares = [each.accuracy and share(each.accuracy[n]) for each in every]
        yield f"Accuracy in {side}", "share of the labels met", shares
    for n, side in enumerate(sides(report)):
        errors = [each.reference_errors and figure(each.reference_errors[n]) for each in every]
        yield f"{side} to float64", "distance from the first file computed in float64", errors
    told = "what the narrower type of the second file's weights does in float64"
    yield "Rounding of the weights", told, optional(each.rounding_error for each in every)
    told = "distance of the second file from the first as it is, in float64"
    yield "Rounding and all", told, optional(each.source_error for each in every)
    told = "error with the second file under its own layout's epsilon, padding and so on"
    yield "Under its own traits", told, optional(each.trait_error for each in every)


def _judged(comparison: Comparison, tolerance: float) -> Element:
    told = "passes" if comparison.passes(tolerance) else "fails"
    return element("td", noted(element("strong", figure(comparison.relative_error)), told), class_=told)


def _files(report: ParityReport) -> Element:
    """The two files side by side, and how each was run."""
    runs = (report.a, report.b)
    rows: list[list[Cell]] = [
        ["File", *[_path(PurePath(run.file)) for run in runs]],
        ["SHA-256", *[code(prose(run.sha256, 64)) for run in runs]],
        ["Layout", *[quoted(run.layout) for run in runs]],
        *_traits(runs),
        ["Framework", *[prose(run.version, 100) for run in runs]],
        ["Model", *[sentence(run.ran) for run in runs]],
        ["Device", *[prose(run.device, 100) for run in runs]],
        ["Computed in", *[report.dtype for _ in runs]],
    ]
    for name in dict.fromkeys(itertools.chain(*[run.settings for run in runs])):
        rows.append(
            [prose(name, 60), *[prose(run.settings[name], 100) if name in run.settings else None for run in runs]]
        )
    rows.append(["Time", *[f"{run.seconds:.1f} s" for run in runs]])
    rows.append(["Peak memory", *[f"{run.peak_memory / 1e9:.2f} GB" for run in runs]])
    return section("The two files", table("The two files", ["", "First", "Second"], rows, "sides"))


def _traits(runs: Sequence[FrameworkRun]) -> Iterator[list[Cell]]:
    """What is stated, shown and assumed of each file's net."""
    every = [told(run.traits, run.origins) for run in runs]
    for how in ("stated", "shown", "assumed"):
        if any(how in lines for lines in every):
            yield [how.capitalize(), *[prose(lines[how], 500) if how in lines else None for lines in every]]


def _path(path: PurePath) -> Element:
    folder = [] if path.parent == PurePath() else [prose(str(path.parent), 200)]
    return noted(element("strong", prose(path.name, 120)), *folder)


def _histograms(report: ParityReport) -> Element | None:
    """How values are spread at the worst places."""
    if not report.illustrations.histograms:
        return None
    told = "Values at the places with the largest errors. Where both agree, the outline follows the area."
    plots = histogram_plots(report.illustrations.histograms, *sides(report))
    return section("Distributions", element("p", told), plots)


def _predictions(report: ParityReport) -> Element | None:
    """The largest outputs of some images in both frameworks."""
    every = report.illustrations.predictions
    if not every:
        return None
    cards = element("div", *[_prediction(each, *sides(report)) for each in every[:PREDICTIONS]], class_="cards")
    told = element("p", "Classes by number, with their share of a softmax.")
    return section("Largest outputs", told, cards, _not_shown(len(every) - PREDICTIONS))


def _prediction(prediction: Prediction, a: str, b: str) -> Element:
    rows: list[list[Cell]] = []
    for rank, pair in enumerate(itertools.zip_longest(prediction.a, prediction.b), 1):
        classes = [side and side[0] for side in pair]
        differs = classes[0] != classes[1] or None in classes
        class_ = ("fails" if rank == 1 else "differs") if differs else None
        cells = [side and f"class {side[0]}, {share(side[1])}" for side in pair]
        rows.append([str(rank), *[element("td", cell or NONE, class_=class_) for cell in cells]])
    if not rows:
        rows.append(["1", figure(None), figure(None)])
    caption = prose(prediction.image, 80)
    return element("article", element("h3", caption), table(caption, ("", a, b), rows))


def _disagreements(report: ParityReport) -> Element | None:
    """The images whose first classes differ."""
    every = report.disagreements
    if not every:
        return None
    rows: list[list[Cell]] = [
        [
            prose(each.image, 120),
            *[None if number is None else f"class {number}" for number in (each.a, each.b, each.label)],
        ]
        for each in every[:DISAGREEMENTS]
    ]
    shown: Element = table("Disagreements", ("Image", *sides(report), "Label"), rows, "figures")
    if len(rows) > UNFOLDED:
        shown = folded(f"The first {len(rows)}" if len(every) > len(rows) else "All", shown)
    told = element("p", f"{count(len(every), 'image')} for which the two put different classes first.")
    return section("Disagreements", told, shown, _not_shown(len(every) - len(rows)))


def _not_shown(images: int) -> Element | None:
    return element("p", f"{count(images, 'more image')} not shown.") if images > 0 else None


def _training(report: ParityReport) -> Element | None:
    """What training both showed: losses, and the tensors that end furthest apart."""
    trained = report.training
    if trained is None:
        return None
    told = (
        f"{sentence(trained.verdict)} Plain SGD at a rate of {trained.learning_rate:g}; errors are those of the first "
        "gradients and of the tensors after the last step."
    )
    losses: list[list[Cell]] = [
        [str(step), f"{a:.10g}", f"{b:.10g}", figure(abs(a - b))] for step, (a, b) in enumerate(trained.losses, 1)
    ]
    columns = ("Step", *[f"Loss in {side}" for side in sides(report)], "Apart")
    steps = table("Loss of each step", columns, losses, "figures")
    if len(losses) > UNFOLDED:
        steps = folded(f"Losses of all {count(len(losses), 'step')}", steps)
    worst = sorted(trained.tensors, key=lambda tensor: tensor.error, reverse=True)[:WORST_TENSORS]
    rows: list[list[Cell]] = []
    for tensor in worst:
        errors = tensor.gradient_error, tensor.updated_error
        cells = [
            None
            if error is None
            else element("td", figure(error), class_="fails" if error > trained.tolerance else None)
            for error in errors
        ]
        rows.append([code(quoted(tensor.name)), *cells])
    heading = element("h3", f"The {count(len(worst), 'tensor')} furthest apart, of {len(trained.tensors):,}")
    columns = ("Tensor", "First gradient", "Value after training")
    tensors = table("Tensors that end furthest apart", columns, rows, "figures")
    return section("Training", element("p", told), steps, heading, tensors)


def _mapping(report: ParityReport) -> Element | None:
    """Every tensor's name and shape in both files, folded away."""
    every = report.illustrations.mapping
    if not every:
        return None
    rows = [
        (
            code(quoted(each.name)),
            noted(code(quoted(each.a)), shape(each.a_shape)),
            noted(code(quoted(each.b)), shape(each.b_shape)),
        )
        for each in every
    ]
    names = table("Mapping", ("Tensor", "In the first file", "In the second file"), rows, "names")
    return section("Mapping", folded(f"All {count(len(every), 'tensor')} by name and shape", names))
