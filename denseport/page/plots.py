"""The plots, as SVG: the error along the network, and how values are spread."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from denseport.errors import figure, limit, quoted
from denseport.page.html import count, element, prose, scrolling, sides
from denseport.parity.report import Histogram, ParityReport, Tap

# The plot of errors in pixels, and its margins; EDGE is the room for zero and for NaN beside the logarithmic part.
WIDTH, HEIGHT = 1040.0, 420.0
LEFT, TOP, RIGHT, BOTTOM = 72.0, 32.0, 1034.0, 368.0
EDGE, DECADES = 20.0, 9
FONT, LETTER, MARK = 15.0, 0.62, 3.4
# The plot of a distribution, and the height of its base line.
SMALL_WIDTH, SMALL_HEIGHT, BASE = 320.0, 150.0, 128.0


class Series(NamedTuple):
    """One line of the plot: what it is called, its class in the style sheet, and an error for each tap or None."""

    title: str
    class_: str
    errors: Sequence[float | None]


class ErrorScale:
    """Errors from the bottom up on a logarithmic scale, with a place for zero below it and for NaN and Inf above."""

    def __init__(self, errors: Iterable[float]) -> None:
        every = list(errors)
        logarithms = [math.log10(error) for error in every if error > 0 and math.isfinite(error)] or [0.0]
        self.lowest = math.floor(min(logarithms))
        self.highest = max(math.ceil(max(logarithms)), self.lowest + 1)
        self.has_zero, self.has_nan = 0 in every, not all(map(math.isfinite, every))

    def y(self, error: float) -> float:
        """How far below the upper edge an error lies."""
        if not math.isfinite(error):
            return TOP
        return self._height(math.log10(error)) if error > 0 else BOTTOM

    def ticks(self) -> list[tuple[str, float]]:
        """Labels and places of whole decades, of zero and of NaN."""
        step = math.ceil((self.highest - self.lowest + 1) / DECADES)
        decades = range(self.highest, self.lowest - 1, -step)
        return [
            *[("NaN", TOP)] * self.has_nan,
            *[(f"1e{decade:+03d}", self._height(decade)) for decade in decades],
            *[("0", BOTTOM)] * self.has_zero,
        ]

    def _height(self, logarithm: float) -> float:
        upper, lower = TOP + EDGE * self.has_nan, BOTTOM - EDGE * self.has_zero
        return lower - (logarithm - self.lowest) / (self.highest - self.lowest) * (lower - upper)


def error_plot(report: ParityReport) -> Element:
    """The errors at all taps under a legend, which also says the tolerance, the noise and where the two part."""
    lines, level = _series(report), noise(report)
    errors = [error for line in lines for error in line.errors if error is not None]
    scale = ErrorScale([*errors, report.tolerance, *([] if level is None else [level])])
    step = (RIGHT - LEFT) / len(report.taps)
    xs = [LEFT + (n + 0.5) * step for n in range(len(report.taps))]
    keys = [_key(line.title, _line(f"line {line.class_}", 0, 7, 28, 7), _mark(line.class_, 14, 7)) for line in lines]
    keys.append(_key(f"tolerance {limit(report.tolerance)}", _line("tolerance", 0, 7, 28, 7)))
    band, marked = [], [_line("tolerance", LEFT, scale.y(report.tolerance), RIGHT, scale.y(report.tolerance))]
    if level is not None:
        keys.append(_key(f"noise up to {figure(level)}", _rectangle("noise", 0, 1, 28, 13)))
        band.append(_rectangle("noise", LEFT, scale.y(level), RIGHT, BOTTOM))
    for x, tap in zip(xs, report.taps, strict=True):
        if report.divergence and tap.name == report.divergence.tap:
            told = f"they part at {quoted(tap.name, 40)}: {figure(tap.relative_error)}"
            keys.append(_key(told, element("circle", cx=14, cy=7, r=5, class_="ring"), class_="found"))
            marked.append(_line("divergence", x, TOP, x, BOTTOM))
            marked.append(element("circle", cx=x, cy=scale.y(tap.relative_error), r=2.4 * MARK, class_="ring"))
    svg = element(
        "svg",
        element("title", "Relative error along the network", id="error-title"),
        element("desc", _description(report), id="error-description"),
        *band,
        *_axes(report, scale),
        *_groups(report.taps, step),
        *marked,
        *[drawn for line in reversed(lines) for drawn in _plotted(line, report.taps, xs, scale)],
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        font_size=FONT,
        role="img",
        aria_labelledby="error-title error-description",
    )
    plot = scrolling("Plot of the error along the network", svg)
    return element("figure", element("ul", *keys, class_="legend"), plot, class_="plot")


def noise(report: ParityReport) -> float | None:
    """What rounding explains: the distances from float64, only the first file's where the two part."""
    known = [error for tap in report.taps for error in (tap.reference_errors or ())[: 1 if report.divergence else 2]]
    if report.divergence:
        known.append(report.divergence.noise)
    return max(filter(math.isfinite, known), default=None)


def _series(report: ParityReport) -> list[Series]:
    """The distances between both frameworks, and of each from the float64 reference where known."""
    a, b = sides(report)
    lines = [Series(f"between {a} and {b}", "between", [tap.relative_error for tap in report.taps])]
    if any(tap.reference_errors for tap in report.taps):
        pairs = [tap.reference_errors or (None, None) for tap in report.taps]
        lines.append(Series(f"{a} to float64", "first", [pair[0] for pair in pairs]))
        lines.append(Series(f"{b} to float64", "second", [pair[1] for pair in pairs]))
    return lines


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


