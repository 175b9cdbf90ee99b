"""The sections about what was compared: the two files as they were run, and their tensors by name."""

from __future__ import annotations

import itertools
from pathlib import PurePath
from xml.etree.ElementTree import Element

from denseport.errors import quoted
from denseport.page.markup import element
from denseport.page.tables import Cell, code, folded, section, table
from denseport.page.wording import count, figure, prose, seconds, shape, size
from denseport.parity.report import FrameworkRun, ParityReport


def files(report: ParityReport) -> Element:
    """The two files side by side, and how each was run."""
    runs = (report.a, report.b)
    rows: list[list[Cell]] = [
        ["File", *[_file(run) for run in runs]],
        ["SHA-256", *[code(prose(run.sha256, 64)) for run in runs]],
        ["Layout", *[quoted(run.layout) for run in runs]],
        ["Framework", *[prose(run.version, 100) for run in runs]],
        ["Model", *["denseport's twin" if run.model == "twin" else prose(run.model, 100) for run in runs]],
        ["Device", *[prose(run.device, 100) for run in runs]],
        ["Computed in", *[report.dtype for _ in runs]],
    ]
    for setting in dict.fromkeys(itertools.chain(*[run.settings for run in runs])):
        rows.append([prose(setting, 60), *[prose(run.settings.get(setting, figure(None)), 100) for run in runs]])
    rows.append(["Time", *[seconds(run.seconds) for run in runs]])
    rows.append(["Peak memory", *[size(run.peak_memory) for run in runs]])
    return section("The two files", table("The two files", ["", "First", "Second"], rows, "sides"))


def mapping(report: ParityReport) -> Element | None:
    """Every tensor's name and shape in both files, folded away, where it is given."""
    every = report.illustrations.mapping
    if not every:
        return None
    rows = [(code(quoted(each.name)), _placed(each.a, each.a_shape), _placed(each.b, each.b_shape)) for each in every]
    names = table("Mapping", ("Tensor", "In the first file", "In the second file"), rows, "names")
    return section("Mapping", folded(f"All {count(len(every), 'tensor')} by name and shape", names))


def _file(run: FrameworkRun) -> Element:
    path = PurePath(run.file)
    folder = str(path.parent)
    return element(
        "span",
        element("strong", prose(path.name, 120)),
        element("small", prose(folder, 200)) if folder not in (".", "") else None,
    )


def _placed(name: str, sides: tuple[int, ...]) -> Element:
    return element("span", code(quoted(name)), element("small", shape(sides)))
