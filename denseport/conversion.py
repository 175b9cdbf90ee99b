"""The whole way of a conversion: plan, read, find, change, write, confirm, prove, put in place."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from denseport import files, formats, layouts
from denseport.atomic import replacing
from denseport.checkpoint import dtype_of
from denseport.errors import UsageError
from denseport.layouts import Layout, Weights, sequential
from denseport.net.config import DenseNetConfig
from denseport.net.graph import parameters
from denseport.options import Comparing, Converting, among, checked
from denseport.planning import Plan, inputs_notes, planned, target_description, target_layout, target_metadata
from denseport.source import Source

if TYPE_CHECKING:
    from denseport.parity.report import ParityReport
    from denseport.running.workers import Workers


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        source: The file that was read.
        source_sha256: Its hash.
        source_format: Its format; `source_layout` its layout.
        target: The file that was written.
        target_format: Its format; `target_layout` its layout.
        variant: The architecture's name, or its parameters in words.
        config: The architecture with its traits.
        origins: Whether each trait is `stated`, `shown` or `assumed`.
        tensors: How many tensors were written; each was read back and is equal bit by bit to what the source holds.
        parameters: How many trainable parameters there are.
        dtype: The dtypes that were written.
        notes: What a user should know: prefixes taken off, a head under another name, a layout that stood in.
        parity: The comparison of both frameworks' outputs, or None where it was not asked for.
        seconds: Wall time.
    """

    source: str
    source_sha256: str
    source_format: str
    source_layout: str
    target: str
    target_format: str
    target_layout: str
    variant: str
    config: DenseNetConfig
    origins: Mapping[str, str]
    tensors: int
    parameters: int
    dtype: str
    notes: tuple[str, ...]
    parity: ParityReport | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {
            "config": self.config.to_dict(),
            "notes": list(self.notes),
            "parity": self.parity.to_dict() if self.parity else None,
        }


def convert(
    src: str | Path,
    dst: str | Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    workers: Workers | None = None,
    **options: Unpack[Converting],
) -> ConversionReport:
    """Converts a DenseNet's weights from one file to another; nothing is at `dst` unless every check has passed.

    Args:
        src: The file to read, or the name of a preset, which is downloaded where it is not in the cache.
        dst: The file to write, or the folder where `to_layout` is `timm`, or is `keras-hub` and `dst` has no suffix;
            None gives `src` the suffix of `to_format`.
        force: Whether an existing `dst` may be replaced.
        progress: Is called with the number of batches that both frameworks have done, and of all batches.
        workers: Processes to run the frameworks in, for many conversions in a row; where None, each starts its own.
        options: How: see `denseport.options.Converting`. Every tensor is read back and compared bit by bit in any case.

    Raises:
        FormatError: `src` is broken, or `dst` cannot hold such tensors.
        LayoutError: `src` fits no layout, or `to_layout` cannot express it.
        UsageError: Options or paths cannot be used.
        FrameworkMissingError: The outputs are to be compared, and a framework is not installed.
        VerificationError: What was written differs from what was read, or the outputs are too far apart.
    """
    plan = planned(src, dst, checked(Converting, options), progress)
    with replacing(Path(plan.target), force=force, files=plan.format.files or None) as temporary:
        return converted(plan, temporary, progress=progress, workers=workers)