def _axes(report: ParityReport, scale: ErrorScale) -> Iterator[Element]:
    for text, y in scale.ticks():
        yield _line("grid", LEFT, y, RIGHT, y)
        yield element("text", text, x=LEFT - 8, y=y + FONT / 3, text_anchor="end", class_="tick")
    yield element("text", "relative error", x=0, y=FONT)
    places = f"{count(len(report.taps), 'tap')} from input to output"
    yield element("text", places, x=LEFT, y=HEIGHT - 4)


def _groups(taps: Sequence[Tap], step: float) -> Iterator[Element]:
    """A line wherever a block begins or ends, and the names of blocks that are wide enough for them."""
    left = LEFT
    for name, members in itertools.groupby(taps, key=lambda tap: tap.name.partition(".")[0]):
        width, told = step * len(list(members)), quoted(name, 40)
        if left > LEFT:
            yield _line("grid", left, TOP, left, BOTTOM + 5)
        if len(told) * LETTER * FONT <= width:
            yield element("text", told, x=left + width / 2, y=BOTTOM + 1.5 * FONT, text_anchor="middle")
        left += width


def _plotted(line: Series, taps: Sequence[Tap], xs: Sequence[float], scale: ErrorScale) -> Iterator[Element]:
    """A line and its marks, each of which says its place and error where a pointer rests on it."""
    known = [
        (tap, x, scale.y(error), error)
        for tap, x, error in zip(taps, xs, line.errors, strict=True)
        if error is not None
    ]
    yield element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for _, x, y, _ in known), class_=f"line {line.class_}")
    for tap, x, y, error in known:
        mark = _mark(line.class_, x, y)
        mark.append(element("title", f"{quoted(tap.name)}: {figure(error)}, {line.title}"))
        yield mark


def _mark(class_: str, x: float, y: float) -> Element:
    """A disc, a square or a triangle, so that the series can be told apart without colour."""
    if class_ == "between":
        return element("circle", cx=x, cy=y, r=MARK, class_="mark between")
    r = 0.8 * MARK
    if class_ == "first":
        return _rectangle("mark first", x - r, y - r, x + r, y + r)
    corners = [(x, y - MARK), (x + MARK, y + r), (x - MARK, y + r)]
    return element("polygon", points=" ".join(f"{u:.1f},{v:.1f}" for u, v in corners), class_="mark second")


def _key(text: str, *shapes: Element, class_: str | None = None) -> Element:
    """An entry of a legend."""
    swatch = element("svg", *shapes, viewBox="0 0 28 14", aria_hidden="true", class_="swatch")
    return element("li", swatch, text, class_=class_)


def _line(class_: str, x1: float, y1: float, x2: float, y2: float) -> Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _rectangle(class_: str, left: float, top: float, right: float, bottom: float) -> Element:
    return element("rect", x=left, y=top, width=right - left, height=bottom - top, class_=class_)


def histogram_plots(histograms: Sequence[Histogram], a: str, b: str) -> Element:
    """Small plots side by side under one legend: the values of `a` as areas, those of `b` as outlines over them."""
    keys = _key(a, _rectangle("area", 0, 1, 28, 13)), _key(b, _line("outline", 0, 7, 28, 7))
    plots = element("div", *[_histogram(each, a, b) for each in histograms], class_="histograms")
    return element("div", element("ul", *keys, class_="legend"), plots)


def _histogram(histogram: Histogram, a: str, b: str) -> Element:
    title, (first, *_, last) = prose(histogram.title, 100), histogram.edges
    highest = max(*histogram.a, *histogram.b) or 1
    xs = [SMALL_WIDTH * (edge - first) / (last - first) for edge in histogram.edges]
    outlines = [
        "".join(f"V{BASE - (BASE - 8) * n / highest:.1f}H{x:.1f}" for n, x in zip(counts, xs[1:], strict=True))
        for counts in (histogram.a, histogram.b)
    ]
    ticks = [(0.0, "start", first), (SMALL_WIDTH, "end", last)]
    zero = SMALL_WIDTH * -first / (last - first)
    if 0.25 < zero / SMALL_WIDTH < 0.75:
        ticks.append((zero, "middle", 0.0))
    told = (
        f"{a}: {count(sum(histogram.a), 'value')}; {b}: {count(sum(histogram.b), 'value')}; "
        f"between {first:.3g} and {last:.3g}."
    )
    svg = element(
        "svg",
        element("title", title),
        element("desc", told),
        element("path", d=f"M0,{BASE}{outlines[0]}V{BASE}Z", class_="area"),
        element("path", d=f"M0,{BASE}{outlines[1]}V{BASE}", class_="outline"),
        _line("grid", 0, BASE, SMALL_WIDTH, BASE),
        *[element("text", f"{value:.3g}", x=x, y=SMALL_HEIGHT - 5, text_anchor=anchor) for x, anchor, value in ticks],
        viewBox=f"0 0 {SMALL_WIDTH} {SMALL_HEIGHT}",
        font_size=11,
        role="img",
    )
    return element("figure", element("figcaption", title), svg)
