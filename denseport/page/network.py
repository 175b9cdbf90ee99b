"""The sections about the inside of the network: where the two part, the error along it, and distributions."""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

from denseport.errors import quoted
from denseport.page.error_plot import error_plot, noise
from denseport.page.histograms import histogram_plots
from denseport.page.markup import element
from denseport.page.tables import Cell, code, folded, section, table
from denseport.page.wording import count, figure, prose, sentence, sides
from denseport.parity.report import FeedingTensor, ParityReport


def divergence(report: ParityReport) -> Element | None:
    """Where the two nets part, and what feeds that place."""
    parts = report.divergence
    if parts is None:
        return None
    times = parts.relative_error / parts.noise if parts.noise else math.inf
    jump = f", about {float(f'{times:.1e}'):,.0f} times as much" if 2 < times < 1e9 else ""
    told = element(
        "p",
        "Before it the two agree within ",
        code(figure(parts.noise)),
        "; at ",
        code(quoted(parts.tap)),
        " they are ",
        code(figure(parts.relative_error)),
        f" apart{jump}.",
    )
    rows: list[list[Cell]] = [_feeding(tensor) for tensor in parts.tensors]
    feeding = (
        table("Tensors that feed the place", ("Tensor, by its names", "Largest difference", "Finding"), rows)
        if rows
        else None
    )
    heading = section("Where they part", element("p", sentence(parts.explanation), class_="explanation"), told, feeding)
    heading.set("class", "failure")
    return heading


def along_the_net(report: ParityReport) -> Element:
    """The plot of errors along the network, and its figures folded away."""
    heading = "Error along the network"
    if not report.taps:
        told = "A library ran its own model, into which there is no look: only the outputs were compared."
        return section(heading, element("p", told))
    a, b = sides(report)
    reference = any(tap.reference_errors for tap in report.taps)
    told = "Each mark is the largest difference at one place, relative to the largest value there."
    if noise(report) is not None:
        told += " What stays within the grey band is rounding."
    columns = ["Tap", "Relative error", *([f"{a} to float64", f"{b} to float64"] if reference else [])]
    rows = []
    for tap in report.taps:
        cells: list[Cell] = [code(quoted(tap.name)), figure(tap.relative_error)]
        rows.append([*cells, *(map(figure, tap.reference_errors or (None, None)) if reference else ())])
    figures = table("Relative error at each tap", columns, rows, "figures")
    shown = folded(f"The figures of {count(len(rows), 'tap')}", figures)
    return section(heading, element("p", told), error_plot(report), shown)


def histograms(report: ParityReport) -> Element | None:
    """Distributions at the worst places, where there are any."""
    plots = report.illustrations.histograms
    if not plots:
        return None
    told = "Values at the places with the largest errors. Where both agree, the outline follows the area."
    return section("Distributions", element("p", told), histogram_plots(plots, *sides(report)))


def _feeding(tensor: FeedingTensor) -> list[Cell]:
    equal = tensor.finding == "equal"
    names = [element("small", quoted(name)) for name in (tensor.a, tensor.b)]
    named = element("span", code(quoted(tensor.name)), *names)
    largest = "NaN or Inf" if tensor.largest is None else figure(tensor.largest)
    return [
        named,
        element("td", largest, class_="equal" if equal else "different"),
        element("td", prose(tensor.finding, 300), class_="equal" if equal else "different"),
    ]
