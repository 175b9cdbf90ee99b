"""The section of a document about training: losses, and the tensors that end furthest apart."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from denseport.errors import quoted
from denseport.page.markup import element
from denseport.page.tables import Cell, code, folded, section, table
from denseport.page.wording import count, figure, limit, sides
from denseport.parity.report import ParityReport, TrainedTensor

WORST = 10
STEPS = 10


def training(report: ParityReport) -> Element | None:
    """What training both showed, where there was any."""
    trained = report.training
    if trained is None:
        return None
    verdict = "Both train alike" if trained.passed else "They do not train alike"
    told = (
        f"{verdict}: after {count(trained.steps, 'step')} of plain SGD at a rate of {trained.learning_rate:g}, in "
        f"float64, gradients and tensors are up to {figure(trained.relative_error)} apart; up to "
        f"{limit(trained.tolerance)} passes."
    )
    worst = sorted(trained.tensors, key=_error, reverse=True)[:WORST]
    rows = [_row(tensor, trained.tolerance) for tensor in worst]
    columns = ("Tensor", "First gradient", "Value after training")
    tensors = table("Tensors that end furthest apart", columns, rows, "figures")
    heading = element("h3", f"The {count(len(worst), 'tensor')} furthest apart, of {len(trained.tensors):,}")
    return section("Training", element("p", told), _losses(report), heading, tensors)


def _losses(report: ParityReport) -> Element:
    trained = report.training
    losses = trained.losses if trained else ()
    rows: list[list[Cell]] = [
        [str(step), f"{a:.10g}", f"{b:.10g}", figure(abs(a - b))] for step, (a, b) in enumerate(losses, 1)
    ]
    columns = ("Step", *[f"Loss in {side}" for side in sides(report)], "Apart")
    every = table("Loss of each step", columns, rows, "figures")
    return every if len(rows) <= STEPS else folded(f"Losses of all {count(len(rows), 'step')}", every)


def _row(tensor: TrainedTensor, tolerance: float) -> list[Cell]:
    def judged(error: float | None) -> Element:
        return element("td", figure(error), class_=None if error is None or error <= tolerance else "fails")

    return [code(quoted(tensor.name)), judged(tensor.gradient_error), judged(tensor.updated_error)]


def _error(tensor: TrainedTensor) -> float:
    return max(tensor.gradient_error or 0, tensor.updated_error)
