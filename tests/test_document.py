"""The document of a parity check, opened in Chromium: it says the verdict, loads nothing, and fits every screen."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from parity_reports import CONFIG, TAPS, broken, good, run
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from denseport.net.graph import shapes
from denseport.page import page
from denseport.parity.report import ParityReport, Tap, TrainedTensor, TrainingReport

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


REPORTS = {"good": good, "broken": broken}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        missing = "no Chromium: apt-get install -y --no-install-recommends chromium chromium-driver fonts-dejavu-core"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    options = ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = Chrome(options, ChromeService(programs[1]))
    yield driver
    driver.quit()


def shown(browser: Chrome, text: str, folder: Path, width: int = 1280, scheme: str = "light") -> None:
    """Opens a document as a screen of this width shows it, with what was logged before thrown away."""
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    for log in ("performance", "browser"):
        browser.get_log(log)
    browser.get(file.as_uri())


def requests(browser: Chrome) -> list[str]:
    """What the browser has asked for since the document was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]


# The plot's texts, its legend's, and its marks for the error between the two; what is off the screen at the right.
SEEN = """
const plot = document.querySelector('.plot .scroll > svg');
const box = each => {
  const {left, top, right, bottom} = each.getBoundingClientRect();
  return {left, top, right, bottom};
};
const within = each => each.parentElement && (each.parentElement.closest('.scroll, svg') !== null);
return {
  inner: innerWidth,
  scrolled: document.documentElement.scrollWidth,
  outside: [...document.querySelectorAll('body *')]
    .filter(each => !within(each) && box(each).right > innerWidth + 1).map(each => each.outerHTML.slice(0, 200)),
  verdict: {...box(document.querySelector('h1')), text: document.querySelector('h1').innerText},
  plot: plot && box(plot),
  marks: plot ? plot.querySelectorAll('circle.mark.between').length : 0,
  texts: plot ? [...plot.querySelectorAll('text')].map(each => ({...box(each), text: each.textContent})) : [],
  legend: [...document.querySelectorAll('.plot .legend li')].map(each => ({...box(each), text: each.textContent})),
}
"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", REPORTS)
def test_a_document_fits_its_screen(browser: Chrome, tmp_path: Path, name: str, width: int) -> None:
    report = REPORTS[name]()
    shown(browser, page(report), tmp_path, width)
    seen = browser.execute_script(SEEN)
    assert seen["inner"] == width
    assert seen["scrolled"] <= width
    assert seen["outside"] == []
    assert seen["verdict"]["bottom"] < 400
    assert ("do not compute the same" in seen["verdict"]["text"]) is (name == "broken")
    assert seen["marks"] == len(TAPS) == 64
    assert ("part at block1.layer3: " in str(seen["legend"])) is (name == "broken")
    assert_apart(seen["texts"], seen["plot"])
    assert_apart(seen["legend"], {"left": 0, "right": width})
    assert min(text["bottom"] - text["top"] for text in seen["texts"]) > 9, "large enough to be read"
    assert requests(browser) == [browser.current_url]
    assert browser.get_log("browser") == []


def assert_apart(texts: list[dict[str, Any]], plot: dict[str, float]) -> None:
    for text in texts:
        assert plot["left"] - 1 <= text["left"] < text["right"] <= plot["right"] + 1, text
    for a, b in itertools.combinations(texts, 2):
        apart = a["right"] <= b["left"] or b["right"] <= a["left"] or a["bottom"] <= b["top"] or b["bottom"] <= a["top"]
        assert apart, (a, b)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_both_schemes(browser: Chrome, tmp_path: Path, scheme: str) -> None:
    shown(browser, page(broken()), tmp_path, scheme=scheme)
    for text in ("h1", "p", "small", "dt", "td.fails", "code", ".found", ".plot text.tick"):
        assert contrast(browser, text) >= 4.5, text
    for mark in ("circle.mark.between", "rect.mark.first", "polygon.mark.second", "line.tolerance", "circle.ring"):
        assert contrast(browser, mark) >= 3, mark


def contrast(browser: Chrome, selector: str) -> float:
    """How far what a selector finds stands out from the paper, from 1 to 21, by WCAG's formula."""
    colours = browser.execute_script(
        """
        const found = getComputedStyle(document.querySelector(arguments[0]));
        const colour = arguments[0].includes('mark.between') || arguments[0].includes('text') ? found.fill
          : arguments[0].includes('.') && found.stroke !== 'none' ? found.stroke : found.color;
        return [colour, getComputedStyle(document.body).backgroundColor];
        """,
        selector,
    )
    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


