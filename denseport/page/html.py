"""What all of the page is made of: HTML and SVG in which text stays text, tables, and figures and names in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, tostring

from denseport.errors import printable
from denseport.parity.report import FrameworkRun, ParityReport

Cell = Element | str | None

NONE = "–"  # noqa: RUF001 - a dash that is as wide as a figure
TITLES = {"torch": "PyTorch", "keras": "Keras"}


def element(tag: str, *content: Element | str | None, **attributes: str | float | None) -> Element:
    """An element with its content in order; what is None is left out.

    Args:
        tag: Its name.
        content: Elements and texts, which come out escaped whatever a file's names hold.
        attributes: `class_` is written `class`, other underscores as hyphens, numbers to a tenth.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), value if isinstance(value, str) else f"{value:.1f}")
    for part in content:
        if isinstance(part, Element):
            made.append(part)
        elif part is not None and len(made):
            made[-1].tail = (made[-1].tail or "") + part
        elif part is not None:
            made.text = (made.text or "") + part
    return made


def document(root: Element) -> str:
    """A whole HTML document as text, its type declaration first."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def section(heading: str, *content: Element | None, class_: str | None = None) -> Element:
    """A section under its heading."""
    return element("section", element("h2", heading), *content, class_=class_)


def table(title: str, columns: Sequence[Cell], rows: Iterable[Sequence[Cell]], class_: str | None = None) -> Element:
    """A table whose first column names each row, in a box of its own that scrolls where the screen is narrow.

    `title` is what assistive technology calls it. A cell that is a `td` is taken as it is; None is a dash.
    """
    head = element("thead", element("tr", *[element("th", column, scope="col") for column in columns]))
    body = element("tbody")
    for name, *cells in rows:
        made = [
            cell if isinstance(cell, Element) and cell.tag == "td" else element("td", NONE if cell is None else cell)
            for cell in cells
        ]
        body.append(element("tr", element("th", name, scope="row"), *made))
    return scrolling(title, element("table", head, body, class_=class_))


def scrolling(title: str, content: Element) -> Element:
    """Content in a box that scrolls sideways where the screen is narrower."""
    return element("div", content, class_="scroll", role="region", tabindex="0", aria_label=title)


def folded(summary: str, *content: Element | None) -> Element:
    """Content that is shown when its summary is opened."""
    return element("details", element("summary", summary), *content)


def code(text: str) -> Element:
    """A name or number as a file or program has it."""
    return element("code", text)


def noted(label: Element | str, *notes: str) -> Element:
    """A label, and what belongs to it in small letters below."""
    return element("span", label, *[element("small", note) for note in notes])


def share(part: float) -> str:
    """A share in percent; 100 % stands for all alone and 0 % for none, never for nearly all or few."""
    if 0 < part < 1:
        part = min(max(part, 0.0001), 0.9999)
    return f"{100 * part:.2f}\N{NO-BREAK SPACE}%".replace(".00", "")


def shape(sides: tuple[int, ...]) -> str:
    """An array's shape."""
    return " × ".join(map(str, sides)) or "scalar"  # noqa: RUF001 - the sign of multiplication is meant


def count(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def prose(text: str, width: int = 600) -> str:
    """A sentence or path, harmless and cut in the middle, since both ends of a path tell something."""
    if len(text) > width:
        text = f"{text[: width // 2]} … {text[-width // 2 :]}"
    return printable(text)


def sentence(text: str) -> str:
    """A finding as a sentence: it starts with a capital letter unless it starts with a tensor's name."""
    start = text.partition(" ")[0]
    return prose(text if "." in start else text[:1].upper() + text[1:]) + "."


def sides(report: ParityReport) -> tuple[str, str]:
    """What the two runs are called: by their frameworks, or by their order where the framework is the same."""
    if report.a.framework == report.b.framework:
        return "First file", "Second file"
    return _title(report.a), _title(report.b)


def _title(run: FrameworkRun) -> str:
    return TITLES.get(run.framework, prose(run.framework, 40))
