"""A parity check as one self-contained HTML file: the verdict first, then what it rests on, and how to repeat it."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePath
from xml.etree.ElementTree import Element

from denseport.errors import figure, limit
from denseport.page.html import code, count, document, element, prose, sentence, share, sides
from denseport.page.sections import sections
from denseport.parity.report import ParityReport
from denseport.running.libraries import LIBRARIES
from denseport.running.request import TWIN


def page(report: ParityReport) -> str:
    """The report as one HTML document, to be encoded as UTF-8.

    It loads nothing and runs nothing: its policy forbids everything but its own style sheet. Every string that comes
    from a file is escaped and cut.
    """
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{_headline(report)} - denseport"),
        element("style", style),
    )
    body = element("body", _header(report), element("main", *sections(report)), _footer(report))
    return document(element("html", head, body, lang="en"))


def _header(report: ParityReport) -> Element:
    sign = element(
        "svg",
        element("circle", cx=12, cy=12, r=12),
        element("path", d="M6.5 12.5l3.8 3.8 7.2-8" if report.passed else "M7.5 7.5l9 9m0-9l-9 9"),
        viewBox="0 0 24 24",
        aria_hidden="true",
        class_="sign",
    )
    images = sum(each.input_shape[0] for each in report.comparisons)
    agreed = sum(each.top1_agreement * each.input_shape[0] for each in report.comparisons) / images
    facts = [
        ("Relative error", figure(report.relative_error)),
        ("Tolerance", limit(report.tolerance)),
        ("Same class first", share(agreed)),
        ("Images", f"{images:,}"),
    ]
    names = [element("strong", prose(PurePath(run.file).name, 80)) for run in (report.a, report.b)]
    a, b = sides(report)
    return element(
        "header",
        element("p", "Parity of ", names[0], f" in {a} and ", names[1], f" in {b}", class_="subject"),
        element("h1", sign, element("span", _headline(report))),
        element("p", f"On {count(images, 'image')}, {_outcome(report)}.", class_="lead"),
        *[element("p", told) for told in _remarks(report)],
        element("dl", *[element("div", element("dt", name), element("dd", value)) for name, value in facts]),
        class_="passed" if report.passed else "failed",
    )


def _headline(report: ParityReport) -> str:
    """The verdict in one line."""
    if report.passed:
        read = ", as denseport reads them," if report.a.model == report.b.model == TWIN else ""
        return f"Both files{read} compute the same" + (", and train alike" if report.training else "")
    if report.cause == "training":
        return "These files compute the same, but do not train alike"
    return "These files do not compute the same"


def _outcome(report: ParityReport) -> str:
    """What the verdict means, for readers who have not run the check."""
    if report.reason:
        return prose(report.reason)
    if report.relative_error == 0:
        return "outputs are equal to the last digit"
    digits = max(1, math.floor(-math.log10(report.relative_error)))
    return (
        f"outputs agree to {count(digits, 'digit')}: they are at most {figure(report.relative_error)} of the largest "
        f"output apart, where up to {limit(report.tolerance)} passes"
    )


def _remarks(report: ParityReport) -> Iterator[str]:
    """What a reader must know before trusting outputs that agree."""
    if not report.outputs_agree:
        return
    if report.a.model == report.b.model == TWIN:
        yield "Both nets are denseport's twins: what it has misread in a file, or assumes of it, both would share."
    else:
        yield f"Compared: {report.scope}."
    worst = max(report.comparisons, key=lambda each: max(each.rounding_error or 0, each.trait_error or 0))
    yield from map(sentence, worst.effects)
    references = [each.reference_errors for each in report.comparisons if each.reference_errors]
    if report.dtype == "float64":
        yield "Both computed in float64, where a mistake in the mapping would stand out by orders of magnitude."
    elif references and max(map(max, references)) <= report.tolerance:
        first, second = (figure(max(pair[n] for pair in references)) for n in (0, 1))
        yield (
            f"Each is as close to the first file computed in float64 ({first} and {second}): what is left between the "
            "two is rounding."
        )


def _footer(report: ParityReport) -> Element:
    arguments = ["--exact"] if report.dtype == "float64" else []
    if report.training is not None:
        arguments += ["--train-steps", str(report.training.steps)]
    for run in (report.a, report.b):
        if (library := run.model.partition(" ")[0]) in LIBRARIES:
            arguments += ["--against", library]
    command = shlex.join(["denseport", "verify", *arguments, report.a.file, report.b.file])
    return element(
        "footer",
        element("p", "To repeat this check, with the images and further options that it was given:"),
        element("pre", code(prose(command, 4000)), tabindex="0"),
        element("p", f"Made by denseport {version('denseport')} in {report.seconds:.1f} s."),
    )
