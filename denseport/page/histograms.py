"""Distributions as SVG: both frameworks' values over the same intervals, one as an area, the other as an outline."""

from __future__ import annotations

import itertools
import math
from xml.etree.ElementTree import Element

from denseport.page.markup import element
from denseport.page.wording import count, prose
from denseport.parity.report import Histogram

WIDTH, HEIGHT, BASE = 320.0, 150.0, 128.0


def histogram_plots(histograms: tuple[Histogram, ...], a: str, b: str) -> Element:
    """Small plots side by side, one for each histogram, under one legend; `a` and `b` say whose values they are."""
    area, outline = (
        element("svg", element(tag, class_=class_, **where), viewBox="0 0 28 14", aria_hidden="true", class_="swatch")
        for tag, class_, where in (
            ("rect", "area", {"x": 0.0, "y": 1.0, "width": 28.0, "height": 12.0}),
            ("line", "outline", {"x1": 0.0, "y1": 7.0, "x2": 28.0, "y2": 7.0}),
        )
    )
    legend = element("ul", element("li", area, a), element("li", outline, b), class_="legend")
    return element("div", legend, element("div", *[_plot(each, a, b) for each in histograms], class_="histograms"))


def _plot(histogram: Histogram, a: str, b: str) -> Element:
    caption = element("figcaption", prose(histogram.title, 100))
    edges = histogram.edges
    if len(edges) < 2 or not all(map(math.isfinite, edges)) or edges[-1] <= edges[0]:
        return element("figure", caption, element("p", "No finite values.", class_="quiet"))
    densities = [_densities(counts, edges) for counts in (histogram.a, histogram.b)]
    highest = max(itertools.chain(*densities), default=0) or 1.0
    tops = [[BASE - (BASE - 8) * density / highest for density in each] for each in densities]
    xs = [WIDTH * (edge - edges[0]) / (edges[-1] - edges[0]) for edge in edges]
    told = (
        f"{a}: {count(sum(histogram.a), 'value')}; {b}: {count(sum(histogram.b), 'value')}; "
        f"between {edges[0]:.3g} and {edges[-1]:.3g}."
    )
    ticks = [(0.0, "start", edges[0]), (WIDTH, "end", edges[-1])]
    zero = WIDTH * -edges[0] / (edges[-1] - edges[0])
    if 0.25 * WIDTH < zero < 0.75 * WIDTH:
        ticks.append((zero, "middle", 0.0))
    svg = element(
        "svg",
        element("title", prose(histogram.title, 100)),
        element("desc", told),
        element("path", d=f"M0,{BASE}{_steps(xs, tops[0])}V{BASE}Z", class_="area"),
        element("path", d=f"M0,{BASE}{_steps(xs, tops[1])}V{BASE}", class_="outline"),
        element("line", x1=0, y1=BASE, x2=WIDTH, y2=BASE, class_="base"),
        *[element("text", f"{value:.3g}", x=x, y=HEIGHT - 5, text_anchor=anchor) for x, anchor, value in ticks],
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        font_size=11,
        role="img",
    )
    return element("figure", caption, svg)


def _densities(counts: tuple[int, ...], edges: tuple[float, ...]) -> list[float]:
    """Values in each interval by its width, so that intervals of different widths compare."""
    widths = [right - left for left, right in itertools.pairwise(edges)]
    return [number / width if width > 0 else 0.0 for number, width in zip(counts, widths, strict=True)]


def _steps(xs: list[float], tops: list[float]) -> str:
    return "".join(f"V{top:.1f}H{right:.1f}" for top, right in zip(tops, xs[1:], strict=True))
