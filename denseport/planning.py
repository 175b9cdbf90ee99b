"""What a conversion writes: its path and format, its layout, and the strings that travel with the weights."""

from __future__ import annotations

import dataclasses
import json
from contextlib import AbstractContextManager
from pathlib import Path

from denseport import exports, formats
from denseport.atomic import replacing
from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, UsageError
from denseport.exports.folders import replacing_folder
from denseport.layouts import Layout, Weights, find_layout
from denseport.layouts.frameworks import TORCH, Framework
from denseport.layouts.translate import COUNTERS, counters_to_text
from denseport.net.config import DenseNetConfig
from denseport.preprocessing import RECORD, Preprocessing, find_preprocessing

# By the framework that a format is native to.
DEFAULT_LAYOUT = {"torch": "torchvision", "keras": "keras-applications"}


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


def replacing_target(target: Path, to_format: str, force: bool) -> AbstractContextManager[Path]:
    """The path to write to, a file or a folder, which takes the target's place in the end."""
    if formats.FORMATS[to_format].is_folder:
        return replacing_folder(target, exports.files(to_format), force=force)
    return replacing(target, force=force)


def target_layout(
    config: DenseNetConfig, to_format: str, to_layout: str | Path | None, allow_mismatch: bool, compensate: bool
) -> tuple[Layout, list[str]]:
    """The layout to write, and what to say of the choice.

    Args:
        config: The architecture with the source's traits.
        to_format: The format to write.
        to_layout: The layout that was asked for, or None.
        allow_mismatch: Whether it may compute something else with the same weights.
        compensate: Whether a difference of epsilons will go into the running variances.

    Raises:
        LayoutError: The layout that was asked for cannot express the architecture, or computes something else.
    """
    layout = find_layout(to_layout or DEFAULT_LAYOUT[formats.FORMATS[to_format].framework])
    different = {
        trait: sentence
        for trait, sentence in layout.mismatches(config).items()
        if trait not in exports.STATED.get(to_format, ())
    }
    if compensate:
        different.pop("epsilon", None)
    # What an export cannot hold was refused when its layout was chosen.
    reason = "" if formats.FORMATS[to_format].described else layout.cannot_build(config)
    if reason:
        if to_layout is not None:
            raise LayoutError(f"{reason}; choose another --to-layout, such as denseport")
        return find_layout("denseport"), [f"written in layout denseport, since {reason}"]
    if not different:
        return layout, []
    if to_layout is None:
        return find_layout("denseport"), [f"written in layout denseport, since {'; '.join(different.values())}"]
    if allow_mismatch:
        return layout, list(different.values())
    remedy = "choose --to-layout denseport, or go on with --allow-trait-mismatch"
    if "epsilon" in different:
        remedy += ", or keep the function with --compensate-epsilon"
    raise LayoutError(f"{'; '.join(different.values())}; {remedy}")


def target_metadata(
    checkpoint: Checkpoint,
    weights: Weights,
    layout: Layout,
    framework: Framework,
    preprocessing: Preprocessing,
    source_sha256: str,
) -> dict[str, str]:
    """The strings that travel with the weights: those of the source, and what this conversion knows.

    Args:
        checkpoint: The source, whose own record of a preprocessing goes before `preprocessing`.
        weights: What is written.
        layout: How it is written.
        framework: Whose parameter names and axes are written.
        preprocessing: How the images were prepared, by what is known of the source's preset or layout.
        source_sha256: The source's hash.
    """
    traits = weights.config.replace(**layout.traits_of(weights.config)).traits
    metadata = {
        **checkpoint.metadata,
        "format": "pt" if framework is TORCH else framework.name,
        "layout": layout.name,
        "variant": weights.config.variant,
        "source_sha256": source_sha256,
        "traits": json.dumps(dataclasses.asdict(traits)),
    }
    metadata.pop(COUNTERS, None)
    if counts := "" if framework.counter and layout.counters else counters_to_text(weights):
        metadata[COUNTERS] = counts
    # What a layout says is said of photographs; how a grey or a 3-D net's images were prepared, nobody states.
    of_photographs = weights.config.in_channels == 3 and weights.config.dimensions == 2
    if of_photographs and preprocessing != find_preprocessing("none"):
        metadata.setdefault(RECORD, json.dumps(preprocessing.to_dict()))
    return metadata
