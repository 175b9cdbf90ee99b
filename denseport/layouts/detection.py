"""What is found in a checkpoint: a layout, the architecture of the net, and the role of each tensor."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from denseport.checkpoint import Checkpoint
from denseport.errors import listed, quoted
from denseport.evidence import Evidence
from denseport.layouts.frameworks import FRAMEWORKS, KERAS_ON_THEANO, Framework
from denseport.layouts.parse import find_layout
from denseport.layouts.prefixes import branches
from denseport.layouts.spec import Layout
from denseport.layouts.traits import KNOWN_AS, Origin
from denseport.net.config import DenseNetConfig
from denseport.net.graph import reduction

# What nets call the figures by which they prepare images.
FIGURE_OF_IMAGES = re.compile(r"(^|[._/])(mean|std)$")


@dataclass(frozen=True)
class Detection:
    """A checkpoint that fits a layout: the architecture it describes and the role of each of its tensors.

    Attributes:
        layout: The layout whose names fit.
        framework: Whose parameter names and axes the tensors have.
        config: The architecture that names, shapes, layout and file together describe.
        origins: Where each trait of `config` comes from, by the trait's name; see `traits.decide`.
        roles: Canonical tensor name to the name in the checkpoint, in graph order; scale layers and step counters at
            the end.
        dropped: Tensors that were left out: of a head that was not asked for, or none of a net's weights.
        wrapper: Where in the file the tensors stand (`state_dict`, `model_weights`), or "".
        prefix: What stood before the names and was taken off, or "".
        within: Modules around its own, whose names stood within the names of tensors and were taken off.
        instead: What the layout has there in its place (`features.`), or "".
        head: What the checkpoint calls the classifier where the layout calls it otherwise, or "".
        reading: What else a user should know of how the net was read.
        findings: What the weights show that layout, file or user say otherwise, and what contradicts itself.
        evidence: All that the weights show, or None where they were not looked at; it does not cross processes.
        described: Whether the file's description says which layer is which.
    """

    layout: Layout
    framework: Framework
    config: DenseNetConfig
    origins: Mapping[str, Origin]
    roles: Mapping[str, str]
    dropped: tuple[str, ...] = ()
    wrapper: str = ""
    prefix: str = ""
    within: tuple[str, ...] = ()
    instead: str = ""
    head: str = ""
    reading: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    evidence: Evidence | None = field(default=None, compare=False)
    described: bool = False

    @property
    def known_as(self) -> dict[str, str]:
        """Whether each trait is `stated`, `shown` or `assumed`."""
        return {name: KNOWN_AS[origin] for name, origin in self.origins.items()}

    @property
    def assumed(self) -> tuple[str, ...]:
        """The traits that change what is computed and that neither the file nor the layout states."""
        idle = {"head_activation", *({"negative_slope"} if self.config.traits.activation != "leaky-relu" else ())}
        return tuple(name for name, origin in self.origins.items() if origin == "usual" and name not in idle)

    def numbered_like(self, other: DenseNetConfig) -> Detection:
        """The same net with dropout counted in its head where another net has it: layers then have its names."""
        own, theirs = self.config.head_layers, other.head_layers
        places = [[n for n, layer in enumerate(each) if layer.kind != "dropout"] for each in (own, theirs)]
        if [own[n] for n in places[0]] != [theirs[n] for n in places[1]]:
            return self
        names = {f"head.{own[n].kind}{n}": f"head.{own[n].kind}{m}" for n, m in zip(*places, strict=True)}
        parts = {role: role.rpartition(".") for role in self.roles}
        roles = {
            f"{names.get(parts[role][0], parts[role][0])}.{parts[role][2]}": name for role, name in self.roles.items()
        }
        return replace(self, config=self.config.replace(head_layers=theirs), roles=roles)

    @property
    def image_size(self) -> str:
        """The size of the images whose last map a head takes flattened."""
        sides = map(operator.mul, self.config.head_shape, reduction(self.config))
        return "x".join(map(str, sides))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, from which another process that reads the same file need not detect again."""
        return {
            **vars(self),
            "layout": self.layout.reference,
            "framework": [self.framework.name, self.framework.rotated],
            "config": self.config.to_dict(),
            "evidence": None,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Detection:
        """The detection that `to_dict` gave the values of.

        Raises:
            LayoutError: The layout's TOML file is no longer there, or is no layout any more.
        """
        frameworks = {(each.name, each.rotated): each for each in (*FRAMEWORKS.values(), KERAS_ON_THEANO)}
        values = {
            "layout": find_layout(plain["layout"]),
            "framework": frameworks[tuple(plain["framework"])],
            "config": DenseNetConfig.from_dict(plain["config"]),
            "dropped": tuple(plain["dropped"]),
            "within": tuple(plain["within"]),
            "reading": tuple(plain["reading"]),
            "findings": tuple(plain["findings"]),
        }
        return cls(**{**plain, **values})

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """What a user should know of how the tensors were found."""
        values = ", ".join(f"{trait} {getattr(self.config.traits, trait)}" for trait in self.assumed)
        of_images = [name for name in self.dropped if FIGURE_OF_IMAGES.search(name)]
        figures = [name for name in of_images if checkpoint.tensors[name].size == self.config.in_channels]
        by_order = checkpoint.nameless and not self.described
        weights_alone = not self.described and not checkpoint.described_by
        unseen = (
            "; another pool before it, or an activation behind it, would not show in a file of weights"
            if weights_alone
            else ""
        )
        notes = {
            f"the tensors stand under {quoted(self.wrapper)}": self.wrapper != checkpoint.wrapper,
            f"the prefix {quoted(self.prefix)} was taken off": self.prefix and not self.instead,
            f"the modules {listed(self.within)} within the names were taken off": self.within,
            f"the names were read with {self.instead} before them": self.instead and not self.prefix,
            f"{self.instead} was read in place of the prefix {quoted(self.prefix)}": self.instead and self.prefix,
            f"{quoted(self.head)} was taken for the classifier{unseen}": self.head and not self.config.head_layers,
            "the classifier has no bias": not self.config.classifier_bias,
            **dict.fromkeys((*checkpoint.notes, *self.reading), True),
            f"the head takes the whole last map, that of images of {self.image_size} pixels": self.config.head_shape,
            f"left out: {branches(self.dropped)}": self.dropped,
            f"{' and '.join(map(quoted, figures))} have a value for each channel of the image: where they prepare it, "
            "prepare it before it is fed to what is written": figures,
            f"the file records no layer names: order and shapes fit layout {self.layout.name}, but those of other "
            "Keras code may fit as well; give --from-layout where the net is not of that layout": by_order,
            f"assumed, since neither the file nor its layout states it: {values}": values and not by_order,
            self.layout.note: self.layout.note,
        }
        return [*(note for note, holds in notes.items() if holds), *self.findings]
