"""The two files of a parity check: the net that each is run as, and the framework or library that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from denseport.checkpoint import dtype_of
from denseport.errors import LayoutError, UsageError, quoted
from denseport.layouts import Weights
from denseport.layouts.spec import EPSILON_ROUNDING
from denseport.net.config import DenseNetConfig, Inputs, Traits
from denseport.running import whole_models
from denseport.running.images import ImageSet
from denseport.running.libraries import LIBRARIES
from denseport.running.request import TWIN, WHOLE_MODEL
from denseport.source import Source

OTHER_FRAMEWORK = {"torch": "keras", "keras": "torch"}
NARROW = {"float16": 11, "bfloat16": 8}  # significand bits


@dataclass(frozen=True)
class Side:
    """One of the two files, and how it is run.

    Attributes:
        source: The file.
        framework: The framework that runs it.
        config: The net that is run: the file's, without the classifier where that takes no part, under the traits to
            run it with.
        model: What runs it: the twin, the whole model that it holds, or a library's, as `Pass.model` has it.
        reason: Why it is the twin, which computes what denseport reads from the file; "" where it is not.
        rounded: The dtype that the weights of both files are rounded to first, the narrower one's, or None.
        prepared: What was made of images x for it, as the other file's net does by itself, or "".
    """

    source: Source
    framework: str
    config: DenseNetConfig
    model: str = TWIN
    reason: str = ""
    rounded: str | None = None
    prepared: str = ""

    @classmethod
    def of(cls, source: Source) -> Side:
        """A file in the framework that its layout belongs to, under its traits.

        Raises:
            LayoutError: It fits no layout, or several.
        """
        return cls(source, source.detection.framework.runs_in, source.weights.config)

    @property
    def layout(self) -> str:
        """The layout's name, or the TOML file that the user named."""
        return self.source.detection.layout.reference

    @property
    def file_config(self) -> DenseNetConfig:
        """The net that is run, under the traits of the file."""
        return self.source.weights.config.replace(inputs=self.config.inputs)

    @property
    def keeps_its_traits(self) -> bool:
        """Whether it cannot run under other traits than its own."""
        return self.model != TWIN

    def taking(self, images: Sequence[ImageSet]) -> Side:
        """The side, run by what takes these images."""
        if self.model != WHOLE_MODEL:
            return self
        model, reason = whole_models.choice(self.source.checkpoint, self.framework, images)
        return replace(self, model=model, reason=reason)

    @property
    def image_size(self) -> tuple[int | None, ...]:
        """The spatial sizes of the images that it takes alone, None where one is free; () where all are."""
        return whole_models.image_size(self.source.checkpoint.description) if self.model == WHOLE_MODEL else ()

    @cached_property
    def narrow(self) -> str:
        """The narrowest dtype below float32 among the file's tensors, or ""."""
        dtypes = {str(tensor.dtype) for tensor in self.source.weights.tensors.values()}
        return min(dtypes & NARROW.keys(), key=NARROW.__getitem__, default="")

    @cached_property
    def weights(self) -> Weights:
        """The weights that are run, by canonical name, with channels in the order of nets that append features."""
        weights = self.source.weights.for_net(self.config.replace(concatenation="old-first"))
        return weights if self.rounded is None else weights.cast(dtype_of(self.rounded))

    def as_twin(self, reason: str) -> Side:
        """The same file run by the twin."""
        return replace(self, model=TWIN, reason=reason)

    def entry(self, canonical: str) -> tuple[str, tuple[int, ...]]:
        """A tensor's name in the file, and its shape there in the file's axis order."""
        name = self.source.detection.roles[canonical]
        return name, self.source.checkpoint.tensors[name].shape


def both_sides(
    a: Source, b: Source, against: Sequence[str], *, same_traits: bool, in_float64: bool
) -> tuple[Side, Side]:
    """The two files, each with a framework of its own: the one it belongs to, as far as that goes.

    Args:
        a: The reference file.
        b: The other file.
        against: The libraries whose models take the twin's place.
        same_traits: Whether the second file runs under the first one's traits.
        in_float64: Whether something is compared in float64.

    Raises:
        LayoutError: A file has no known layout, they are not the same architecture, or a library has no such model.
        UsageError: `against` names libraries of one framework twice, or a library cannot run what is to be compared.
        FrameworkMissingError: A library of `against` is not installed.
    """
    b.number_head_like(a.detection.config)
    first, second = Side.of(a), Side.of(b)
    _require_one_architecture(first, second)
    libraries = _libraries(against)
    if first.framework == second.framework:
        # A library loads a file of its own framework, and Keras one that holds a model, the first of the two that does.
        second_stays = not whole_models.why_not(b.checkpoint) and bool(whole_models.why_not(a.checkpoint))
        leaves = first.framework in libraries or second_stays
        runs = OTHER_FRAMEWORK[first.framework] if leaves else first.framework
        first, second = replace(first, framework=runs), replace(second, framework=OTHER_FRAMEWORK[runs])
    first, second = _with_model(first, libraries), _with_model(second, libraries)
    ran_with = _traits(first, second, same_traits, in_float64)
    narrow = min(filter(None, (first.narrow, second.narrow)), key=NARROW.__getitem__, default=None)
    return _as_run(first, ran_with[0], narrow), _as_run(second, ran_with[1], narrow)


