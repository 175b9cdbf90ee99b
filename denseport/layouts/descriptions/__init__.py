"""What libraries write of a net beside its weights, as plain JSON data: read, and written, without any of them.

Each library has a module. Reading: `stated(description, shown)` is what a description says of its net. Writing:
`layout_of(config)` names the layout of the tensors, `cannot_hold(config)` says why the library has no such net, and
`describe(config, layout, preprocessing)` gives the description, and notes for the user. The description itself says
the traits in `STATED`, whatever is true of every other net of the layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from denseport.checkpoint import Checkpoint
from denseport.errors import DenseportError, LayoutError
from denseport.formats import FORMATS
from denseport.layouts.descriptions import keras, keras_functional, keras_hub, keras_weightless, timm, torch
from denseport.layouts.parse import find_layout
from denseport.layouts.spec import Layout
from denseport.metadata import Record
from denseport.net.config import DenseNetConfig
from denseport.preprocessing import Preprocessing

READ: Mapping[str, ModuleType] = MappingProxyType(
    {"keras": keras, "timm": timm, "keras-hub": keras_hub, "torch": torch}
)
WRITTEN: Mapping[str, ModuleType] = MappingProxyType({"keras": keras_functional, "timm": timm, "keras-hub": keras_hub})
STATED: Mapping[str, frozenset[str]] = MappingProxyType({name: module.STATED for name, module in WRITTEN.items()})


def stated(checkpoint: Checkpoint) -> Record:
    """What the description beside a checkpoint's weights says of their net; nothing where there is none.

    Raises:
        LayoutError: It is the description of no DenseNet.
        FormatError: It says of the images what makes no sense.
    """
    if not checkpoint.described_by:
        return Record(traits=keras_weightless.pool_trait(checkpoint.weightless))
    record: Record = READ[checkpoint.described_by].stated(checkpoint.description, checkpoint.label)
    return record


def recorded(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint of a library's folder, with what the folder's description says among its metadata.

    How images are prepared is for the description to say, as it is for the library. What else both say stays as the
    metadata have it; of traits, `traits.decide` puts the description first all the same.

    Raises:
        FormatError: The description says of the images what makes no sense.
    """
    if checkpoint.described_by not in FORMATS or not FORMATS[checkpoint.described_by].files:
        return checkpoint
    try:
        record = stated(checkpoint)
    except DenseportError:
        checkpoint.close()
        raise
    net, images = replace(record, preprocessing=None), Record(preprocessing=record.preprocessing)
    return replace(checkpoint, metadata={**net.strings(), **checkpoint.metadata, **images.strings()})


def layout_for(kind: str, config: DenseNetConfig, asked: str | Path | None) -> str | Path:
    """The layout of the tensors in a model of this kind.

    Raises:
        LayoutError: There can be no such model of this net, or it cannot have the layout that was asked for.
    """
    module = WRITTEN[kind]
    if reason := module.cannot_hold(config):
        raise LayoutError(f"{reason}; choose a file of weights, such as .h5 or .safetensors")
    if FORMATS[kind].files or asked is None:
        name: str = module.layout_of(config)
        return name
    if all(framework.name != "keras" for framework in find_layout(asked).frameworks):
        raise LayoutError(f"layout {find_layout(asked).name} is none of Keras', and a .keras file is; leave it out")
    return asked


def describe(
    kind: str, config: DenseNetConfig, layout: Layout, preprocessing: Preprocessing | None
) -> tuple[dict[str, Any], list[str]]:
    """The description of a net, and what a user should know of it.

    Args:
        kind: `timm`, `keras-hub` or `keras`.
        config: A net for which there is a `layout_for` this kind.
        layout: That layout.
        preprocessing: How images are prepared, where that is known; folders say it.
    """
    notes = []
    if FORMATS[kind].files and preprocessing is None:
        notes.append("nothing says how the net's images are prepared, and so neither does the target")
    elif FORMATS[kind].files and preprocessing and not preprocessing.is_rgb(config.in_channels):
        notes.append(f"{kind} cannot prepare images as this net takes them, so the target does not say how")
        preprocessing = None
    description, more = WRITTEN[kind].describe(config, layout, preprocessing)
    return description, [*notes, *more]
