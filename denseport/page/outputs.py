"""The sections about the outputs: figures for each array of images, largest outputs, and disagreements."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from xml.etree.ElementTree import Element

from denseport.page.markup import element
from denseport.page.tables import Cell, folded, labelled, section, table
from denseport.page.wording import count, figure, prose, shape, share, sides
from denseport.parity.report import Comparison, ParityReport, Prediction

DISAGREEMENTS = 50
UNFOLDED = 10
PREDICTIONS = 12


def comparisons(report: ParityReport) -> Element:
    """The outputs for each array of images, one a column."""
    a, b = sides(report)
    every = report.comparisons

    def row(label: str, explanation: str, cells: Iterable[str]) -> list[Cell]:
        return [labelled(label, explanation), *cells]

    rows: list[list[Cell]] = [
        row("Images", "number × sides × channels", [shape(each.input_shape) for each in every]),  # noqa: RUF001
        [
            labelled("Relative error", "max |a − b| / max |a|"),  # noqa: RUF001 - the minus sign is meant
            *[_judged(each, report.tolerance) for each in every],
        ],
        row("Absolute error", "max |a − b|", [figure(each.absolute_error) for each in every]),  # noqa: RUF001
        row("Same class first", "share of the images", [share(each.top1_agreement) for each in every]),
    ]
    for n, side in enumerate((a, b)):
        if any(each.accuracy for each in every):
            shares = [share(each.accuracy[n]) if each.accuracy else figure(None) for each in every]
            rows.append(row(f"Accuracy in {side}", "share of the labels met", shares))
    for n, side in enumerate((a, b)):
        if any(each.reference_errors for each in every):
            errors = [figure(each.reference_errors[n] if each.reference_errors else None) for each in every]
            rows.append(row(f"{side} to float64", "distance from the first file computed in float64", errors))
    if any(each.rounding_error is not None for each in every):
        explained = "what the narrower type of the second file's weights does in float64"
        rows.append(row("Rounding of the weights", explained, [figure(each.rounding_error) for each in every]))
        explained = "distance of the second file from the first as it is, in float64"
        rows.append(row("Rounding and all", explained, [figure(each.source_error) for each in every]))
    if any(each.trait_error is not None for each in every):
        explained = "error with the second file under its own layout's epsilon, padding and so on"
        rows.append(row("Under its own traits", explained, [figure(each.trait_error) for each in every]))
    columns = ["", *[prose(each.name, 60) for each in every]]
    return section("Outputs compared", table("Outputs compared", columns, rows, "measures"))


def predictions(report: ParityReport) -> Element | None:
    """The largest outputs of some images in both frameworks, where there are any."""
    every = report.illustrations.predictions
    if not every:
        return None
    a, b = sides(report)
    cards = element("div", *[_prediction(each, a, b) for each in every[:PREDICTIONS]], class_="cards")
    more = len(every) - PREDICTIONS
    rest = element("p", f"{count(more, 'more image')} not shown.", class_="quiet") if more > 0 else None
    told = "Classes by number, with their share of a softmax."
    return section("Largest outputs", element("p", told), cards, rest)


def disagreements(report: ParityReport) -> Element | None:
    """The images whose first classes differ, where there are any."""
    every = report.disagreements
    if not every:
        return None
    labels = any(each.label is not None for each in every)
    columns = ["Image", *sides(report), *(["Label"] if labels else [])]
    rows = []
    for each in every[:DISAGREEMENTS]:
        cells: list[Cell] = [prose(each.image, 120), f"class {each.a}", f"class {each.b}"]
        rows.append([*cells, *([figure(None) if each.label is None else f"class {each.label}"] if labels else [])])
    more = len(every) - DISAGREEMENTS
    rest = element("p", f"{count(more, 'more image')} not shown.", class_="quiet") if more > 0 else None
    told = element("p", f"{count(len(every), 'image')} for which the two put different classes first.")
    shown = table("Disagreements", columns, rows, "figures")
    if len(rows) <= UNFOLDED:
        return section("Disagreements", told, shown)
    return section("Disagreements", told, folded(f"The first {len(rows)}" if rest is not None else "All", shown, rest))


def _judged(comparison: Comparison, tolerance: float) -> Element:
    passes = comparison.passes(tolerance)
    return element(
        "td",
        element("strong", figure(comparison.relative_error)),
        element("small", "passes" if passes else "fails"),
        class_="passes" if passes else "fails",
    )


def _prediction(prediction: Prediction, a: str, b: str) -> Element:
    rows: list[list[Cell]] = []
    for rank, pair in enumerate(itertools.zip_longest(prediction.a, prediction.b), 1):
        cells = [figure(None) if side is None else f"class {side[0]}, {share(side[1])}" for side in pair]
        same = pair[0] is not None and pair[1] is not None and pair[0][0] == pair[1][0]
        class_ = None if same else "fails" if rank == 1 else "differs"
        rows.append([str(rank), *[element("td", cell, class_=class_) for cell in cells]])
    if not rows:
        rows.append(["1", "NaN or Inf", "NaN or Inf"])
    caption = prose(prediction.image, 80)
    return element("article", element("h3", caption), table(caption, ("", a, b), rows, "ranks"))
