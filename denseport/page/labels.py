"""Where texts in a plot go, so that none lies on another and as few as can be on what is plotted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element

from denseport.page.markup import element

Anchor = Literal["start", "middle", "end"]

# Width of a letter and height above and below the baseline, in font sizes: those of the widest of the system fonts.
LETTER, ASCENT, DESCENT = 0.62, 0.95, 0.3


class Box(NamedTuple):
    """A rectangle in a plot's pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two have a point in common."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Labels:
    """The texts of one plot: each new one keeps clear of those that were placed before it."""

    def __init__(self, bounds: Box, size: float, obstacles: Iterable[Box] = ()) -> None:
        self.bounds = bounds
        self.size = size
        self.obstacles = list(obstacles)
        self.placed: list[Box] = []

    def place(self, text: str, places: Sequence[tuple[float, float, Anchor]], class_: str) -> Element | None:
        """The text at the place (x, baseline, anchor) where it covers least; None where all places are taken.

        A text that would leave the plot sideways is moved in.
        """
        free = [
            (sum(box.meets(obstacle) for obstacle in self.obstacles), n, box)
            for n, box in enumerate(self._box(text, *place) for place in places)
            if self.bounds.top <= box.top
            and box.bottom <= self.bounds.bottom
            and not any(box.meets(other) for other in self.placed)
        ]
        if not free:
            return None
        _, n, box = min(free)
        self.placed.append(box)
        _, y, anchor = places[n]
        x = {"start": box.left, "middle": (box.left + box.right) / 2, "end": box.right}[anchor]
        return element("text", text, x=x, y=y, text_anchor=anchor, class_=class_)

    def _box(self, text: str, x: float, y: float, anchor: Anchor) -> Box:
        width = len(text) * LETTER * self.size
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
        left = max(self.bounds.left, min(left, self.bounds.right - width))
        return Box(left, y - ASCENT * self.size, left + width, y + DESCENT * self.size)
