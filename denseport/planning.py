"""What a conversion reads and writes, decided before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denseport import formats
from denseport.errors import LayoutError, UsageError, listed
from denseport.layouts import Layout, Weights, descriptions, find_layout
from denseport.layouts.frameworks import Framework
from denseport.layouts.translate import counters_to_record
from denseport.metadata import (
    ASSUMED,
    COUNTERS,
    HEAD,
    INPUTS,
    PREPROCESSING,
    TRAITS_ASSUMED,
    Record,
    recorded_preprocessing,
)
from denseport.net.config import DenseNetConfig
from denseport.options import DEFAULT_LAYOUT, Comparing, Converting, among, needing_verify
from denseport.preprocessing import Preprocessing, find_preprocessing
from denseport.source import Source

# What a conversion says anew in place of what the source's metadata say.
REPLACED = (ASSUMED, COUNTERS, HEAD, INPUTS, TRAITS_ASSUMED)


@dataclass(frozen=True)
class Plan:
    """What a conversion reads and writes.

    Attributes:
        source: The file to read, not opened yet.
        target: The file or folder to write, or what messages call it.
        format: Its format.
        options: How: everything that `denseport.convert` can be told.
    """

    source: Source
    target: str | Path
    format: formats.Format
    options: Converting


def planned(
    src: str | Path,
    dst: str | Path | None,
    options: Converting,
    progress: Callable[[int, int], None] | None = None,
    shown: str | None = None,
) -> Plan:
    """The plan of a conversion; a preset is downloaded where it is not in the cache.

    Messages and the report call the source `shown`, where that is given.

    Raises:
        UsageError: The options contradict each other, or do not say what to write.
        DownloadError: The preset cannot be had.
        FrameworkMissingError: The outputs are to be compared, and a framework is not installed.
    """
    head = options["head"] if options["classes"] is None else "drop"
    source = Source.named(
        src,
        options["from_layout"],
        format=options["from_format"],
        head=head,
        net=options["net"],
        traits=options["traits"],
        shown=shown,
        progress=progress,
    )
    if source.preset is not None and dst is None:
        raise UsageError(f"{source.preset.name}: nothing says where to; give a target file")
    folder = folder_kind(None if dst is None else Path(dst), options["to_format"], options["to_layout"])
    target, to_format = target_path(source.path, dst, folder or options["to_format"])
    if options["verify"]:
        from denseport.parity.verification import checked_comparing

        options = {**options, **checked_comparing(among(Comparing, options))}
    elif ignored := needing_verify(options):
        raise UsageError(f"--{listed(ignored).replace('_', '-')} says how outputs are compared; leave out --no-verify")
    return Plan(source, target, formats.FORMATS[to_format], options)


def folder_kind(target: Path | None, to_format: str | None, to_layout: str | Path | None) -> str | None:
    """The kind of folder that the user asks for, or None where it is a file.

    `--to-layout timm` always means a folder; `--to-layout keras-hub` means one where neither `--to` nor the target's
    suffix says a format.

    Raises:
        UsageError: A folder is asked for, and a file's format or no target as well.
    """
    kind = str(to_layout)
    if kind not in formats.FORMATS or not formats.FORMATS[kind].files:
        return None
    if kind == "keras-hub" and (to_format or target is None or target.suffix):
        return None
    if to_format is not None:
        raise UsageError(f"--to-layout {kind} writes a folder, not a {to_format} file; leave --to out")
    if target is None:
        raise UsageError(f"--to-layout {kind} writes a folder; give its name")
    return kind


def target_path(source: Path, dst: str | Path | None, to_format: str | None) -> tuple[Path, str]:
    """The file to write and its format, from what the user gave of the two.

    Raises:
        UsageError: Neither says the format.
    """
    if dst is not None:
        return Path(dst), to_format or formats.by_suffix(Path(dst))
    if to_format is None:
        raise UsageError(f"{source}: nothing says what to convert it to; give a target file, or --to")
    return source.with_name(formats.stem(source) + formats.FORMATS[to_format].suffixes[0]), to_format


def target_layout(config: DenseNetConfig, plan: Plan) -> tuple[Layout, list[str]]:
    """The layout to write a net in, and what to say of the choice.

    Raises:
        LayoutError: The layout that was asked for cannot express the architecture, or computes something else.
    """
    asked = plan.options["to_layout"]
    if plan.format.described:  # what such a model cannot hold is refused here
        asked = descriptions.layout_for(plan.format.name, config, asked)
    layout = find_layout(asked or DEFAULT_LAYOUT[plan.format.framework])
    unsaid = {
        trait: sentence
        for trait, sentence in layout.mismatches(config).items()
        if trait not in descriptions.STATED.get(plan.format.name, ())
        and not (trait == "epsilon" and plan.options["compensate_epsilon"])
    }
    reason = "" if plan.format.described else layout.cannot_build(config)
    mismatch = reason or "; ".join(unsaid.values())
    if not mismatch:
        return layout, []
    if asked is None:
        return find_layout("denseport"), [f"written in layout denseport, since {mismatch}"]
    if reason:
        raise LayoutError(f"{reason}; choose another --to-layout, such as denseport")
    if plan.options["allow_trait_mismatch"]:
        return layout, list(unsaid.values())
    remedy = "choose --to-layout denseport, or go on with --allow-trait-mismatch"
    if "epsilon" in unsaid:
        remedy += ", or keep the function with --compensate-epsilon"
    raise LayoutError(f"{mismatch}; {remedy}")


def target_metadata(weights: Weights, layout: Layout, framework: Framework, plan: Plan) -> dict[str, str]:
    """The strings that travel with the weights: those of the source, and what this conversion knows.

    The source's own record of a preprocessing stays, but where what the net itself makes of images is added to it. What
    the source's library usually does to images nobody states of this net: it is recorded as assumed, where the target's
    library does something else.

    Args:
        weights: What is written.
        layout: How it is written, and `framework` whose parameter names and axes it has.
        plan: From where, and to where.
    """
    config, source = weights.config, plan.source
    unstated = layout.traits_of(config).keys() - descriptions.STATED.get(plan.format.name, frozenset())
    kept = {key: text for key, text in source.checkpoint.metadata.items() if key not in REPLACED}
    if config.inputs and not holds_inputs(layout, plan):
        kept.pop(PREPROCESSING, None)
    written = config.replace(**{trait: layout.traits_of(config)[trait] for trait in unstated})
    record = Record(
        layout=layout.name,
        traits=vars(written.traits),
        traits_assumed=_assumed(written, source),
        framework=framework.name,
        variant=config.variant,
        source_sha256=source.sha256,
        counters=0 if framework.counter and layout.counters else counters_to_record(weights),
        head=[dataclasses.asdict(layer) for layer in config.head_layers],
        **({} if PREPROCESSING in kept else _images(config, layout, plan)),
        inputs=dataclasses.asdict(config.inputs)
        if config.inputs and layout.is_own and not plan.format.described
        else {},
    )
    return {**kept, **record.strings()}


def holds_inputs(layout: Layout, plan: Plan) -> bool:
    """Whether the target says what its net makes of images: as layers, or in the metadata of this project's layout."""
    return plan.format.name == "keras" or (layout.is_own and not plan.format.described)


