"""What is in a file, DenseNet or not, and whether it can be converted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from denseport.errors import LayoutError
from denseport.layouts import Net, Suspicion, find_layout, survey
from denseport.net.config import DenseNetConfig
from denseport.net.graph import parameters
from denseport.options import Deriving, Inspecting, checked
from denseport.source import Source


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    Attributes:
        file: The file.
        format: Its format; `container` says which kind and version.
        tensors: How many tensors it holds, and `values` how many numbers in all of them.
        dtypes: The dtypes that occur.
        wrapper: Where in the file the tensors stand, or "".
        others: What else it holds, by name.
        nets: Each net in it: where, of what kind, in which layout and of how many tensors.
        beside: What tensors it holds that belong to none of them, or "".
        metadata: The strings that travel with the weights.
        layout: The layout that was detected, or "".
        framework: Whose parameter names and axes the tensors have, or "".
        variant: The architecture's name, or its parameters in words, or "".
        config: The architecture with its traits, or None.
        origins: Whether each trait is `stated`, `shown` or `assumed`.
        evidence: What the weights show, in words with their figures, by what it is of.
        parameters: How many trainable parameters the architecture has, or None.
        suspicion: Tensors with suspicious values, or None where there is no DenseNet.
        notes: What a user should know of how the tensors were found.
        problem: Why the file cannot be converted, or "".
    """

    file: str
    format: str
    container: str
    tensors: int
    values: int
    dtypes: tuple[str, ...]
    wrapper: str
    others: tuple[str, ...]
    metadata: dict[str, str]
    nets: tuple[Net, ...] = ()
    beside: str = ""
    layout: str = ""
    framework: str = ""
    variant: str = ""
    config: DenseNetConfig | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)
    parameters: int | None = None
    suspicion: Suspicion | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def derive(path: str | Path, **options: Unpack[Deriving]) -> str:
    """The TOML text of a layout that fits a DenseNet whose names no known layout has.

    Args:
        path: The file.
        options: Which net is meant, and what is said of it: see `denseport.options.Deriving`. The layout has the
            traits.

    Raises:
        UsageError: There is no such file, or there is no such option.
        FormatError: It cannot be read.
        LayoutError: It is no DenseNet; the message names the first layer that breaks the pattern.
    """
    from denseport.layouts.derive import derive as derived

    chosen = checked(Deriving, options)
    with Source(Path(path)) as source:
        return derived(source.checkpoint, chosen["traits"], net=chosen["net"], drop_head=chosen["head"] == "drop")


def inspect(path: str | Path, **options: Unpack[Inspecting]) -> Inspection:
    """Says what a file holds, and whether `denseport.convert` would take it as it is.

    Args:
        path: The file.
        options: Its layout, and what is said of its net: see `denseport.options.Inspecting`.

    Raises:
        UsageError: There is no such file, or there is no such option.
        FormatError: It is broken, hostile, or of no known format.
        LayoutError: There is no such layout.
    """
    chosen = checked(Inspecting, options)
    layout = chosen["layout"]
    with Source(Path(path), layout, net=chosen["net"], traits=chosen["traits"]) as source:
        checkpoint = source.checkpoint
        inspection = Inspection(
            file=str(path),
            format=checkpoint.format,
            container=checkpoint.container,
            tensors=len(checkpoint.tensors),
            values=sum(tensor.size for tensor in checkpoint.tensors.values()),
            dtypes=checkpoint.dtypes,
            wrapper=checkpoint.wrapper,
            others=checkpoint.others,
            metadata=dict(checkpoint.metadata),
        )
        if layout is not None:
            find_layout(layout)
        try:
            nets, beside = survey(checkpoint, layout)
            inspection = dataclasses.replace(inspection, nets=tuple(nets), beside=beside)
            found, suspicion = source.detection, source.suspicion
        except LayoutError as error:
            return dataclasses.replace(inspection, problem=str(error).removeprefix(f"{path}: "))
        return dataclasses.replace(
            inspection,
            wrapper=found.wrapper,
            layout=found.layout.name,
            framework=found.framework.name,
            variant=found.config.variant,
            config=found.config,
            origins=found.known_as,
            evidence=found.evidence.figures if found.evidence else {},
            parameters=parameters(found.config),
            suspicion=suspicion,
            notes=source.notes,
            problem=source.undecided or source.unsound,
        )
