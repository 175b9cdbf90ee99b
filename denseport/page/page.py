"""The page: the verdict first, then what it rests on, and how to repeat it."""

from __future__ import annotations

import base64
import hashlib
import shlex
from importlib.metadata import version
from pathlib import Path, PurePath
from xml.etree.ElementTree import Element

from denseport.page import inputs, network, outputs, verdict
from denseport.page.markup import element, text_of
from denseport.page.tables import code
from denseport.page.training import training
from denseport.page.wording import figure, limit, prose, seconds, share, sides
from denseport.parity.report import ParityReport


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
        element("title", f"{verdict.headline(report)} - denseport"),
        element("style", style),
    )
    body = element(
        "body",
        _header(report),
        element(
            "main",
            *filter(
                lambda part: part is not None,
                (
                    network.divergence(report),
                    network.along_the_net(report),
                    outputs.comparisons(report),
                    inputs.files(report),
                    network.histograms(report),
                    outputs.predictions(report),
                    outputs.disagreements(report),
                    training(report),
                    inputs.mapping(report),
                ),
            ),
        ),
        _footer(report),
    )
    return text_of(element("html", head, body, lang="en"))


def _header(report: ParityReport) -> Element:
    sign = element(
        "svg",
        element("circle", cx=12, cy=12, r=12),
        element("path", d="M6.5 12.5l3.8 3.8 7.2-8" if report.passed else "M7.5 7.5l9 9m0-9l-9 9"),
        viewBox="0 0 24 24",
        aria_hidden="true",
        class_="sign",
    )
    told = list(verdict.sentences(report))
    facts = [
        ("Relative error", figure(report.relative_error)),
        ("Tolerance", limit(report.tolerance)),
        ("Same class first", share(verdict.agreement(report))),
        ("Images", f"{verdict.images(report):,}"),
    ]
    names = [element("strong", prose(PurePath(run.file).name, 80)) for run in (report.a, report.b)]
    a, b = sides(report)
    return element(
        "header",
        element("p", "Parity of ", names[0], f" in {a} and ", names[1], f" in {b}", class_="subject"),
        element("h1", sign, element("span", verdict.headline(report))),
        element("p", told[0], class_="lead"),
        *[element("p", sentence) for sentence in told[1:]],
        element("dl", *[element("div", element("dt", name), element("dd", value)) for name, value in facts]),
        class_="passed" if report.passed else "failed",
    )


def _footer(report: ParityReport) -> Element:
    arguments = ["--exact"] if report.dtype == "float64" else []
    if report.training is not None:
        arguments += ["--train-steps", str(report.training.steps)]
    for run in (report.a, report.b):
        if run.model != "twin":
            arguments += ["--against", run.model.partition(" ")[0]]
    command = shlex.join(["denseport", "verify", *arguments, report.a.file, report.b.file])
    return element(
        "footer",
        element("p", "To repeat this check, with the images and further options that it was given:"),
        element("pre", code(prose(command, 4000)), tabindex="0"),
        element("p", f"Made by denseport {version('denseport')} in {seconds(report.seconds)}."),
    )
