"""The whole way of a conversion: read, detect, translate, write, read back, compare, run both, put in place."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from denseport import exports, formats, layouts
from denseport.atomic import confirm
from denseport.checkpoint import dtype_of
from denseport.errors import FormatError, UsageError, listed
from denseport.load import opened, sha256
from denseport.net.config import DenseNetConfig
from denseport.net.graph import parameters
from denseport.options import Converting, Dtype, Head, among, needing_verify, valid
from denseport.planning import replacing_target, target_layout, target_metadata, target_path
from denseport.preprocessing import find_preprocessing
from denseport.presets import resolve
from denseport.requirements import keras_backend, require_parity

if TYPE_CHECKING:
    from denseport.comparison_options import Comparing
    from denseport.parity import Workers
    from denseport.parity.report import ParityReport


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
    from_format: str | None = None,
    to_format: str | None = None,
    from_layout: str | Path | None = None,
    to_layout: str | Path | None = None,
    head: Head = "keep",
    classes: int | None = None,
    dtype: Dtype = "keep",
    allow_trait_mismatch: bool = False,
    compensate_epsilon: bool = False,
    allow_nonfinite: bool = False,
    verify: bool = True,
    force: bool = False,
    **comparing: Unpack[Comparing],
) -> ConversionReport:
    """Converts a DenseNet's weights from one file to another; nothing is at `dst` unless every check has passed.

    Args:
        src: The file to read, or the name of a preset, which is downloaded where it is not in the cache.
        dst: The file to write, or the folder where `to_layout` is `timm`, or is `keras-hub` and `dst` has no suffix;
            None gives `src` the suffix of `to_format`.
        from_format: `pth`, `h5` or `safetensors`, where the content is to be held to it.
        to_format: `pth`, `h5`, `safetensors` or `keras`, a whole model of plain Keras layers; None goes by
            `dst`'s suffix.
        from_layout: A layout's name or TOML file, where it is not to be detected.
        to_layout: The same for `dst`; None takes `torchvision` for pth and safetensors, `keras-applications` for h5,
            and `denseport` where that one cannot express the architecture.
        head: `drop` leaves the classifier out.
        classes: A number of classes: the classifier is replaced by one of zeros with that many outputs.
        dtype: `keep`, or the floating-point dtype to round every tensor to.
        allow_trait_mismatch: Whether to go on where a net of `to_layout` computes something else with the same
            weights. The outputs are then compared under the source's traits, and what the mismatch does is reported.
        compensate_epsilon: Whether the running variances take up the difference where the layouts' epsilons differ.
        allow_nonfinite: Whether weights may hold NaN or Inf, and running variances be negative.
        verify: Whether both frameworks run their file and their outputs are compared. Every tensor is read back and
            compared bit by bit in any case.
        force: Whether an existing `dst` may be replaced.
        comparing: How the outputs are compared: what `denseport.verify` takes, `device`, `tolerance` or `exact` say.

    Raises:
        FormatError: `src` is broken, or `dst` cannot hold such tensors.
        LayoutError: `src` fits no layout, or `to_layout` cannot express it.
        UsageError: Options or paths cannot be used.
        FrameworkMissingError: `verify` is set and a framework is not installed.
        VerificationError: What was written differs from what was read, or the outputs are too far apart.
    """
    started = time.perf_counter()
    chosen = {"head": head, "classes": classes, "dtype": dtype, "to_format": to_format}
    valid(Converting, {**chosen, **among(Converting, comparing)})
    source, preset = resolve(src, progress=comparing.get("progress"))
    if preset is not None:
        from_layout = from_layout or preset.layout
        if dst is None:
            raise UsageError(f"{preset.name}: nothing says where to; give a target file")
    folder = exports.folder_kind(None if dst is None else Path(dst), to_format, to_layout)
    target, to_format = target_path(source, dst, folder or to_format)
    head = head if classes is None else "drop"
    if not verify and (ignored := needing_verify(among(Converting, comparing))):
        raise UsageError(f"--{listed(ignored).replace('_', '-')} says how outputs are compared; leave out --no-verify")
    if verify:
        require_parity(keras_backend(comparing.get("keras_backend")))
    for file in formats.files(source):
        formats.sniff(file)
    before = _identity(source)
    with (
        _workers(comparing) if verify else nullcontext() as workers,
        _in_background(sha256, source) as hashed,
        opened(source, from_layout, from_format, head) as (checkpoint, found),
        replacing_target(target, to_format, force) as temporary,
    ):
        weights = layouts.to_canonical(checkpoint, found).concatenated("old-first")
        weights = weights.without_head() if head == "drop" else weights
        wanted = (
            exports.layout_for(to_format, weights.config, to_layout)
            if formats.FORMATS[to_format].described
            else to_layout
        )
        layout, notes = target_layout(weights.config, to_format, wanted, allow_trait_mismatch, compensate_epsilon)
        if head == "drop" and classes is None and found.config.num_classes is not None:
            notes.append("the classifier was left out: a model that has one will not load this file strictly")
        if not allow_nonfinite:
            _refuse_unsound(weights, source)
        if workers is not None:  # the frameworks take seconds to start, in which the file is written
            workers.start(
                device=comparing.get("device", "auto"),
                allow_tf32=comparing.get("allow_tf32", False),
                keras_backend=keras_backend(comparing.get("keras_backend")),
            )
        if compensate_epsilon:
            own = layout.traits_of(weights.config)
            weights = weights.with_epsilon(own.get("epsilon", weights.config.traits.epsilon))
        if classes is not None:
            weights = weights.with_new_head(classes)
        weights = weights if dtype == "keep" else weights.cast(dtype_of(dtype))
        framework = layout.framework_for(formats.FORMATS[to_format].framework)
        tensors = layouts.from_canonical(weights, layout, framework)
        usual = preset.preprocessing if preset else find_preprocessing(found.layout.preprocessing)
        metadata = target_metadata(checkpoint, weights, layout, framework, usual, hashed.result())
        if formats.FORMATS[to_format].described:
            notes += exports.write(to_format, weights, layout, metadata, temporary)
        else:
            formats.write(tensors, metadata, temporary, to_format, layout.nesting(weights.config))
        confirm(tensors, temporary)
        if _identity(source) != before:
            raise FormatError(f"{source}: changed while it was read; run the conversion again")
        report = ConversionReport(
            source=str(source),
            source_sha256=hashed.result(),
            source_format=checkpoint.format,
            source_layout=found.layout.name,
            target=str(target),
            target_format=to_format,
            target_layout=layout.name,
            variant=weights.config.variant,
            config=weights.config,
            tensors=len(tensors),
            parameters=parameters(weights.config),
            dtype=", ".join(sorted({str(tensor.dtype) for tensor in weights.tensors.values()})),
            notes=(*(preset.notes if preset else ()), *found.notes(checkpoint), *notes),
            parity=None,
            seconds=time.perf_counter() - started,
        )
        if verify:
            from denseport import parity

            comparing["workers"] = workers
            compared = parity.verify(
                source,
                temporary,
                layout_a=from_layout,
                layout_b=wanted,
                head=head,
                same_traits=allow_trait_mismatch,
                **comparing,
            ).about(target)
            report = dataclasses.replace(report, parity=compared, seconds=time.perf_counter() - started)
            compared.raise_if_failed(report)
    return report


def _refuse_unsound(weights: layouts.Weights, source: Path) -> None:
    """Raises UsageError, with the names, where weights are NaN or Inf or a running variance is negative."""
    found = layouts.suspicious(weights)
    for names, what in ((found.nonfinite, "NaN or Inf"), (found.negative_variance, "negative variances")):
        if names:
            raise UsageError(f"{source}: {what} in {listed(names)}; mend the weights, or give --allow-nonfinite")


def _workers(comparing: Comparing) -> AbstractContextManager[Workers]:
    """The processes that will compare the outputs, which end with the block unless they were given."""
    from denseport.parity import Workers

    given = comparing.get("workers")
    return nullcontext(given) if given else Workers()


@contextmanager
def _in_background(work: Callable[[Path], str], path: Path) -> Iterator[Future[str]]:
    """Runs `work` in a thread of its own, which has ended when the block has."""
    with ThreadPoolExecutor(1) as background:
        yield background.submit(work, path)


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written to; nothing where it is gone."""
    try:
        every = [file.stat() for file in formats.files(path)]
    except (OSError, UsageError):
        return ()
    return tuple(figure for status in every for figure in (status.st_ino, status.st_size, status.st_mtime_ns))
