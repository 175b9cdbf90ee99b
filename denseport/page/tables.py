"""Parts that all sections are made of; a table that is too wide scrolls in a box of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

from denseport.page.markup import element

Cell = Element | str | None


def section(heading: str, *content: Element | None) -> Element:
    """A section under its heading."""
    return element("section", element("h2", heading), *content)


def table(title: str, columns: Sequence[Cell], rows: Iterable[Sequence[Cell]], class_: str = "") -> Element:
    """A table whose first column names each row; `title` is what assistive technology calls it.

    A cell that is a `td` or `th` already is taken as it is.
    """
    head = element("thead", element("tr", *[element("th", column, scope="col") for column in columns]))
    body = element("tbody")
    for name, *cells in rows:
        body.append(element("tr", element("th", name, scope="row"), *map(_cell, cells)))
    whole = element("table", head, body, class_=class_ or None)
    return element("div", whole, class_="scroll", role="region", tabindex="0", aria_label=title)


def folded(summary: str, *content: Element | None) -> Element:
    """Content that is shown when its summary is opened."""
    return element("details", element("summary", summary), *content)


def code(text: str) -> Element:
    """A name or number as a file or program has it."""
    return element("code", text)


def labelled(label: str, explanation: str) -> Element:
    """A row's label, and what it means below it."""
    return element("span", label, element("small", explanation))


def _cell(cell: Cell) -> Element:
    return cell if isinstance(cell, Element) and cell.tag in ("td", "th") else element("td", cell)