def converted(
    plan: Plan,
    path: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: Workers | None = None,
) -> ConversionReport:
    """As `convert`, but what is written stays at `path`, a file or an empty folder, for the caller to put in place.

    Where a check fails, what is at `path` is not to be used. Messages and the report name the plan's target.
    """
    started = time.perf_counter()
    with _frameworks(workers, plan.options["verify"]) as processes, plan.source as source:
        source.hash_in_background()
        source.require_decided()
        weights = source.weights.concatenated("old-first")
        layout, notes = target_layout(weights.config, plan)
        weights = _changed(weights, layout, plan)
        notes += inputs_notes(weights.config, layout, plan)
        if processes is not None:  # the frameworks take seconds to start, in which the file is written
            processes.start(
                device=plan.options["device"],
                allow_tf32=plan.options["allow_tf32"],
                keras_backend=plan.options["keras_backend"] or "",
            )
        framework, nesting = layout.framework_for(plan.format.framework), layout.nesting(weights.config)
        tensors = layouts.from_canonical(weights, layout, framework)
        metadata = target_metadata(weights, layout, framework, plan)
        description, more = target_description(weights.config, layout, metadata, plan)
        content = (tensors, metadata, path, plan.format.name, nesting, plan.target, description)
        formats.write(*content)
        with _read_again(plan, layout, path) as written:
            files.confirm(*content, written.checkpoint if written else None)
            source.check_unchanged()
            notes = [
                *notes,
                *more,
                *([] if plan.format.described else sequential.notes(weights.config, layout, framework)),
            ]
            report = _report(weights, layout, notes, plan, len(tensors))
            if processes is not None and written is not None:
                report = dataclasses.replace(report, parity=_proved(plan, written, processes, progress))
    report = dataclasses.replace(report, seconds=time.perf_counter() - started)
    if report.parity:
        report.parity.raise_if_failed(report)
    return report


def _frameworks(workers: Workers | None, verify: bool) -> AbstractContextManager[Workers | None]:
    """The processes that compare the outputs, which end with the block unless they were given; None for none."""
    if workers or not verify:
        return nullcontext(workers if verify else None)
    from denseport.running.workers import Workers as Processes

    return Processes()


def _changed(weights: Weights, layout: Layout, plan: Plan) -> Weights:
    """The weights to write: with another epsilon, stem, classifier or dtype where that was asked for.

    Raises:
        UsageError: They are NaN or Inf, a running variance is or would become negative, or a value is beyond the range
            of the dtype.
    """
    options, source = plan.options, plan.source
    if not options["allow_nonfinite"] and source.unsound:
        raise UsageError(f"{source.shown}: {source.unsound}")
    if options["compensate_epsilon"]:
        usual = weights.config.traits.epsilon
        weights = weights.with_epsilon(layout.traits_of(weights.config).get("epsilon", usual))
    if options["fold_inputs"]:
        try:
            weights = weights.with_inputs_folded()
        except UsageError as error:
            raise UsageError(f"{source.shown}: {error}") from None
    if options["classes"] is not None:
        weights = weights.with_new_head(options["classes"])
    return weights if options["dtype"] == "keep" else weights.cast(dtype_of(options["dtype"]))


def _report(weights: Weights, layout: Layout, notes: list[str], plan: Plan, tensors: int) -> ConversionReport:
    source = plan.source
    found, checkpoint = source.detection, source.checkpoint
    if source.head == "drop" and plan.options["classes"] is None and found.config.num_classes is not None:
        notes.append("the classifier was left out: strict loading into a model that has one reports missing keys")
    return ConversionReport(
        source=str(source.shown),
        source_sha256=source.sha256,
        source_format=checkpoint.format,
        source_layout=found.layout.name,
        target=str(plan.target),
        target_format=plan.format.name,
        target_layout=layout.name,
        variant=weights.config.variant,
        config=weights.config,
        origins=found.known_as,
        tensors=tensors,
        parameters=parameters(weights.config),
        dtype=", ".join(sorted({str(tensor.dtype) for tensor in weights.tensors.values()})),
        notes=(*source.notes, *notes),
        parity=None,
        seconds=0.0,
    )


def _read_again(plan: Plan, layout: Layout, path: Path) -> AbstractContextManager[Source | None]:
    """What was written, as this project reads it: to run it, or where no other library than torch reads it."""
    if not plan.options["verify"] and plan.format.name != "pth":
        return nullcontext()
    layout_name = layout.name if plan.format.described else plan.options["to_layout"]
    return Source(path, layout_name, head=plan.source.head, shown=plan.target)


def _proved(
    plan: Plan, written: Source, processes: Workers, progress: Callable[[int, int], None] | None
) -> ParityReport:
    """How far the outputs of what was read and of what was written are apart, each in its framework."""
    from denseport.parity.verification import compared

    return compared(
        plan.source,
        written,
        among(Comparing, plan.options),
        same_traits=plan.options["allow_trait_mismatch"],
        folded=plan.options["fold_inputs"],
        workers=processes,
        progress=progress,
    )
