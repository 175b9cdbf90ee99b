"""How figures and names are put into words, alike everywhere in a document."""

from __future__ import annotations

import math

from denseport.errors import printable
from denseport.parity.report import FrameworkRun, ParityReport

TITLES = {"torch": "PyTorch", "keras": "Keras"}


def figure(error: float | None) -> str:
    """An error as the command line prints it."""
    if error is None:
        return "–"  # noqa: RUF001 - a dash that is as wide as a figure
    if not math.isfinite(error):
        return "NaN or Inf"
    return f"{error:.1e}" if error else "0"


def limit(tolerance: float) -> str:
    """A tolerance, which is a round figure as a rule."""
    return figure(tolerance).replace(".0e", "e")


def of_the_largest(error: float) -> str:
    """An error relative to the largest output, for readers who do not count in powers of ten."""
    if error < 1e-3:
        return f"{figure(error)} of the largest output"
    if error < 1:
        return f"{100 * error:.2g} % of the largest output"
    return f"{figure(error) if error >= 1000 else f'{error:.2g}'} times the largest output"


def share(part: float) -> str:
    """A share in percent; 100 % stands for all alone and 0 % for none, never for nearly all or few."""
    if 0 < part < 1:
        part = min(max(part, 0.0001), 0.9999)
    return f"{100 * part:.2f}\N{NO-BREAK SPACE}%".replace(".00", "")


def size(amount: int) -> str:
    """Bytes in decimal units."""
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def seconds(duration: float) -> str:
    """A duration."""
    return f"{duration:.1f} s"


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
    return title(report.a), title(report.b)


def title(run: FrameworkRun) -> str:
    """A framework's name as its makers write it."""
    return TITLES.get(run.framework, prose(run.framework, 40))
