"""The error along the network as SVG: taps on the horizontal axis, relative errors on a logarithmic vertical one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from denseport.errors import quoted
from denseport.page.labels import Anchor, Box, Labels
from denseport.page.markup import add, element
from denseport.page.scale import ErrorScale
from denseport.page.wording import count, figure, limit, sides
from denseport.parity.report import ParityReport, Tap


@dataclass(frozen=True)
class Geometry:
    """How large a plot is, in pixels, and how large what is drawn in it.

    Attributes:
        name: What its elements' ids end with, and the class by which the style sheet shows it or not.
        width: Of the whole.
        height: Of the whole.
        left: Of the margin for the labels of the vertical axis.
        font: The size of texts.
        mark: The radius of a mark.
        ticks: The most decades that are labelled.
        block: What stands before a block's number.
    """

    name: str
    width: float
    height: float
    left: float
    font: float
    mark: float
    ticks: int
    block: str


WIDE = Geometry("wide", width=1040, height=420, left=56, font=12.5, mark=3.4, ticks=9, block="block ")
NARROW = Geometry("narrow", width=360, height=340, left=52, font=11, mark=1.9, ticks=7, block="B")
TOP, BELOW, RIGHT = 30, 48, 10


@dataclass(frozen=True)
class Series:
    """One line of the plot: what it is called, its class in the style sheet, and an error for each tap or None."""

    title: str
    class_: str
    errors: tuple[float | None, ...]


def error_plot(report: ParityReport) -> Element:
    """The plot with its legend and caption, drawn once for wide screens and once for narrow ones."""
    lines = series(report)
    legend = element("ul", class_="legend")
    for line in lines:
        legend.append(element("li", _swatch(line), line.title))
    return element("figure", legend, *[_drawn(report, lines, geometry) for geometry in (WIDE, NARROW)], class_="plot")


def series(report: ParityReport) -> list[Series]:
    """What is drawn: the distances of both frameworks from the float64 reference where known, and between the two."""
    a, b = sides(report)
    lines = [Series(f"between {a} and {b}", "between", tuple(tap.relative_error for tap in report.taps))]
    if any(tap.reference_errors for tap in report.taps):
        pairs = [tap.reference_errors or (None, None) for tap in report.taps]
        lines.append(Series(f"{a} to float64", "first", tuple(pair[0] for pair in pairs)))
        lines.append(Series(f"{b} to float64", "second", tuple(pair[1] for pair in pairs)))
    return lines


def noise(report: ParityReport) -> float | None:
    """What rounding explains: the distances from float64, only the first file's where the two part."""
    known = [error for tap in report.taps for error in (tap.reference_errors or ())[: 1 if report.divergence else 2]]
    known = [error for error in known if math.isfinite(error)]
    if report.divergence and math.isfinite(report.divergence.noise):
        known.append(report.divergence.noise)
    return max(known) if known else None


def _drawn(report: ParityReport, lines: list[Series], geometry: Geometry) -> Element:
    plot = Box(geometry.left, TOP, geometry.width - RIGHT, geometry.height - BELOW)
    level = noise(report)
    errors = [error for line in lines for error in line.errors if error is not None]
    scale = ErrorScale.over([*errors, report.tolerance, *([] if level is None else [level])], plot.top, plot.bottom)
    step = (plot.right - plot.left) / len(report.taps)
    xs = [plot.left + (n + 0.5) * step for n in range(len(report.taps))]
    points = [
        (x, scale.y(error)) for line in lines for x, error in zip(xs, line.errors, strict=True) if error is not None
    ]
    diverged = [n for n, tap in enumerate(report.taps) if report.divergence and tap.name == report.divergence.tap]
    m = geometry.mark
    labels = Labels(
        Box(plot.left, 0, plot.right, geometry.height),
        geometry.font,
        [Box(x - m, y - m, x + m, y + m) for x, y in points]
        + [Box(xs[n], plot.top, xs[n], plot.bottom) for n in diverged],
    )
    svg = _frame(report, geometry)
    if level is not None:
        upper = scale.y(level)
        add(svg, element("rect", class_="noise", **_rectangle(Box(plot.left, upper, plot.right, plot.bottom))))
    add(svg, *_axes(report, plot, scale, geometry))
    add(svg, _line("tolerance", plot.left, scale.y(report.tolerance), plot.right, scale.y(report.tolerance)))
    add(svg, *_boundaries(report.taps, step, plot))
    for n in diverged:
        add(svg, _line("divergence", xs[n], plot.top, xs[n], plot.bottom))
    for line in reversed(lines):
        add(svg, *_plotted(line, report.taps, xs, scale, geometry))
    for n in diverged:
        add(svg, *_divergence(report.taps[n], xs[n], scale, geometry, labels))
    add(svg, *_levels(report, level, plot, scale, labels), *_groups(report.taps, step, plot, labels, geometry.block))
    return svg


def _frame(report: ParityReport, geometry: Geometry) -> Element:
    title, description = f"error-title-{geometry.name}", f"error-description-{geometry.name}"
    return element(
        "svg",
        element("title", "Relative error along the network", id=title),
        element("desc", _description(report), id=description),
        viewBox=f"0 0 {geometry.width} {geometry.height}",
        font_size=geometry.font,
        role="img",
        aria_labelledby=f"{title} {description}",
        class_=geometry.name,
    )


def _description(report: ParityReport) -> str:
    first, last = report.taps[0], report.taps[-1]
    a, b = sides(report)
    told = (
        f"The relative error between {a} and {b} at {count(len(report.taps), 'place')} of the network, on a "
        f"logarithmic scale: {figure(first.relative_error)} at {quoted(first.name)}, {figure(last.relative_error)} at "
        f"{quoted(last.name)}; the tolerance is {limit(report.tolerance)}."
    )
    if report.divergence is None:
        return told
    return f"{told} It jumps above the noise at {quoted(report.divergence.tap)}."


