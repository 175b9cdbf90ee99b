"""Reports as lines of plain text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denseport.errors import listed, quoted


def conversion(report: Mapping[str, Any], every_tap: bool = False) -> list[str]:
    """The lines for a `ConversionReport`."""
    target = Path(report["target"])
    size = sum(file.stat().st_size for file in (target.iterdir() if target.is_dir() else [target]))
    rows = [
        ("variant", _variant(report["variant"], report["config"])),
        ("from", f"{report['source_layout']}, {report['source_format']}"),
        ("to", f"{report['target_layout']}, {report['target_format']}"),
        ("tensors", f"{report['tensors']:,}, read back and equal bit by bit"),
        ("parameters", f"{report['parameters']:,}"),
        ("dtype", report["dtype"]),
        *(_parity_rows(report["parity"], every_tap) if report["parity"] else [("parity", "not checked")]),
        ("time", f"{report['seconds']:.1f} s"),
        ("folder" if target.is_dir() else "file", f"{target} ({size / 1e6:.1f} MB)"),
    ]
    return _table(rows)


def parity(report: Mapping[str, Any], every_tap: bool = False) -> list[str]:
    """The lines for a `ParityReport`."""
    rows = [(side["framework"], f"{side['file']} ({side['layout']})") for side in (report["a"], report["b"])]
    return _table([*rows, *_parity_rows(report, every_tap), ("time", f"{report['seconds']:.1f} s")])


def migration(report: Mapping[str, Any]) -> list[str]:
    """The lines for a `MigrationReport`: counts, the largest error, each note once, and every failure."""
    every = report["results"]
    counts = Counter(result["status"] for result in every)
    failed = [result for result in every if result["status"] == "failed"]
    done = [result for result in every if result["status"] != "failed"]
    rows = [(name, f"{count:,}") for name, count in (("files", len(every)), ("converted", counts["converted"]))]
    rows.append(("unchanged", f"{counts['unchanged']:,}"))
    if verified := [(own["relative_error"], own["source"]) for own in done if own["relative_error"] is not None]:
        error, source = max(verified)
        rows.append(("error", f"at most {figure(error)} relative, in {source}; {len(verified):,} verified"))
    rate = f", {counts['converted'] / report['seconds']:.2f} files a second" if counts["converted"] else ""
    rows += [("time", f"{report['seconds']:.1f} s{rate}"), ("results", report["results_file"])]
    notes = Counter(note for result in done for note in dict.fromkeys(result["notes"]))
    rows += [("note", f"{files:,} of {len(every):,} files: {note}") for note, files in notes.most_common()]
    rows += [("failed", _failure(result)) for result in failed]
    if failed:
        rows.append(("failed", f"{len(failed):,} of {len(every):,}; mend them, and run it again"))
    return _table(rows)


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


def _variant(variant: str, config: Mapping[str, Any]) -> str:
    head = "no classifier" if config["num_classes"] is None else f"{config['num_classes']} classes"
    return f"{variant}, {config['in_channels']} input channels, {head}"


def _parity_rows(report: Mapping[str, Any], every_tap: bool = False) -> list[tuple[str, str]]:
    runs = [report["a"], report["b"]]
    rows = [("parity", parity_verdict(report))]
    for comparison in report["comparisons"]:
        agreement = f"top-1 agrees on {comparison['top1_agreement']:.2%}"
        rows.append(("", f"{_images(comparison)}: {figure(comparison['relative_error'])}, {agreement}"))
        if comparison["accuracy"]:
            rows.append(("", f"accuracy: {_of_both(report, comparison['accuracy'], '.2%')}"))
        if comparison["reference_errors"]:
            rows.append(("", f"from float64: {_of_both(report, comparison['reference_errors'], '.1e')}"))
        rows += [("", line) for line in explained(comparison)]
    if every_tap:
        rows += [("taps" if not n else "", tap_line(report, tap)) for n, tap in enumerate(report["taps"])]
    if divergence := report["divergence"]:
        rows.append(("part at", divergence_line(divergence)))
        rows += [("", line) for line in feeding_lines(divergence)]
    if report["disagreements"]:
        rows.append(("disagree on", disagreeing(report)))
    if report["training"]:
        rows.append(("training", training_verdict(report["training"])))
    return [*rows, *[("ran on", ran_on(run)) for run in runs]]


def parity_verdict(report: Mapping[str, Any]) -> str:
    """Passed or failed, by what figure, in what precision."""
    told = f"{figure(report['relative_error'])} relative, tolerance {report['tolerance']:.0e}, in {report['dtype']}"
    if report["passed"]:
        return f"passed: {told}"
    error = report["relative_error"]
    if error is None or error > report["tolerance"]:
        return f"FAILED: {told}"
    if report["divergence"]:
        return f"FAILED: outputs agree ({told}), but not what is on the way to them"
    if report["training"] and not report["training"]["passed"]:
        return f"FAILED: outputs agree ({told}), training does not"
    return f"FAILED: the mapping agrees ({told}), but the outputs are further off than rounding the weights explains"


def disagreeing(report: Mapping[str, Any]) -> str:
    """The images on whose class the two do not agree, and both classes."""
    return listed(f"{row['image']} ({row['a']} against {row['b']})" for row in report["disagreements"])


def explained(comparison: Mapping[str, Any]) -> list[str]:
    """What rounding and traits do to the outputs, where they do something."""
    lines = []
    if comparison["rounding_error"] is not None:
        lines.append(_rounding(comparison))
    if comparison["trait_error"] is not None:
        lines.append(f"the second file's own traits move the outputs by {figure(comparison['trait_error'])}")
    return lines


def training_verdict(training: Mapping[str, Any]) -> str:
    """Passed or failed, over how many steps, and the tensor that is furthest apart."""
    worst = max(training["tensors"], key=_training_error)
    verdict = "passed" if training["passed"] else "FAILED"
    return (
        f"{verdict}: {figure(training['relative_error'])} relative after {training['steps']} steps in float64, "
        f"tolerance {training['tolerance']:.0e}, furthest {worst['name']}"
    )


def _training_error(tensor: Mapping[str, Any]) -> float:
    errors = [tensor["updated_error"], tensor["gradient_error"] or 0]
    return max(math.inf if error is None else error for error in errors)


def divergence_line(divergence: Mapping[str, Any]) -> str:
    """Where two nets part, and what was before."""
    error = figure(divergence["relative_error"])
    return f"{divergence['tap']}: {error} relative, where it was {figure(divergence['noise'])} or less before"


def feeding_lines(divergence: Mapping[str, Any]) -> list[str]:
    """The tensors that feed the place where two nets part, those that differ first, or what else it is."""
    different = [tensor for tensor in divergence["tensors"] if tensor["finding"] != "equal"]
    lines = [
        f"{tensor['name']} {tensor['finding']} ({quoted(tensor['a'])} against {quoted(tensor['b'])})"
        for tensor in different
    ]
    equal = [tensor["name"] for tensor in divergence["tensors"] if tensor["finding"] == "equal"]
    if not lines:
        return [divergence["explanation"]]
    return [*lines, f"equal: {listed(equal)}"] if equal else lines


def tap_line(report: Mapping[str, Any], tap: Mapping[str, Any]) -> str:
    """The errors at one place in the net."""
    reference = tap["reference_errors"]
    told = f", from float64: {_of_both(report, reference, '.1e')}" if reference else ""
    return f"{tap['name']}: {figure(tap['relative_error'])}{told}"


def ran_on(run: Mapping[str, Any]) -> str:
    """What ran one side, where, and with what settings."""
    model = "" if run["model"] == "twin" else f"{run['model']}, "
    settings = ", ".join(f"{name} {value}" for name, value in run["settings"].items() if run["device"] != "cpu")
    return f"{model}{run['version']}, {run['device']}{f' ({settings})' if settings else ''}"


def figure(error: float | None) -> str:
    """A relative error for people; None is what JSON has for NaN and infinity."""
    return "NaN or Inf" if error is None else f"{error:.1e}"


def _images(comparison: Mapping[str, Any]) -> str:
    count = comparison["input_shape"][0]
    return f"{comparison['name']}, {count:,} image{'s' if count > 1 else ''}"


def _of_both(report: Mapping[str, Any], values: Sequence[float | None], form: str) -> str:
    runs = (report["a"], report["b"])
    return ", ".join(
        f"{run['framework']} {'NaN or Inf' if value is None else format(value, form)}"
        for run, value in zip(runs, values, strict=True)
    )


def _rounding(comparison: Mapping[str, Any]) -> str:
    return (
        f"rounding the weights moves the outputs by {figure(comparison['rounding_error'])} in float64; from the "
        f"weights as they were it is {figure(comparison['source_error'])}"
    )


def _failure(result: Mapping[str, Any]) -> str:
    """Why a file could not be migrated; most errors name it themselves."""
    error = result["error"] or ""
    return error if result["source"] in error else f"{result['source']}: {error}"


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(label) for label, _ in rows) + 2
    return [f"{label:{width}}{value}" for label, value in rows]