SCRIPT = "<script>document.title = 'hacked'</script>"
HOSTILE = f"""</style></script>{SCRIPT}<img src=x onerror="document.title='hacked'">'"&\x1b[2J"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", [HOSTILE, "A" * 10_000, "\udc80\u202egnp.h5", "&lt;b&gt;" * 2_000, ""])
def test_no_name_disturbs_a_document(browser: Chrome, tmp_path: Path, name: str, width: int) -> None:
    report = dataclasses.replace(renamed(broken(), name), dtype="float64")
    text = page(report)
    assert len(text) < 2_000_000
    shown(browser, text, tmp_path, width)
    seen = browser.execute_script(SEEN)
    assert browser.title == "These files do not compute the same - denseport"
    assert browser.execute_script("return document.querySelectorAll('script, img, b, [onerror]').length") == 0
    assert seen["scrolled"] <= width
    assert seen["outside"] == []
    assert requests(browser) == [browser.current_url]
    assert browser.get_log("browser") == []
    if name == HOSTILE:
        assert SCRIPT in browser.execute_script("return document.querySelector('.sides').innerText")


def renamed(value: Any, name: str) -> Any:
    """The same report with every string replaced; tags that the code itself chooses between are kept."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = ("framework", "dtype", "model")
        fields = {
            field.name: renamed(getattr(value, field.name), name)
            for field in dataclasses.fields(value)
            if field.name not in kept
        }
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {f"{name}{n}": renamed(each, name) for n, each in enumerate(value.values())}
    if isinstance(value, tuple):
        return tuple(renamed(each, name) for each in value)
    return name if isinstance(value, str) else value


def test_the_browser_test_finds_what_does_not_fit(browser: Chrome, tmp_path: Path) -> None:
    wide = page(good()).replace("<footer>", '<footer><hr width="3000">')
    shown(browser, wide.replace("</main>", '<img src="https://example.invalid/x.png"></main>'), tmp_path)
    seen = browser.execute_script(SEEN)
    assert seen["scrolled"] > 3000
    assert seen["outside"]
    assert "violates the following Content Security Policy" in str(browser.get_log("browser"))
    label = {"left": 10.0, "top": 10.0, "right": 20.0, "bottom": 20.0}
    with pytest.raises(AssertionError):
        assert_apart([label, label], label)


def tapped(*errors: float) -> ParityReport:
    return dataclasses.replace(good(), taps=tuple(Tap(f"block1.layer{n}", error) for n, error in enumerate(errors, 1)))


@pytest.mark.parametrize(
    "errors",
    [(0.0,), (0.0, 0.0), (math.inf, math.inf), (5e-324, 1.7e308), (0.0, 1e-7, math.inf), tuple([1e-16] * 300)],
)
def test_every_error_has_a_place_in_the_plot(browser: Chrome, tmp_path: Path, errors: tuple[float, ...]) -> None:
    shown(browser, page(tapped(*errors)), tmp_path, 390)
    seen = browser.execute_script(SEEN)
    assert seen["marks"] == len(errors)
    assert_apart(seen["texts"], seen["plot"])
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.plot .scroll .mark.between')].map(each => +each.getAttribute('cy'))"
    )
    assert heights == [heights[errors.index(error)] for error in errors]
    ordered = [height for _, height in sorted(zip(errors, heights, strict=True))]
    assert ordered == sorted(heights, reverse=True)
    ticks = [text["text"] for text in seen["texts"]]
    assert ("NaN" in ticks) is (math.inf in errors)
    assert ("0" in ticks) is (0.0 in errors)


def test_the_vertical_axis_is_logarithmic(browser: Chrome, tmp_path: Path) -> None:
    shown(browser, page(tapped(1e-8, 1e-7, 1e-6)), tmp_path)
    first, second, third = browser.execute_script(
        "return [...document.querySelectorAll('.plot .scroll .mark.between')].map(each => +each.getAttribute('cy'))"
    )
    assert first - second == pytest.approx(second - third, abs=0.2)
    assert first > second


@pytest.mark.parametrize("position", [0, 1, 31, 62, 63])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_divergence_is_named_wherever_it_is(browser: Chrome, tmp_path: Path, position: int, width: int) -> None:
    report = broken()
    assert report.divergence is not None
    moved = tuple(
        dataclasses.replace(tap, relative_error=0.1 if n >= position else 1e-7) for n, tap in enumerate(report.taps)
    )
    parts = dataclasses.replace(report.divergence, tap=TAPS[position])
    shown(browser, page(dataclasses.replace(report, taps=moved, divergence=parts)), tmp_path, width)
    seen = browser.execute_script(SEEN)
    assert f"they part at {TAPS[position]}: 1.0e-01" in [text["text"] for text in seen["legend"]]
    assert_apart(seen["legend"], {"left": 0, "right": width})
    ring, mark = browser.execute_script(PLACES, position)
    assert ring == mark


# Where the ring in the plot is, and where the mark of a tap is.
PLACES = """
const plot = document.querySelector('.plot .scroll > svg');
return [plot.querySelector('.ring'), plot.querySelectorAll('.mark.between')[arguments[0]]]
  .map(each => [each.getAttribute('cx'), each.getAttribute('cy')]);
"""