def inputs_notes(config: DenseNetConfig, layout: Layout, plan: Plan) -> list[str]:
    """What to say of inputs that the target does not hold."""
    own = plan.source.weights.config.inputs
    if own and plan.options["fold_inputs"]:
        return [f"{own.formula} of the image x is folded into the stem's kernel"]
    if config.inputs is None or holds_inputs(layout, plan):
        return []
    foldable = "" if any(config.inputs.offset) else ", or give --fold-inputs"
    return [
        f"the source's net computes {config.inputs.formula} of its image x first, which layout {layout.name} cannot "
        "hold: prepare images so before they are fed to what is written; or write a .keras file, or with --to-layout "
        f"denseport, which hold it{foldable}"
    ]


def _images(config: DenseNetConfig, layout: Layout, plan: Plan) -> dict[str, Any]:
    """How images are prepared: as a preset or the source's own net states it, else as is usual, which is assumed.

    Raises:
        FormatError: The source's metadata hold something else than a preprocessing.
    """
    source, inputs = plan.source, config.inputs
    if inputs:
        stated = Preprocessing.of_inputs(inputs.order, inputs.scale, inputs.offset)
        before = recorded_preprocessing(source.checkpoint.metadata, source.shown)
        both = stated if stated is None or before is None else before.followed_by(stated)
        return {} if holds_inputs(layout, plan) else {"preprocessing": both}
    # A preset's is that of photographs; how a grey or a 3-D net's images were prepared, nobody states.
    of_photographs = config.in_channels == 3 and config.dimensions == 2
    if source.preset and of_photographs and source.preset.preprocessing != find_preprocessing("none"):
        return {"preprocessing": source.preset.preprocessing}
    usual = source.checkpoint.metadata.get(ASSUMED, source.detection.layout.preprocessing)
    return {} if usual in ("none", layout.preprocessing) else {"assumed": usual}


def _assumed(config: DenseNetConfig, source: Source) -> list[str]:
    """The traits that are written as the source has them, of which nobody knows whether it has."""
    found = source.detection
    own = vars(found.config.traits)
    unknown = [name for name, how in found.known_as.items() if how == "assumed"]
    return [name for name in unknown if getattr(config.traits, name) == own[name]]


def target_description(
    config: DenseNetConfig, layout: Layout, metadata: Mapping[str, str], plan: Plan
) -> tuple[dict[str, Any], list[str]]:
    """What is written of the net beside its weights, where the format has that, and what to say of it.

    Raises:
        FormatError: The metadata hold something else than a preprocessing.
    """
    if not plan.format.described:
        return {}, []
    images = recorded_preprocessing(metadata, plan.source.shown)
    return descriptions.describe(plan.format.name, config, layout, images)
