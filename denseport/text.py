"""What each command prints, as rows and tables; `denseport.terminal` lays them out."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denseport.errors import figure, listed, quoted
from denseport.terminal import Part, Row, Table

if TYPE_CHECKING:
    from denseport.conversion import ConversionReport
    from denseport.difference import Difference
    from denseport.inspection import Inspection
    from denseport.layouts.spec import Layout
    from denseport.migration.results import MigrationReport, Result
    from denseport.net.config import DenseNetConfig
    from denseport.parity.report import ParityReport
    from denseport.prediction import Prediction
    from denseport.presets import Preset


def conversion(report: ConversionReport, every_tap: bool = False) -> list[Part]:
    """What was converted to what, and how far the frameworks are apart."""
    target = Path(report.target)
    size = sum(file.stat().st_size for file in (target.iterdir() if target.is_dir() else [target]))
    return [
        Row("variant", _variant(report.variant, report.config)),
        *_around(report.config),
        Row("from", f"{report.source_layout}, {report.source_format}"),
        Row("to", f"{report.target_layout}, {report.target_format}"),
        *_traits(vars(report.config.traits), report.origins),
        Row("tensors", f"{report.tensors:,}, read back and equal bit by bit"),
        Row("parameters", f"{report.parameters:,}"),
        Row("dtype", report.dtype),
        *(_compared(report.parity, every_tap) if report.parity else [Row("parity", "not checked")]),
        Row("time", f"{report.seconds:.1f} s"),
        Row("folder" if target.is_dir() else "file", f"{target} ({size / 1e6:.1f} MB)"),
    ]


def parity(report: ParityReport, every_tap: bool = False) -> list[Part]:
    """Which files were compared, and how far apart they are."""
    files = []
    for run in (report.a, report.b):
        files += [Row(run.framework, f"{run.file} ({run.layout})"), *_traits(run.traits, run.origins)]
        if run.prepared:
            files.append(
                Row("fed with", f"{run.prepared} of each image x, which the other file's net makes of it itself")
            )
    return [*files, *_compared(report, every_tap), Row("time", f"{report.seconds:.1f} s")]


def migration(report: MigrationReport) -> list[Part]:
    """Counts, the largest error, each note once, and every failure."""
    total, failed = len(report.results), report.failed
    done = [result for result in report.results if result.status != "failed"]
    counts = Counter(result.status for result in report.results)
    rows = [Row("files", f"{total:,}"), *[Row(kind, f"{counts[kind]:,}") for kind in ("converted", "unchanged")]]
    if verified := [(result.relative_error, result.source) for result in done if result.relative_error is not None]:
        error, source = max(verified)
        rows.append(Row("error", f"at most {figure(error)} relative, in {source}; {len(verified):,} verified"))
    rate = f", {counts['converted'] / report.seconds:.2f} files a second" if counts["converted"] else ""
    rows += [Row("time", f"{report.seconds:.1f} s{rate}"), Row("results", report.results_file)]
    notes = Counter(note for result in done for note in dict.fromkeys(result.notes))
    rows += [Row("note", f"{files:,} of {total:,} files: {note}") for note, files in notes.most_common()]
    rows += [Row("failed", _failure(result), "bad") for result in failed]
    if failed:
        rows.append(Row("failed", f"{len(failed):,} of {total:,}; mend them, and run it again", "bad"))
    return [*rows]


def inspection(report: Inspection) -> list[Part]:
    """What a file holds, and whether it can be converted."""
    rows = [
        Row("file", report.file),
        Row("format", f"{report.format}: {quoted(report.container)}"),
        Row("tensors", f"{report.tensors:,} of {report.values:,} values, {', '.join(report.dtypes)}"),
    ]
    if len(report.nets) > 1 or report.beside or any(each.path != "." for each in report.nets):
        rows += [Row("net", f"{quoted(each.path)}: {each.kind}; {each.tensors:,} tensors") for each in report.nets]
    if report.beside:
        rows.append(Row("beside", report.beside))
    if report.others:
        rows.append(Row("also holds", listed(report.others, 10)))
    if report.config:
        rows += [
            Row("layout", report.layout),
            Row("variant", _variant(report.variant, report.config)),
            *_around(report.config),
            Row("parameters", f"{report.parameters:,}"),
            *_traits(vars(report.config.traits), report.origins),
            *_labelled("evidence", [f"{of} {figures}" for of, figures in report.evidence.items()]),
        ]
    rows += [Row("metadata", f"{quoted(key)}: {quoted(value)}") for key, value in report.metadata.items()]
    suspicious = dataclasses.asdict(report.suspicion) if report.suspicion else {}
    rows += [Row("suspicious", f"{kind.replace('_', ' ')}: {listed(of, 5)}") for kind, of in suspicious.items() if of]
    rows += [Row("note", note) for note in report.notes]
    rows.append(Row("convertible", f"no: {report.problem}", "bad") if report.problem else Row("convertible", "yes"))
    return [*rows]


def difference(report: Difference) -> list[Part]:
    """Each tensor that is not the same in both files, and how many are."""
    rows = [
        (quoted(each.name), each.kind, "" if each.largest is None else f"{each.largest:.3g}", each.a, each.b)
        for each in report.different
    ]
    how = "canonical names" if report.by_layout else "their own names, since not both fit a layout"
    counted = Row("", f"{report.same:,} tensors equal bit by bit, {len(rows):,} not, matched by {how}")
    return [Table(("tensor", "difference", "largest", "a", "b"), rows), counted] if rows else [counted]


def predictions(every: Iterable[Prediction]) -> list[Part]:
    """The most probable classes of each image, and what ran the net."""
    predicted = list(every)
    tables = [
        Table(
            (),
            [(f"{each.probability:7.2%}", f"{each.index:>5}", quoted(each.name)) for each in prediction.classes],
            title=quoted(prediction.image, 300),
        )
        for prediction in predicted
    ]
    return [*tables, *[Row("ran", ran) for ran in dict.fromkeys(each.ran for each in predicted if each.ran)]]


def presets(every: Iterable[Preset]) -> list[Part]:
    """One row a preset; accuracies are those that the publishers give."""
    rows = [
        (
            preset.name,
            f"{preset.parameters:,}",
            f"{preset.multiply_adds / 1e9:.2f} G",
            "x".join([str(preset.side)] * preset.config.dimensions),
            *("" if share is None else f"{share:.2f}" for share in (preset.top1, preset.top5)),
            preset.hash.partition(":")[0] or "none",
            preset.licence,
        )
        for preset in every
    ]
    return [Table(("preset", "parameters", "multiply-adds", "pixels", "top-1", "top-5", "hash", "licence"), rows)]


def layouts(every: Iterable[Layout]) -> list[Part]:
    """One row a layout."""
    return [Row(layout.name, layout.title) for layout in every]


def _variant(variant: str, config: DenseNetConfig) -> str:
    head = "no classifier" if config.num_classes is None else f"{config.num_classes} classes"
    channels = f"{config.image_channels} input channel{'s' if config.image_channels > 1 else ''}"
    return f"{variant}, {channels}, {head}"


def _around(config: DenseNetConfig) -> list[Row]:
    """What the net does to its images before the stem, and a head of several layers."""
    from denseport.layouts.heads import in_words  # brings numpy, which --help does without

    rows = [Row("inputs", f"{config.inputs.formula} of an image x, before the stem")] if config.inputs else []
    return [*rows, *([Row("head", in_words(config.head_layers, {}))] if config.head_layers else [])]


def _traits(traits: Mapping[str, Any], origins: Mapping[str, str]) -> list[Row]:
    from denseport.layouts.traits import told  # brings numpy, which --help does without

    return [Row(how, line) for how, line in told(traits, origins).items()]


def _compared(report: ParityReport, every_tap: bool) -> list[Part]:
    parts: list[Part] = [Row("parity", report.verdict, "good" if report.passed else "bad"), _comparisons(report)]
    if every_tap and report.taps:
        parts.append(_taps(report))
    effects = [f"{each.name}: {effect}" for each in report.comparisons for effect in each.effects]
    parts += _labelled("effects", effects)
    if report.divergence:
        parts += _labelled("part at", (report.divergence.place, *report.divergence.findings))
    if report.disagreements:
        told = listed(f"{each.image} ({each.a} against {each.b})" for each in report.disagreements)
        parts.append(Row("disagree on", told))
    if report.training:
        parts.append(Row("training", report.training.verdict, "good" if report.training.passed else "bad"))
    return [*parts, *[Row("ran on", run.ran_on) for run in (report.a, report.b)]]


def _labelled(label: str, lines: Iterable[str]) -> list[Row]:
    return [Row("" if n else label, line) for n, line in enumerate(lines)]


def _comparisons(report: ParityReport) -> Table:
    """The figures of each array of images."""
    rows = [
        (
            f"{each.input_shape[0]:,} x {each.name}",
            figure(each.relative_error),
            _of_both(report, map(figure, each.reference_errors or ())),
            f"{each.top1_agreement:.2%}",
            _of_both(report, map("{:.2%}".format, each.accuracy or ())),
        )
        for each in report.comparisons
    ]
    return Table(("images", "apart", "from float64", "top-1 agrees", "accuracy"), rows)


def _taps(report: ParityReport) -> Table:
    """The errors along the net; the place where the two part stands out."""
    rows = [
        (tap.name, figure(tap.relative_error), _of_both(report, map(figure, tap.reference_errors or ())))
        for tap in report.taps
    ]
    parted = [n for n, tap in enumerate(report.taps) if report.divergence and tap.name == report.divergence.tap]
    return Table(("tap", "apart", "from float64"), rows, marked=parted)


def _of_both(report: ParityReport, figures: Iterable[str]) -> str:
    """A figure of each framework; "" where there are none."""
    return ", ".join(f"{run.framework} {told}" for run, told in zip((report.a, report.b), figures, strict=False))


def _failure(result: Result) -> str:
    """Why a file could not be migrated; most errors name it themselves."""
    error = result.error or ""
    return error if result.source in error else f"{result.source}: {error}"
