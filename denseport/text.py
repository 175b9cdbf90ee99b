"""Reports as lines of plain text, and a sign of life on a terminal while work is long."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from denseport.errors import listed, quoted


def conversion(report: Mapping[str, Any]) -> list[str]:
    """The lines for a `ConversionReport`."""
    size = Path(report["target"]).stat().st_size
    rows = [
        ("variant", _variant(report["variant"], report["config"])),
        ("from", f"{report['source_layout']}, {report['source_format']}"),
        ("to", f"{report['target_layout']}, {report['target_format']}"),
        ("tensors", f"{report['tensors']:,}, read back and equal bit by bit"),
        ("parameters", f"{report['parameters']:,}"),
        ("dtype", report["dtype"]),
        *(_parity_rows(report["parity"]) if report["parity"] else [("parity", "not checked")]),
        ("time", f"{report['seconds']:.1f} s"),
        ("file", f"{report['target']} ({size / 1e6:.1f} MB)"),
    ]
    return _table(rows)


def parity(report: Mapping[str, Any]) -> list[str]:
    """The lines for a `ParityReport`."""
    rows = [(side["framework"], f"{side['file']} ({side['layout']})") for side in (report["a"], report["b"])]
    return _table([*rows, *_parity_rows(report), ("time", f"{report['seconds']:.1f} s")])


def inspection(report: Mapping[str, Any]) -> list[str]:
    """The lines for an `Inspection`."""
    rows = [
        ("file", report["file"]),
        ("format", f"{report['format']}: {quoted(report['container'])}"),
        ("tensors", f"{report['tensors']:,} of {report['values']:,} values, {', '.join(report['dtypes'])}"),
    ]
    if report["others"]:
        rows.append(("also holds", listed(report["others"], 10)))
    if report["config"]:
        config = report["config"]
        rows += [
            ("layout", report["layout"]),
            ("variant", _variant(report["variant"], config)),
            ("parameters", f"{report['parameters']:,}"),
            ("traits", ", ".join(f"{name} {value}" for name, value in config["traits"].items())),
        ]
    rows += [("metadata", f"{quoted(key)}: {quoted(value)}") for key, value in report["metadata"].items()]
    for kind, names in (report["suspicion"] or {}).items():
        if names:
            rows.append(("suspicious", f"{kind.replace('_', ' ')}: {listed(names, 5)}"))
    rows += [("note", note) for note in report["notes"]]
    rows.append(("convertible", f"no: {report['problem']}" if report["problem"] else "yes"))
    return _table(rows)


def difference(report: Mapping[str, Any]) -> list[str]:
    """The lines for a `Difference`."""
    how = "canonical names" if report["by_layout"] else "their own names, since not both fit a layout"
    lines = [
        f"{quoted(row['name'])}: {row['kind']}"
        + (f", largest difference {row['largest']:.3g}" if row["largest"] is not None else "")
        + f" ({' against '.join(filter(None, (row['a'], row['b'])))})"
        for row in report["different"]
    ]
    return [*lines, f"{report['same']:,} tensors equal bit by bit, {len(lines):,} not, matched by {how}"]


@contextmanager
def sign_of_life(what: str) -> Iterator[None]:
    """Shows on a terminal's stderr that work is going on; does nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} ..."):
        yield


def _variant(variant: str, config: Mapping[str, Any]) -> str:
    head = "no classifier" if config["num_classes"] is None else f"{config['num_classes']} classes"
    return f"{variant}, {config['in_channels']} input channels, {head}"


def _parity_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    figure = "NaN or Inf" if report["relative_error"] is None else f"{report['relative_error']:.1e}"
    verdict = "passed" if report["passed"] else "FAILED"
    runs = [report["a"], report["b"]]
    rows = [("parity", f"{verdict}: {figure} relative, tolerance {report['tolerance']:.0e}")]
    for comparison in report["comparisons"]:
        shape = "x".join(map(str, comparison["input_shape"]))
        agreement = f"top-1 agrees on {comparison['top1_agreement']:.2%}"
        error = comparison["relative_error"]
        rows.append(("", f"{shape}: {'NaN or Inf' if error is None else f'{error:.1e}'}, {agreement}"))
        if comparison["accuracy"]:
            both = [f"{run['framework']} {share:.2%}" for run, share in zip(runs, comparison["accuracy"], strict=True)]
            rows.append(("", f"accuracy: {', '.join(both)}"))
        if comparison["rounding_error"] is not None:
            rows.append(("", f"rounding the weights moved the outputs by {comparison['rounding_error']:.1e}"))
        if comparison["trait_error"] is not None:
            rows.append(("", f"the target layout's own traits move the outputs by {comparison['trait_error']:.1e}"))
    return [*rows, *[("ran on", f"{run['version']}, {run['device']}") for run in runs]]


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(label) for label, _ in rows) + 2
    return [f"{label:{width}}{value}" for label, value in rows]