def _require_one_architecture(first: Side, second: Side) -> None:
    a, b = first.config, second.config
    plain = [each.replace(traits=Traits(), inputs=None, in_channels=each.image_channels) for each in (a, b)]
    stems = [each.replace(traits=Traits(), inputs=None) for each in (a, b)]
    if plain[0] != plain[1] and stems[0] != stems[1]:
        raise LayoutError(
            f"{second.source.shown}: is a {b.variant} with {b.num_classes} classes and {b.image_channels} channels, "
            f"{first.source.shown} a {a.variant} with {a.num_classes} and {a.image_channels}; compare two files of one "
            "architecture"
        )


def fed_alike(first: Side, second: Side) -> tuple[Side, Side]:
    """The sides as the same images are meant for both.

    Where one file's net prepares its images and the other's does not, the other is given them so prepared: its twin
    does it. A library's own model does not, so that beside one the images are taken to be prepared.
    """
    own, others = first.config.inputs, second.config.inputs
    if own == others or (own and others):
        return first, second
    by_library = any(side.model not in (TWIN, WHOLE_MODEL) for side in (first, second))
    inputs = None if by_library else own or others
    return _with_inputs(first, inputs), _with_inputs(second, inputs)


def _with_inputs(side: Side, inputs: Inputs | None) -> Side:
    if side.config.inputs == inputs:
        return side
    twin = side.as_twin("images are prepared for it, or for the other file") if side.model == WHOLE_MODEL else side
    prepared = inputs.formula if inputs else ""
    return replace(twin, config=side.config.replace(inputs=inputs), prepared=prepared)


def _libraries(against: Sequence[str]) -> dict[str, str]:
    """The libraries by the framework that each belongs to."""
    libraries: dict[str, str] = {}
    for name in against:
        if (known := libraries.setdefault(LIBRARIES[name].framework, name)) != name:
            raise UsageError(f"--against {known} and --against {name} are both of one framework; give one of them")
    return libraries


def _with_model(side: Side, libraries: dict[str, str]) -> Side:
    """The side with what runs it: a library where one is asked for, the file's own model where there is one."""
    if name := libraries.get(side.framework):
        return _with_library(side, name)
    model, reason = whole_models.choice(side.source.checkpoint, side.framework)
    side = replace(side, model=model, reason=reason)
    if model == WHOLE_MODEL and side.source.head == "drop":
        return side.as_twin("the model's head takes no part")
    return side


def _with_library(side: Side, name: str) -> Side:
    source = side.source
    if source.detection.framework.runs_in != side.framework:
        raise LayoutError(
            f"{source.shown}: is a file of layout {quoted(side.layout)}, which {name} does not load; convert it first, "
            f"to --to-layout {LIBRARIES[name].layouts[0]}"
        )
    if source.detection.config.num_classes != side.config.num_classes:
        raise UsageError(f"{source.shown}: --against {name} runs all that a file holds; keep the head, or leave it out")
    LIBRARIES[name].require(source.checkpoint, side.layout, side.config, source.detection.wrapper)
    return replace(side, model=name)


def _traits(a: Side, b: Side, same_traits: bool, in_float64: bool) -> tuple[Traits, Traits]:
    """The traits with which each file runs.

    Where frameworks write one epsilon in two ways (1e-5 and 1.001e-5), float64 would show nothing else; a model
    that is no twin keeps its epsilon, so that the twin takes that one.
    """
    first, second = a.config.traits, b.config.traits
    if same_traits:
        return first, first
    if in_float64 and abs(first.epsilon - second.epsilon) <= EPSILON_ROUNDING:
        if not b.keeps_its_traits:
            second = replace(second, epsilon=first.epsilon)
        elif not a.keeps_its_traits:
            first = replace(first, epsilon=second.epsilon)
    return first, second


def _as_run(side: Side, traits: Traits, narrow: str | None) -> Side:
    """The side under these traits, with its weights rounded to this dtype, where there is one.

    Raises:
        UsageError: A library runs it, and that cannot round.
    """
    if side.model in LIBRARIES and narrow and side.narrow != narrow:
        raise UsageError(
            f"{side.source.shown}: --against {side.model} runs the file as it is, and the other is in {narrow}; "
            "compare two files of one dtype, or leave --against out"
        )
    if side.model == WHOLE_MODEL and traits != side.config.traits:
        side = side.as_twin("the file runs under the first one's traits")
    return replace(side, config=side.config.replace(traits=traits), rounded=narrow)
