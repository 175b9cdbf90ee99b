"""A layout: one ecosystem's names for a DenseNet, and the facts of its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from denseport.errors import LayoutError
from denseport.layouts.frameworks import Framework
from denseport.layouts.template import Template, canonical_template, outline
from denseport.net.config import DenseNetConfig
from denseport.net.graph import Kind, kind, layers

# What the epsilons of frameworks that mean 1e-5 differ by at most; it moves the outputs no more than rounding does.
EPSILON_ROUNDING = 2e-8

Names = Mapping[str, tuple[Template, ...]]


@dataclass(frozen=True)
class Variant:
    """Traits that only some nets of a layout have: those whose configuration has the values of `when`."""

    when: Mapping[str, Any]
    traits: Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """One layout; the mapping from its names back to the canonical ones is derived from `names`.

    Attributes:
        name: What `--from-layout` and `--to-layout` call it.
        title: What it is, in a line.
        source: Upstream file and symbol that the facts were read from.
        note: What a user should know wherever the layout was detected, or "".
        frameworks: Whose parameter names and axes apply; a format's own framework is taken where there are several.
        names: Canonical layer template to this layout's spellings; all are read, the first is written.
        plain: The same for the layers of nets without bottleneck, where those are called otherwise.
        scales: Canonical normalisation template to the spellings of the scale layer that follows it, folded when read.
        numbered: Class names of layers that have only a class and a number, by kind, and perhaps the name of the
            `stem`'s convolution, the only one with a name; then `names` is empty.
        traits: What every net of this layout has; a trait that is not named is free.
        variants: Traits that only some of its nets have.
        architecture: Fields of `DenseNetConfig` that are the same in every net of this layout.
        builds: What the layout's own library can build, beyond `architecture`; `*` stands for any value but None.
        extra: Tensors that such a net may have and that are none of its weights; they are left out, and it is said.
        nested: The name of the model within the model that holds everything but the classifier, or "".
        counters: Whether the step counters of normalisations are written.
        nameless: Whether a file that records no layer names is taken to be of this layout.
        detected: Whether the layout is recognised by itself; else it must be asked for.
        preprocessing: What the layout's own library does to images first, by its name in `PREPROCESSING`.
        file: The TOML file that a user named, or "" for a layout that ships with the package.
    """

    name: str
    title: str
    source: str
    note: str
    frameworks: tuple[Framework, ...]
    names: Names
    plain: Names
    scales: Names
    numbered: Mapping[str, tuple[str, ...]]
    traits: Mapping[str, Any]
    variants: tuple[Variant, ...]
    architecture: Mapping[str, Any]
    builds: Mapping[str, Any]
    extra: tuple[str, ...]
    nested: str
    counters: bool
    nameless: bool
    detected: bool
    preprocessing: str
    file: str

    def framework_for(self, native: str) -> Framework:
        """The framework whose conventions a file takes, given the one that its format is native to."""
        return next((framework for framework in self.frameworks if framework.name == native), self.frameworks[0])

    def traits_of(self, config: DenseNetConfig) -> dict[str, Any]:
        """The traits that the layout gives to a net of an architecture."""
        traits = dict(self.traits)
        for variant in self.variants:
            if all(getattr(config, fact) == value for fact, value in variant.when.items()):
                traits |= variant.traits
        return traits

    def spelling(self, config: DenseNetConfig) -> Spelling:
        """How the layout calls the layers of an architecture."""
        return self.spellings[bool(self.plain) and config.bottleneck_width is None]

    @cached_property
    def spellings(self) -> tuple[Spelling, ...]:
        """How the layout calls layers: of nets with a bottleneck, and of those without where that is otherwise."""
        both = ({**self.names, **self.plain},) if self.plain else ()
        return tuple(Spelling(self, names) for names in (self.names, *both))

    def cannot_build(self, config: DenseNetConfig) -> str:
        """Why the layout's own library cannot build an architecture, or "" where it can."""
        for fact, wanted in {**self.architecture, **self.builds}.items():
            value = getattr(config, fact)
            if (value is None) if wanted == "*" else (value != wanted):
                shown = "an uncommon value" if value is None else value
                return f"layout {self.name} has {fact} {wanted}, this net has {shown}"
        return ""

    def differs(self, config: DenseNetConfig) -> dict[str, tuple[Any, Any]]:
        """The traits in which a net of this layout computes something else than `config`: the layout's, the net's.

        Concatenation order is none of them, since weights are reordered for it; nor is what follows the logits.
        """
        different = {}
        for trait, own in self.traits_of(config).items():
            value = getattr(config.traits, trait)
            close = trait == "epsilon" and abs(value - own) <= EPSILON_ROUNDING
            if trait not in ("head_activation", "concatenation") and value != own and not close:
                different[trait] = (own, value)
        return different

    def nesting(self, config: DenseNetConfig) -> dict[str, str]:
        """The layers that an inner model holds, each with that model's name; none where there is no classifier."""
        if not self.nested or config.num_classes is None:
            return {}
        body = [layer.name for layer in layers(config) if layer.kind != "dense"]
        return {self.spelling(config).layer(layer): self.nested for layer in body}


class Spelling:
    """A layout's names for layers, in both directions."""

    def __init__(self, layout: Layout, names: Names) -> None:
        self._layout = layout
        self._names = names
        every = [(Template(canonical), own, "") for canonical, spellings in names.items() for own in spellings]
        every += [
            (Template(canonical), own, ".scale") for canonical, spellings in layout.scales.items() for own in spellings
        ]
        # A name without indices goes before a template that would fit it too.
        self._readings: dict[str, list[tuple[Template, Template, str]]] = {}
        for reading in sorted(every, key=lambda reading: len(reading[1].letters)):
            self._readings.setdefault(reading[1].outline, []).append(reading)

    def layer(self, canonical: str) -> str:
        """The layout's name for a canonical layer.

        Raises:
            LayoutError: The layout has no such layer.
        """
        return self._spelled(self._names, canonical)

    def scale(self, canonical: str) -> str:
        """The layout's name for the scale layer that follows a canonical normalisation."""
        return self._spelled(self._layout.scales, canonical)

    def canonical(self, layer: str) -> str | None:
        """The canonical name of one of this layout's layers, or None where it is none.

        The scale layer of a normalisation is that one's canonical name and `.scale`.
        """
        for canonical, own, suffix in self._readings.get(outline(layer), ()):
            if (indices := own.indices(layer)) is not None:
                return canonical.format(indices) + suffix
        return None

    def _spelled(self, names: Names, canonical: str) -> str:
        template, indices = canonical_template(canonical)
        if template not in names:
            raise LayoutError(
                f"layout {self._layout.name} has no name for {canonical}; choose another --to-layout, such as denseport"
            )
        return names[template][0].format(indices)


class Numbering:
    """The names that Keras gives to layers that have none: a class and how many of it came before, counted from 0."""

    def __init__(self, layout: Layout) -> None:
        self._classes = layout.numbered
        self._counts: dict[Kind, int] = {}

    def layer(self, canonical: str) -> str:
        """The name of the next layer of its kind."""
        if canonical == "stem.conv" and "stem" in self._classes:
            return self._classes["stem"][0]
        of = kind(canonical)
        number = self._counts.get(of, 0)
        self._counts[of] = number + 1
        return self._classes[of][0] + (f"_{number}" if number else "")