def _axes(report: ParityReport, plot: Box, scale: ErrorScale, geometry: Geometry) -> Iterator[Element]:
    for text, y in scale.ticks(geometry.ticks):
        yield _line("grid", plot.left, y, plot.right, y)
        yield element("text", text, x=plot.left - 8, y=y + geometry.font / 3, text_anchor="end", class_="tick")
    yield element("text", "relative error", x=0, y=geometry.font, class_="axis")
    key = "B block, " if geometry.block == "B" else ""
    places = f"{count(len(report.taps), 'tap')} from input to output; {key}T transition"
    middle = (plot.left + plot.right) / 2
    yield element("text", places, x=middle, y=geometry.height - 4, text_anchor="middle", class_="axis")


def _plotted(
    line: Series, taps: tuple[Tap, ...], xs: list[float], scale: ErrorScale, geometry: Geometry
) -> Iterator[Element]:
    known = [(n, error) for n, error in enumerate(line.errors) if error is not None]
    yield element(
        "polyline",
        points=" ".join(f"{xs[n]:.1f},{scale.y(error):.1f}" for n, error in known),
        class_=f"line {line.class_}",
    )
    for n, error in known:
        told = f"{quoted(taps[n].name)}: {figure(error)}, {line.title}"
        mark = _mark(line.class_, xs[n], scale.y(error), geometry.mark)
        mark.append(element("title", told))
        yield mark


def _mark(class_: str, x: float, y: float, radius: float) -> Element:
    """A disc, a square or a triangle, so that the series can be told apart without colour."""
    if class_ == "between":
        return element("circle", cx=x, cy=y, r=radius, class_="mark between")
    if class_ == "first":
        around = Box(x - 0.8 * radius, y - 0.8 * radius, x + 0.8 * radius, y + 0.8 * radius)
        return element("rect", class_="mark first", **_rectangle(around))
    corners = [(x, y - radius), (x + radius, y + 0.8 * radius), (x - radius, y + 0.8 * radius)]
    return element("polygon", points=" ".join(f"{u:.1f},{v:.1f}" for u, v in corners), class_="mark second")


def _divergence(tap: Tap, x: float, scale: ErrorScale, geometry: Geometry, labels: Labels) -> Iterator[Element]:
    y = scale.y(tap.relative_error)
    yield element("circle", cx=x, cy=y, r=2.4 * geometry.mark, class_="ring")
    away, lowered = 3.5 * geometry.mark + 2, y + geometry.font / 3
    above = TOP - 0.6 * geometry.font
    places: list[tuple[float, float, Anchor]] = [
        (x - away, lowered, "end"),
        (x + away, lowered, "start"),
        (x + away, y + away + geometry.font, "start"),
        (x - away, y + away + geometry.font, "end"),
        (x, y - away - 2, "middle"),
        (x, y + away + geometry.font, "middle"),
        (x, above, "middle"),
    ]
    where = labels.place(f"parts at {quoted(tap.name, 40)}: {figure(tap.relative_error)}", places, "found")
    if where is not None:
        yield where


def _levels(
    report: ParityReport, level: float | None, plot: Box, scale: ErrorScale, labels: Labels
) -> Iterator[Element]:
    """The names of the tolerance's line and of the noise band, in a corner of each."""
    size = labels.size
    named: list[tuple[str, float, str]] = [(f"tolerance {limit(report.tolerance)}", report.tolerance, "limit")]
    if level is not None:
        named.append((f"noise up to {figure(level)}", level, "quiet"))
    for text, error, class_ in named:
        y = scale.y(error)
        heights = (y - 0.45 * size, y + 1.2 * size) if class_ == "limit" else (plot.bottom - 0.6 * size, y + 1.3 * size)
        corners: tuple[tuple[float, Anchor], ...] = ((plot.right - 6, "end"), (plot.left + 6, "start"))
        placed = labels.place(text, [(x, height, anchor) for height in heights for x, anchor in corners], class_)
        if placed is not None:
            yield placed


def _boundaries(taps: tuple[Tap, ...], step: float, plot: Box) -> Iterator[Element]:
    """A line wherever a block begins or ends."""
    for n, (before, after) in enumerate(itertools.pairwise(taps), 1):
        if _group(before) != _group(after):
            x = plot.left + n * step
            yield _line("boundary", x, plot.top, x, plot.bottom + 5)


def _groups(taps: tuple[Tap, ...], step: float, plot: Box, labels: Labels, block: str) -> Iterator[Element]:
    """The names of blocks and of what lies between them, where there is room, those of the largest first."""
    start, groups = 0, []
    for name, members in itertools.groupby(taps, key=_group):
        length = len(list(members))
        groups.append((name, length, plot.left + (start + length / 2) * step))
        start += length
    for name, _, middle in sorted(groups, key=lambda group: -group[1]):
        told = quoted(name, 40).replace("block", block).replace("transition", "T")
        placed = labels.place(told, [(middle, plot.bottom + 1.6 * labels.size, "middle")], "group")
        if placed is not None:
            yield placed


def _group(tap: Tap) -> str:
    return tap.name.partition(".")[0]


def _swatch(line: Series) -> Element:
    return element(
        "svg",
        _line(f"line {line.class_}", 0, 7, 28, 7),
        _mark(line.class_, 14, 7, 3.4),
        viewBox="0 0 28 14",
        aria_hidden="true",
        class_="swatch",
    )


def _line(class_: str, x1: float, y1: float, x2: float, y2: float) -> Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _rectangle(box: Box) -> dict[str, float]:
    return {"x": box.left, "y": box.top, "width": box.right - box.left, "height": box.bottom - box.top}
