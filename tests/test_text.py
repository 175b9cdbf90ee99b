"""Results as lines: what a report says, in columns that stand one below the other, harmless whatever names hold."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from parity_reports import BROKEN, broken, good

import denseport
from denseport import text
from denseport.difference import Difference, TensorDifference
from denseport.net.config import HeadLayer, Inputs
from denseport.parity.report import ParityReport, Tap, TrainedTensor, TrainingReport
from denseport.terminal import Row, Table, plain

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "digits-torch.pth"
TRAINING = TrainingReport(3, 0.01, ((1.0, 1.0),), (TrainedTensor("stem.conv.weight", 1e-3, 2e-3),), 1e-9)


def test_values_and_cells_stand_one_below_the_other() -> None:
    table = Table(("name", "nothing", "size"), [("a", "", "1"), ("longer", "", "22")], title="both")
    assert plain([Row("file", "x"), Row("", "y"), table, Row("seconds", "1")]) == [
        "file     x",
        "         y",
        "both",
        "  name    size",
        "  a       1",
        "  longer  22",
        "seconds  1",
    ]
    assert plain([Table((), [("a", "1")])]) == ["a  1"]
    assert plain([Table(("name",), [])]) == ["name"]
    assert plain([Row("", "alone")]) == ["alone"]


def test_no_name_disturbs_a_line() -> None:
    name = "\x1b[2J\u202egnp\n[bold]"
    for line in plain([Row("file", name), Table((name,), [(name,)], title=name)]):
        assert line.isprintable()
        assert "[bold]" in line


@pytest.mark.parametrize("every_tap", [False, True])
def test_a_failed_check_names_place_tensor_images_and_figures(every_tap: bool) -> None:
    said = "\n".join(plain(text.parity(broken(), every_tap)))
    for fact in ("FAILED: 3.1e-01 relative, tolerance 1e-05, in float32", "/data/models/densenet121.h5", "50.00%",
                 "torch 3.9e-07, keras 4.3e-07", "torch 100.00%, keras 50.00%", f"{BROKEN}.conv1.weight holds",
                 "photographs/cat-000.jpg (281 against 904)", "and 43 more", "after 3 steps",
                 f"furthest: {BROKEN}.norm1.weight", "torch 2.14.1+cu130, cpu"):  # fmt: skip
        assert fact in said
    assert ("\n  head  " in said) is every_tap


CAUSES: dict[str, tuple[ParityReport, str]] = {
    "": (good(), "passed: 4.4e-07"),
    "outputs": (broken(), "relative error is 3.1e-01, above the tolerance 1e-05"),
    "rounding": (
        dataclasses.replace(
            good(),
            comparisons=(dataclasses.replace(good().comparisons[0], rounding_error=1e-4, source_error=3e-2),),
        ),
        "from the first file is 3.0e-02, of which rounding the weights explains 1.0e-04",
    ),
    "inside": (dataclasses.replace(broken(), comparisons=good().comparisons), "not what is on the way to them"),
    "training": (
        dataclasses.replace(good(), training=TRAINING),
        "the tensors' relative error is 2.0e-03, above the tolerance 1e-09; furthest: stem.conv",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_verdict_says_what_the_check_failed_by(cause: str) -> None:
    report, told = CAUSES[cause]
    assert report.cause == cause
    assert told in (report.reason or report.verdict)
    assert report.verdict.startswith("FAILED: " if cause else "passed: ")
    assert report.reason in report.failure
    assert report.failure.startswith(report.b.file if cause else "")
    assert report.a.file in report.failure or not cause
    assert report.verdict in "\n".join(plain(text.parity(report)))
    plainly = json.loads(json.dumps(report.to_dict()))
    assert (plainly["verdict"], plainly["failure"]) == (report.verdict, report.failure)


def test_what_is_not_finite_is_said() -> None:
    infinite = dataclasses.replace(good().comparisons[0], relative_error=math.inf)
    report = dataclasses.replace(good(), comparisons=(infinite,), taps=(Tap("stem", math.inf),))
    assert report.reason == "outputs hold NaN or Inf"
    assert "\n  stem  NaN or Inf" in "\n".join(plain(text.parity(report, every_tap=True)))
    assert report.to_dict()["relative_error"] is None


def test_a_difference_names_every_tensor() -> None:
    different = (
        TensorDifference("a\n", "values", "float32 (3,)", "float32 (3,)", 0.25),
        TensorDifference("b", "only in a", "float32 (3,)", ""),
    )
    assert plain(text.difference(Difference("x", "y", True, 7, different))) == [
        "tensor  difference  largest  a             b",
        "a\\n     values      0.25     float32 (3,)  float32 (3,)",
        "b       only in a            float32 (3,)",
        "7 tensors equal bit by bit, 2 not, matched by canonical names",
    ]


def test_what_stands_before_the_stem_and_behind_the_pool_has_rows() -> None:
    head = (HeadLayer("dense", 6, bias=False), HeadLayer("activation", activation="gelu"), HeadLayer("dense", 3))
    inputs = Inputs(1, (0, 0, 0), (1 / 255,) * 3, (0.0,) * 3)
    report = denseport.inspect(FIXTURE)
    assert report.config
    report = dataclasses.replace(report, config=report.config.replace(num_classes=3, head_layers=head, inputs=inputs))
    rows = [row.split(maxsplit=1) for row in plain(text.inspection(report))]
    assert ["inputs", "x[0, 0, 0] / 255 of an image x, before the stem"] in rows
    assert ["head", "dense of 6 outputs without bias, gelu, dense of 3 outputs"] in rows
    assert any("1 input channel," in value for name, value in rows if name == "variant")
