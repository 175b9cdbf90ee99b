"""A layout: one ecosystem's names for a DenseNet, and the facts of its architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from denseport.layouts.frameworks import KERAS, TORCH, Framework
from denseport.layouts.template import SCALE, Spelling, Template
from denseport.net.config import DenseNetConfig, Traits
from denseport.net.graph import CLASSIFIER, Kind, Node, head_layers, layers

# What the epsilons of frameworks that mean 1e-5 differ by at most; it moves the outputs no more than rounding does.
EPSILON_ROUNDING = 2e-8

# What another trait does. Sizes are relative to the largest logit of a DenseNet-121; they depend on the weights.
EFFECTS = {
    "epsilon": "which moves the logits by 1e-5 or so for 1e-6 more, and by 1e-2 or so for 1e-3",
    "padding": "which shifts the stem at even image sizes and moves the logits there by 1 to 5 %",
    "stem_stride": "which changes the size of every map",
    "stem_pool": "which changes the size or the values of every map",
    "final_activation": "which lets negative features through to the classifier, or cuts them off",
    "activation": "which changes what every layer makes of its input",
    "transition_activation": "which lets negative features through every transition, or cuts them off",
    "negative_slope": "which changes what becomes of negative values",
    "head_pool": "which changes what the classifier sees",
}

# The traits by which two nets with the same weights compute something else. Weights are reordered for another order of
# concatenation, and what follows the logits is not compared.
COMPARED = tuple(EFFECTS)

# What the paper's nets have, and so those of a layout that has traits and does not say otherwise.
PAPERS: Mapping[str, Any] = MappingProxyType(
    {name: getattr(Traits(), name) for name in ("activation", "transition_activation", "negative_slope", "head_pool")}
)

OWN = "denseport"
Names = Mapping[str, tuple[Template, ...]]


@dataclass(frozen=True)
class Variant:
    """Traits that only some nets of a layout have: those whose configuration has the values of `when`."""

    when: Mapping[str, Any]
    traits: Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """One layout; the mapping from its names back to the canonical ones is derived from `names`.

    A layout file has a key for each attribute but `name` and `file`; a missing key means the default. README.md in this
    folder is the reference for those who write one.

    Attributes:
        name: What `--from-layout` and `--to-layout` call it: the name of its file without `.toml`.
        file: The TOML file that a user named, or "" for a layout that ships with the package.
        frameworks: Whose parameter names and axes apply: `torch`, `keras` or `theano` (Keras on Theano, with channels
            first); the one that a format is native to is taken where there are several.
        title: What it is, in a line.
        source: Upstream file and symbol that the facts were read from.
        note: What a user should know wherever the layout is detected.
        preprocessing: What the layout's library does to images first, by its name in
            `denseport.preprocessing.PREPROCESSING`.
        names: Canonical layer template to this layout's spelling, or to a list of them: all are read, the first is
            written.
        plain: The same for the layers of nets without bottleneck, where those are called otherwise.
        scales: Canonical normalisation template to the spellings of the scale layer that follows it, folded when read.
        numbered: Class names of layers that have only a class and a number, by kind (`conv`, `norm`, `dense`), and
            perhaps the name of the `stem`'s convolution, the only one with a name; then there are no `names`.
        traits: What every net of this layout has; a trait that is not named is free, or one of `PAPERS`; all are free
            where none is named.
        variants: Traits that only some of its nets have.
        architecture: Fields of `DenseNetConfig` that are the same in every net of this layout.
        builds: What the layout's library can build, beyond `architecture`; `*` stands for any value but None.
        extra: Tensors that such a net may have and that are none of its weights, by the last part of their names; they
            are left out, and it is said.
        nested: The name of the model within the model that holds everything but the classifier.
        counters: Whether the step counters of normalisations are written.
        nameless: Whether a file that records no layer names is taken to be of this layout.
        detected: Whether the layout is recognised by itself; else it must be asked for.
    """

    name: str
    frameworks: tuple[Framework, ...]
    file: str = ""
    title: str = ""
    source: str = ""
    note: str = ""
    preprocessing: str = "none"
    names: Names = field(default_factory=dict)
    plain: Names = field(default_factory=dict)
    scales: Names = field(default_factory=dict)
    numbered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    traits: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    architecture: Mapping[str, Any] = field(default_factory=dict)
    builds: Mapping[str, Any] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    nested: str = ""
    counters: bool = False
    nameless: bool = False
    detected: bool = True

    @property
    def reference(self) -> str:
        """What `find_layout` finds the layout by."""
        return self.file or self.name

    @property
    def is_own(self) -> bool:
        """Whether it is this project's, whose files say in their metadata what names and shapes do not."""
        return self.name == OWN

    def framework_for(self, native: str) -> Framework:
        """The framework whose conventions a file takes, given the one that its format is native to."""
        return next((framework for framework in self.frameworks if framework.name == native), self.frameworks[0])

    def traits_of(self, config: DenseNetConfig) -> dict[str, Any]:
        """The traits that the layout gives to a net of an architecture."""
        traits = {**(PAPERS if self.traits else {}), **self.traits}
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
        usual = {**self.names, **{f"{norm}{SCALE}": spellings for norm, spellings in self.scales.items()}}
        plain = ({**usual, **self.plain},) if self.plain else ()
        return tuple(Spelling(self.name, names) for names in (usual, *plain))

    def layer_names(self, config: DenseNetConfig) -> dict[str, str]:
        """The layout's name for each layer of an architecture, by its canonical name, in graph order.

        Raises:
            LayoutError: The layout has no name for one of them.
        """
        if not self.numbered:
            spelling, of_head = self.spelling(config), head_layers(config)
            return {
                layer.name: self._of_head(layer, spelling) if layer.name in of_head else spelling.layer(layer.name)
                for layer in layers(config)
            }
        names, counts = {}, Counter[Kind]()
        for layer in layers(config):
            if layer.name == "stem.conv" and "stem" in self.numbered:
                names[layer.name] = self.numbered["stem"][0]
            else:  # as Keras names layers that have no name: a class, and how many of it came before
                number = counts[layer.kind]
                names[layer.name] = self.numbered[layer.kind][0] + (f"_{number}" if number else "")
                counts[layer.kind] += 1
        return names

    def _of_head(self, layer: Node, spelling: Spelling) -> str:
        """The name of a layer of a head of several: that of a child of the classifier, then an `nn.Sequential`.

        Keras knows no such thing. There it has its canonical name without a dot, which Keras does not like in names.
        """
        classifier = spelling.layer(CLASSIFIER)
        if classifier == CLASSIFIER:
            return layer.name
        number = layer.name.removeprefix(f"head.{layer.kind}")
        return f"{classifier}.{number}" if self.frameworks[0].runs_in == "torch" else layer.name.replace(".", "_")

    def nesting(self, config: DenseNetConfig) -> dict[str, str]:
        """The layers that an inner model holds, each with that model's name; none where there is no classifier."""
        if not self.nested or config.num_classes is None:
            return {}
        head = {CLASSIFIER, *head_layers(config)}
        return {name: self.nested for canonical, name in self.layer_names(config).items() if canonical not in head}

    def cannot_build(self, config: DenseNetConfig) -> str:
        """Why the layout's library cannot build an architecture, or "" where it can."""
        for fact, wanted in {**self.architecture, **self.builds}.items():
            value = getattr(config, fact)
            if (value is None) if wanted == "*" else (value != wanted):
                shown = "an uncommon value" if value is None else value
                return f"layout {self.name} has {fact} {wanted}, this net has {shown}"
        return ""

    def mismatches(self, config: DenseNetConfig) -> dict[str, str]:
        """A sentence for each trait in which a net of this layout computes something else than `config`.

        Only those of `COMPARED` count.
        """
        sentences = {}
        for trait, wanted in self.traits_of(config).items():
            value = getattr(config.traits, trait)
            close = trait == "epsilon" and abs(value - wanted) <= EPSILON_ROUNDING
            if trait in COMPARED and value != wanted and not close:
                sentences[trait] = f"layout {self.name} has {trait} {wanted}, this net has {value}, {EFFECTS[trait]}"
        return sentences


BY_SHAPE = Layout(
    name="by-shape",
    frameworks=(TORCH, KERAS),
    title="names of no layout: roles by shapes, numbers and order",
    note="its names are those of no known layout: its layers were told apart by shapes, by the numbers in their names "
    "and by their order",
    detected=False,
)
"""Stands for a layout where a net's own names are of none; nothing is written in it."""
