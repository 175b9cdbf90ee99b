"""The two files of a parity check: what is in each, and which framework or library is to run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from denseport import formats
from denseport.checkpoint import Checkpoint, dtype_of
from denseport.errors import LayoutError, UsageError, quoted
from denseport.layouts import Detection, Weights, to_canonical
from denseport.load import opened
from denseport.metadata import recorded_preprocessing
from denseport.net.config import DenseNetConfig, Traits
from denseport.preprocessing import Preprocessing, find_preprocessing
from denseport.running.libraries import LIBRARIES

OTHER_FRAMEWORK = {"torch": "keras", "keras": "torch"}
NARROW = {"float16": 11, "bfloat16": 8}  # significand bits


@dataclass(frozen=True)
class Side:
    """One of the two files.

    Attributes:
        path: The file.
        found: Its layout, and the role of each of its tensors.
        native: The framework that the layout belongs to.
        framework: The framework that is to run it.
        config: Its architecture, without the classifier where that takes no part.
        narrow: The narrowest dtype below float32 among its tensors, or "".
        preprocessing: How its images are prepared, as its metadata say or else its layout.
        dropped: Whether the file holds a classifier that takes no part.
        library: The library whose own model is to load it, or None for the twin.
    """

    path: Path
    found: Detection
    native: str
    framework: str
    config: DenseNetConfig
    narrow: str
    preprocessing: Preprocessing
    dropped: bool
    library: str | None = None

    @property
    def layout(self) -> str:
        """Its layout's name, or the TOML file that the user named."""
        return self.found.layout.reference


@dataclass(frozen=True)
class Stored:
    """What a file holds, by canonical name: its weights with channels in the order of nets that append, and its names.

    Attributes:
        weights: The weights, under the traits with which they ran.
        checkpoint: The file's tensors under their own names.
        roles: The name in the file of each canonical tensor.
    """

    weights: Weights
    checkpoint: Checkpoint
    roles: Mapping[str, str]

    def entry(self, canonical: str) -> tuple[str, tuple[int, ...]]:
        """The name in the file, and the shape there in its own axis order."""
        return self.roles[canonical], self.checkpoint.tensors[self.roles[canonical]].shape


@contextmanager
def stored(side: Side, traits: Traits, rounded: str | None) -> Iterator[Stored]:
    """A side's file, read again; `traits` and `rounded` are those with which it ran. Closed when the block ends."""
    with formats.read(side.path) as checkpoint:
        found = side.found
        weights = to_canonical(checkpoint, found).concatenated("old-first")
        weights = weights.without_head() if side.config.num_classes is None else weights
        weights = weights if rounded is None else weights.cast(dtype_of(rounded))
        yield Stored(replace(weights, config=weights.config.replace(traits=traits)), checkpoint, found.roles)


def both_sides(
    a: Path,
    b: Path,
    layout_a: str | Path | None,
    layout_b: str | Path | None,
    head: Literal["keep", "drop"],
    against: Sequence[str],
) -> tuple[Side, Side]:
    """The two files, each with a framework of its own: the one it belongs to, as far as that goes.

    Raises:
        FormatError: A file cannot be read.
        LayoutError: One has no known layout, they are not the same architecture, or a library has no such model.
        UsageError: `against` names libraries of one framework twice, or none that exists.
        FrameworkMissingError: A library of `against` is not installed.
    """
    first, second = _side(a, layout_a, head), _side(b, layout_b, head)
    plain = [side.config.replace(traits=DenseNetConfig().traits) for side in (first, second)]
    if plain[0] != plain[1]:
        raise LayoutError(
            f"{b}: is a {plain[1].variant} with {plain[1].num_classes} classes and {plain[1].in_channels} channels, "
            f"{a} a {plain[0].variant} with {plain[0].num_classes} and {plain[0].in_channels}; only equal "
            "architectures compare"
        )
    libraries = _libraries(against)
    if first.native == second.native:
        # Where the second file is to be loaded by a library of its framework, the first one runs in the other.
        runs = first.native if first.native not in libraries else OTHER_FRAMEWORK[first.native]
        first, second = replace(first, framework=runs), replace(second, framework=OTHER_FRAMEWORK[runs])
    return _with_library(first, libraries), _with_library(second, libraries)


def _side(path: Path, layout: str | Path | None, head: Literal["keep", "drop"]) -> Side:
    with opened(path, layout, head=head) as (checkpoint, found):
        native = found.framework.runs_in
        return Side(
            path=path,
            found=found,
            native=native,
            framework=native,
            config=found.config.without_head() if head == "drop" else found.config,
            narrow=_narrow(checkpoint, found),
            preprocessing=recorded_preprocessing(checkpoint.metadata, path)
            or find_preprocessing(found.layout.preprocessing),
            dropped=found.config.num_classes is not None and head == "drop",
        )


def _libraries(against: Sequence[str]) -> dict[str, str]:
    """The libraries by the framework that each belongs to."""
    libraries: dict[str, str] = {}
    for name in against:
        if (known := libraries.setdefault(LIBRARIES[name].framework, name)) != name:
            raise UsageError(f"--against {known} and --against {name} are both of one framework; give one of them")
    return libraries


def _with_library(side: Side, libraries: dict[str, str]) -> Side:
    name = libraries.get(side.framework)
    if name is None:
        return side
    if side.native != side.framework:
        raise LayoutError(
            f"{side.path}: is a file of layout {quoted(side.layout)}, which {name} does not load; convert it first, "
            f"to --to-layout {LIBRARIES[name].layouts[0]}"
        )
    if side.dropped:
        raise UsageError(f"{side.path}: --against {name} runs all that a file holds; keep the head, or leave it out")
    with formats.read(side.path) as checkpoint:
        LIBRARIES[name].require(checkpoint, side.layout, side.config)
    return replace(side, library=name)


def _narrow(checkpoint: Checkpoint, found: Detection) -> str:
    dtypes = {str(checkpoint.tensors[name].dtype) for name in found.roles.values()}
    return min(dtypes & NARROW.keys(), key=NARROW.__getitem__, default="")
