"""HTML and SVG as a tree, in which text stays text: whatever a file's names hold, it comes out escaped."""

from __future__ import annotations

from xml.etree.ElementTree import Element, tostring


def element(tag: str, *content: Element | str | None, **attributes: str | float | None) -> Element:
    """An element with its content in order; what is None is left out.

    Args:
        tag: Its name.
        content: Elements and texts.
        attributes: `class_` is written `class`, other underscores as hyphens, numbers to a tenth.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), value if isinstance(value, str) else f"{value:.1f}")
    add(made, *content)
    return made


def add(parent: Element, *content: Element | str | None) -> None:
    """Appends elements and texts to an element, in order; what is None is left out."""
    for part in content:
        if isinstance(part, Element):
            parent.append(part)
        elif part is not None and len(parent):
            parent[-1].tail = (parent[-1].tail or "") + part
        elif part is not None:
            parent.text = (parent.text or "") + part


def text_of(root: Element) -> str:
    """A whole HTML document as text, its type declaration first."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
