"""What denseport records in a file's metadata, which are strings that travel with the weights: written and read here.

All other metadata of a file are kept beside these, whoever wrote them.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from denseport.errors import FormatError, LayoutError, quoted
from denseport.preprocessing import Preprocessing

# Where h5 files and PyTorch's archives keep metadata: an attribute of the root, and a record that torch ignores.
H5_ATTRIBUTE = "denseport"
ZIP_RECORD = "extra/denseport.json"

Layer = TypeVar("Layer")
Made = TypeVar("Made")

FORMAT, LAYOUT, VARIANT, SOURCE, TRAITS = "format", "layout", "variant", "source_sha256", "traits"
TRAITS_ASSUMED = "traits_assumed"
COUNTERS, PREPROCESSING, HEAD, INPUTS = "num_batches_tracked", "preprocessing", "head", "inputs"
ASSUMED = "preprocessing_assumed"


@dataclass(frozen=True)
class Record:
    """What is known of a file's net beyond its tensors.

    Attributes:
        layout: The layout of the tensors, or "".
        traits: The net's traits, or some of them, by name.
        traits_assumed: The names of those that nobody has stated and no weights have shown.
        framework: Whose parameter names and axes the tensors have, `torch` or `keras`, or "".
        variant: The architecture's name, or "".
        source_sha256: The hash of the file that this one was made from, or "".
        counters: The steps that normalisations have counted, where the file has no tensors for them: one number for
            all, or one for each by its canonical name.
        preprocessing: How images are prepared, or None.
        assumed: The name of the preprocessing that such nets usually have, where nothing states this one's, or "".
        head: The fields of each layer of a head of several.
        inputs: The fields of what the net makes of its images before the stem; none where nothing.
    """

    layout: str = ""
    traits: Mapping[str, Any] = field(default_factory=dict)
    traits_assumed: Sequence[str] = ()
    framework: str = ""
    variant: str = ""
    source_sha256: str = ""
    counters: int | Mapping[str, int] = 0
    preprocessing: Preprocessing | None = None
    assumed: str = ""
    head: Sequence[Mapping[str, Any]] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def strings(self) -> dict[str, str]:
        """The same as metadata of a file; nothing stands for what is not known."""
        strings = {
            FORMAT: "pt" if self.framework == "torch" else self.framework,  # `pt` is what transformers looks for
            LAYOUT: self.layout,
            VARIANT: self.variant,
            SOURCE: self.source_sha256,
            TRAITS: json.dumps(dict(self.traits)) if self.traits else "",
            TRAITS_ASSUMED: " ".join(self.traits_assumed),
            COUNTERS: json.dumps(self.counters) if self.counters else "",
            PREPROCESSING: json.dumps(self.preprocessing.to_dict()) if self.preprocessing else "",
            ASSUMED: self.assumed,
            HEAD: json.dumps(list(self.head)) if self.head else "",
            INPUTS: json.dumps(dict(self.inputs)) if self.inputs else "",
        }
        return {key: text for key, text in strings.items() if text}


def recorded_traits(
    metadata: Mapping[str, str], layout: str, shown: str | Path, check: Callable[..., object]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The traits that were recorded with a layout, and those of them that were assumed; none where it was another one.

    Raises:
        LayoutError: They are not such that `check` can be called with them.
    """
    if metadata.get(LAYOUT) != layout or TRAITS not in metadata:
        return {}, {}
    try:
        traits: dict[str, Any] = json.loads(metadata[TRAITS])
        check(**traits)
    except (ValueError, TypeError, RecursionError, LayoutError) as error:
        raise LayoutError(
            f"{shown}: the recorded traits are not those of a DenseNet: {quoted(error)}; write the file again from its "
            "source"
        ) from None
    assumed = metadata.get(TRAITS_ASSUMED, "").split()
    stated = {name: value for name, value in traits.items() if name not in assumed}
    return stated, {name: value for name, value in traits.items() if name in assumed}


def recorded_head(
    metadata: Mapping[str, str], layout: str, shown: str | Path, make: Callable[..., Layer]
) -> list[Layer]:
    """The layers of a head of several that were recorded with a layout; none where it was another one.

    Raises:
        LayoutError: They are not such that `make` can be called with the fields of each.
    """
    if metadata.get(LAYOUT) != layout or HEAD not in metadata:
        return []
    try:
        return [make(**fields) for fields in json.loads(metadata[HEAD])]
    except (ValueError, TypeError, RecursionError, LayoutError) as error:
        raise LayoutError(
            f"{shown}: the recorded head is none of a DenseNet: {quoted(error)}; write the file again from its source"
        ) from None


def recorded_inputs(
    metadata: Mapping[str, str], layout: str, shown: str | Path, make: Callable[[Any], Made]
) -> Made | None:
    """What `make` makes of the inputs that were recorded with a layout; None where it was another one.

    Raises:
        LayoutError: They are not such that it makes anything of them.
    """
    if metadata.get(LAYOUT) != layout or INPUTS not in metadata:
        return None
    try:
        return make(json.loads(metadata[INPUTS]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, LayoutError) as error:
        raise LayoutError(
            f"{shown}: the recorded inputs are none of its net: {quoted(error)}; write the file again from its source"
        ) from None


def recorded_counters(metadata: Mapping[str, str], norms: Collection[str], shown: str | Path) -> dict[str, int]:
    """The steps that each of the normalisations has counted; none where nothing was recorded of it.

    Raises:
        LayoutError: They are neither one number nor a table of numbers, of 64 bits.
    """
    if not metadata.get(COUNTERS):
        return {}
    try:
        recorded = json.loads(metadata[COUNTERS])
        counters = recorded if isinstance(recorded, dict) else dict.fromkeys(norms, recorded)
        counts = {norm: operator.index(counters[norm]) for norm in norms if norm in counters}
        if any(count.bit_length() > 63 for count in counts.values()):
            raise ValueError("a count has more than 64 bits")
        return counts
    except (ValueError, TypeError, RecursionError):
        raise LayoutError(
            f"{shown}: the recorded {COUNTERS} is neither a number nor a table of numbers; write the file again from "
            "its source"
        ) from None


def recorded_preprocessing(metadata: Mapping[str, str], shown: str | Path) -> Preprocessing | None:
    """How the images of a file's net are prepared, or None where its metadata do not say it.

    Raises:
        FormatError: What they hold is no preprocessing.
    """
    if PREPROCESSING not in metadata:
        return None
    try:
        table = json.loads(metadata[PREPROCESSING])
    except (ValueError, RecursionError):
        raise FormatError(f"{shown}: preprocessing is no JSON; correct the file's metadata") from None
    return Preprocessing.from_dict(table, str(shown))