def test_a_mark_says_its_place_and_its_error() -> None:
    report = broken()
    titles = re.findall(r"<title>([^<]*)</title>", page(report))
    for tap in report.taps:
        assert f"{tap.name}: {tap.relative_error:.1e}, between PyTorch and Keras" in titles


def words(report: ParityReport) -> str:
    """What a document says, without its tags."""
    root = ElementTree.fromstring(re.sub(r"<!doctype html>|<meta[^>]*>", "", page(report)))
    return " ".join(" ".join(root.itertext()).split())


def changed(report: ParityReport, **fields: Any) -> ParityReport:
    """The report with other fields in every comparison."""
    return dataclasses.replace(
        report, comparisons=tuple(dataclasses.replace(each, **fields) for each in report.comparisons)
    )


TRAINING = TrainingReport(12, 0.01, ((6.9, 6.9),) * 12, (TrainedTensor("stem.conv.weight", 2e-3, 1e-3),), 1e-9)
TRAINED = dataclasses.replace(TRAINING, tolerance=1.0)

TWINS = "Both files, as denseport reads them,"

VERDICTS = {
    "equal": (
        changed(good(), relative_error=0.0),
        f"{TWINS} compute the same",
        "are equal to the last digit",
    ),
    "close": (
        good(),
        f"{TWINS} compute the same",
        "what is left between the two is rounding",
    ),
    "exact": (
        dataclasses.replace(changed(good(), reference_errors=None), dtype="float64"),
        f"{TWINS} compute the same",
        "denseport verify --exact /data/models/densenet121.pth",
    ),
    "a library's": (
        dataclasses.replace(good(), taps=(), a=run("a.pth", "torch", model="timm 1.0.2")),
        "Both files compute the same",
        "denseport verify --against timm a.pth",
    ),
    "trained": (
        dataclasses.replace(good(), training=TRAINED),
        f"{TWINS} compute the same, and train alike",
        "--train-steps 12",
    ),
    "trained apart": (
        dataclasses.replace(good(), training=TRAINING),
        "These files compute the same, but do not train alike",
        "after 12 steps of training the tensors' relative error is 2.0e-03, above the tolerance 1e-09",
    ),
    "not a number": (
        changed(good(), relative_error=math.inf, absolute_error=math.inf),
        "These files do not compute the same",
        "hold NaN or Inf",
    ),
    "badly rounded": (
        changed(good(), rounding_error=1e-4, source_error=3e-2),
        "These files do not compute the same",
        "from the first file is 3.0e-02, of which rounding the weights explains 1.0e-04",
    ),
    "rounded": (
        changed(good(), rounding_error=2e-3, source_error=2e-3),
        f"{TWINS} compute the same",
        "Rounding the weights moves the outputs by 2.0e-03 in float64",
    ),
    "other traits": (
        changed(good(), trait_error=0.05),
        f"{TWINS} compute the same",
        "The second file's own traits move the outputs by 5.0e-02",
    ),
    "far": (
        changed(good(), relative_error=4.2),
        "These files do not compute the same",
        "relative error is 4.2e+00, above",
    ),
    "inside": (
        dataclasses.replace(good(), divergence=broken().divergence),
        "These files do not compute the same",
        "outputs agree, but not what is on the way to them",
    ),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_says_what_the_report_says(case: str) -> None:
    report, headline, told = VERDICTS[case]
    said = words(report)
    assert f" {headline} On 6 images" in said
    assert told in said


def test_a_failure_shows_place_tensors_images_and_training() -> None:
    said, right = words(broken()), words(good())
    for heading, *facts in (
        ("Where they part", "block1.layer3.conv1.weight", "conv2_block3_conv2_block3_1_conv/kernel:0", "8.3e-01"),
        ("Disagreements", "photographs/cat-000.jpg class 281 class 904"),
        ("Training", "Loss in Keras", "6.91 7.25 3.4e-01", "The 5 tensors furthest apart, of 5"),
    ):
        assert heading not in right
        for fact in (heading, *facts):
            assert fact in said
    for fact in ("Accuracy in Keras share of the labels met 50", "PyTorch to float64", "class 904, 19.02", "0.91 GB"):
        assert fact in said.replace("\N{NO-BREAK SPACE}", " ")
    assert "Accuracy" not in right


def test_long_lists_are_cut_and_counted() -> None:
    said = words(broken())
    assert said.count("photographs/cat-") == 50
    assert "63 images for which the two put different classes first" in said
    assert "13 more images not shown" in said
    assert said.count("features.") >= len(shapes(CONFIG))


def test_both_runs_are_told_apart_where_the_framework_is_the_same() -> None:
    report = dataclasses.replace(good(), b=run("b.pth", "torch"))
    assert "between First file and Second file" in words(report)
