"""One layout held against a checkpoint: the role of each of its tensors, or what keeps them from having one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.frameworks import FRAMEWORKS, KERAS_ON_THEANO, Framework, Groups
from denseport.layouts.inference import infer_config, is_possible
from denseport.layouts.order import canonical_by_order, in_order
from denseport.layouts.parse import find_layout
from denseport.layouts.spec import Layout, Spelling
from denseport.net.config import DenseNetConfig, Traits
from denseport.net.graph import CLASSIFIER, kind, layers, shapes

SCALE = ".scale"

# The traits that change what is computed.
COMPUTED = tuple(field.name for field in fields(Traits) if field.name != "head_activation")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Detection:
    """A checkpoint that fits a layout: the architecture it describes and the role of each of its tensors.

    Attributes:
        layout: The layout whose names fit.
        framework: Whose parameter names and axes the tensors have.
        config: The architecture that names, shapes and layout together describe.
        roles: Canonical tensor name to the name in the checkpoint, in graph order.
        scales: Canonical normalisation to the names of the weight and bias of the scale layer that follows it.
        counters: Canonical normalisation to the name of its step counter in the checkpoint.
        dropped: Tensors that were left out: of a head that was not asked for, or none of a net's weights.
        prefix: What stood before the names and was taken off, or "".
        head: The classifier's name in the checkpoint where the layout calls it otherwise, or "".
        assumed: The traits that were assumed, since neither the file nor the layout states them.
    """

    layout: Layout
    framework: Framework
    config: DenseNetConfig
    roles: Mapping[str, str]
    scales: Mapping[str, tuple[str, str]]
    counters: Mapping[str, str]
    dropped: tuple[str, ...] = ()
    prefix: str = ""
    head: str = ""
    assumed: tuple[str, ...] = ()

    def under(self, prefix: str) -> Detection:
        """The same, with the prefix that was taken off the names."""
        return replace(self, prefix=prefix)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, from which another process that reads the same file need not detect again."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "layout": self.layout.file or self.layout.name,
            "framework": [self.framework.name, self.framework.rotated],
            "config": self.config.to_dict(),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Detection:
        """The detection that `to_dict` gave the values of.

        Raises:
            LayoutError: The layout's TOML file is no longer there, or is no layout any more.
        """
        frameworks = {(each.name, each.rotated): each for each in (*FRAMEWORKS.values(), KERAS_ON_THEANO)}
        name, rotated = plain["framework"]
        return cls(
            layout=find_layout(plain["layout"]),
            framework=frameworks[name, rotated],
            config=DenseNetConfig.from_dict(plain["config"]),
            roles=plain["roles"],
            scales={norm: tuple(names) for norm, names in plain["scales"].items()},
            counters=plain["counters"],
            dropped=tuple(plain["dropped"]),
            prefix=plain["prefix"],
            head=plain["head"],
            assumed=tuple(plain["assumed"]),
        )

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """What a user should know of how the tensors were found."""
        notes = []
        if checkpoint.wrapper:
            notes.append(f"the tensors stand under {quoted(checkpoint.wrapper)}")
        if self.prefix:
            notes.append(f"the prefix {self.prefix} was taken off")
        if self.head:
            notes.append(f"{quoted(self.head)} was taken for the classifier")
        if self.dropped:
            notes.append(f"left out: {listed(self.dropped, 8)}")
        if checkpoint.nameless:
            notes.append(
                f"the file records no layer names: order and shapes fit layout {self.layout.name}, but those of other "
                "Keras code may fit as well; give --from-layout where the net is not of that layout"
            )
        elif self.assumed:
            values = ", ".join(f"{trait} {getattr(self.config.traits, trait)}" for trait in self.assumed)
            notes.append(f"neither file nor layout says what no shape shows; taken: {values}")
        if self.layout.note:
            notes.append(self.layout.note)
        return notes


@dataclass(frozen=True)
class Misfit:
    """A layout that a checkpoint does not fit: how many of its tensors do, how many do not, and why."""

    layout: Layout
    matched: int
    reason: str
    wrong: int = 0


def match(
    checkpoint: Checkpoint,
    layout: Layout,
    framework: Framework,
    groups: Groups,
    observed: Mapping[str, Any],
    *,
    drop_head: bool,
) -> Detection | Misfit:
    """Gives every tensor its role in one layout, or says what keeps them from it.

    Args:
        checkpoint: The tensors.
        layout: The layout to try.
        framework: One of the layout's frameworks.
        groups: The tensors' names as that framework divides them.
        observed: Traits that the file states itself; they come before the layout's.
        drop_head: Whether dense layers beside the body may be left out.
    """
    attempts: list[Detection | Misfit] = []
    if layout.numbered or checkpoint.nameless:
        matched = 0
        try:
            by_kind = in_order(checkpoint, groups, framework, layout.numbered.get("stem", ("",))[0])
            matched = len(groups)
            named = canonical_by_order(by_kind)
        except LayoutError as error:
            return Misfit(layout, matched, f"its layers have no names of their own, and {error}")
        attempts.append(_fit(checkpoint, layout, framework, groups, named, observed, drop_head))
    else:
        for spelling in layout.spellings:
            named = {layer: spelling.canonical(layer) for layer in groups}
            known = sum(canonical is not None for canonical in named.values())
            if known * 2 < len(groups):
                attempts.append(Misfit(layout, known, f"it has names for {known} of the {len(groups)} layers alone"))
            else:
                attempts.append(_fit(checkpoint, layout, framework, groups, named, observed, drop_head))
    fits = [attempt for attempt in attempts if isinstance(attempt, Detection)]
    misfits = [attempt for attempt in attempts if isinstance(attempt, Misfit)]
    return fits[0] if fits else max(misfits, key=lambda misfit: misfit.matched)


def _fit(
    checkpoint: Checkpoint,
    layout: Layout,
    framework: Framework,
    groups: Groups,
    named: Mapping[str, str | None],
    observed: Mapping[str, Any],
    drop_head: bool,
) -> Detection | Misfit:
    """Gives every tensor its role, given the canonical name of each layer that has one."""
    tensors = checkpoint.tensors
    roles: dict[str, str] = {}
    counters: dict[str, str] = {}
    strangers: dict[str, dict[str, str]] = {}
    extra: list[str] = []
    for layer, parameters in groups.items():
        canonical = named[layer]
        for parameter, original in parameters.items():
            of = kind((canonical or "").removesuffix(SCALE))
            own = framework.canonical_parameter(of, parameter) if canonical else None
            if canonical and of == "norm" and framework.counter and parameter == framework.counter:
                counters[canonical] = original
            elif own is None and original.rpartition(".")[2] in layout.extra:
                extra.append(original)
            elif own is None:
                strangers.setdefault(layer, {})[parameter] = original
            elif f"{canonical}.{own}" in roles:
                return Misfit(layout, len(roles), f"{quoted(original)} stands for {canonical}.{own} a second time")
            else:
                roles[f"{canonical}.{own}"] = original

    canonical_shapes = {role: _role_shape(role, tensors[name].shape, framework) for role, name in roles.items()}
    if impossible := [role for role, shape in canonical_shapes.items() if not is_possible(role, shape)]:
        names = listed(f"{roles[role]} {tensors[roles[role]].shape}" for role in impossible)
        return Misfit(layout, len(roles), f"misshapen {names}, which no such layer is", len(impossible))
    try:
        config = infer_config(_with_stem(canonical_shapes), layout.architecture)
    except LayoutError as error:
        return Misfit(layout, len(roles), str(error))
    head = _head(strangers, checkpoint, framework, config)
    if head:
        for parameter, original in strangers.pop(head).items():
            role = f"{CLASSIFIER}.{framework.canonical_parameter('dense', parameter)}"
            roles[role] = original
            canonical_shapes[role] = _role_shape(role, tensors[original].shape, framework)
        config = infer_config(canonical_shapes, layout.architecture)
    config = config.replace(traits=_traits(checkpoint, layout, config, observed))

    dropped = tuple(extra)
    if drop_head and config.num_classes is None and strangers:
        heads = [layer for layer, own in strangers.items() if all(len(tensors[o].shape) < 3 for o in own.values())]
        dropped += tuple(original for layer in heads for original in strangers.pop(layer).values())
    expected = shapes(config)
    scales = {
        norm: (roles.pop(f"{norm}{SCALE}.weight"), roles.pop(f"{norm}{SCALE}.bias"))
        for norm in [role.removesuffix(f"{SCALE}.weight") for role in roles if role.endswith(f"{SCALE}.weight")]
        if f"{norm}{SCALE}.bias" in roles
    }
    problems = _problems(layout, framework, checkpoint, roles, scales, canonical_shapes, config)
    if wrong := [name for name in counters.values() if not _is_counter(tensors[name])]:
        problems.append(f"step counters that are no single whole number: {listed(wrong)}")
    if whole := [name for name in roles.values() if tensors[name].dtype.kind in "iub"]:
        problems.append(f"whole numbers where weights should be: {listed(whole)}")
    unexpected = [original for own in strangers.values() for original in own.values()]
    unexpected += [name for norm, name in counters.items() if f"{norm}.weight" not in expected]
    if unexpected:
        only_a_head = all(len(tensors[name].shape) < 3 for name in unexpected) and config.num_classes is None
        remedy = ", a head that --head drop would leave out" if only_a_head else ""
        problems.append(f"unexpected {listed(unexpected)}{remedy}")
    if problems:
        return Misfit(layout, len(roles), "; ".join(problems), len(unexpected) + len(expected.keys() - roles.keys()))
    if checkpoint.nameless and layout.nameless and (reason := layout.cannot_build(config)):
        return Misfit(layout, len(roles), reason)
    in_order = {role: roles[role] for role in expected}
    stated = {*layout.traits_of(config), *_recorded(checkpoint, layout), *observed}
    assumed = tuple(trait for trait in COMPUTED if trait not in stated)
    return Detection(layout, framework, config, in_order, scales, counters, dropped, head=head, assumed=assumed)


def _problems(
    layout: Layout,
    framework: Framework,
    checkpoint: Checkpoint,
    roles: Mapping[str, str],
    scales: Mapping[str, tuple[str, str]],
    canonical_shapes: Mapping[str, Shape],
    config: DenseNetConfig,
) -> list[str]:
    """What is missing, not expected or misshapen among the tensors that have a role, a sentence for each."""
    expected, spelling, problems = shapes(config), layout.spelling(config), []
    missing = [_own_name(role, spelling, framework, layout) for role in expected if role not in roles]
    if layout.scales:
        norms = [layer.name for layer in layers(config) if layer.kind == "norm"]
        missing += [f"the scale layer of {norm}" for norm in norms if norm not in scales]
    if missing:
        problems.append(f"missing {listed(missing)}")
    if surplus := [name for role, name in roles.items() if role not in expected]:
        problems.append(f"unexpected {listed(surplus)}")
    wrong = [
        f"{quoted(name)} {checkpoint.tensors[name].shape} should be {framework.own_shape(kind(layer), expected[role])}"
        for role, name in roles.items()
        if role in expected and canonical_shapes[role] != expected[role] and (layer := role.rpartition(".")[0])
    ]
    wrong += [
        f"{quoted(name)} {checkpoint.tensors[name].shape} should be {expected[f'{norm}.weight']}"
        for norm, pair in scales.items()
        for name in pair
        if checkpoint.tensors[name].shape != expected.get(f"{norm}.weight")
    ]
    if wrong:
        problems.append(f"misshapen {', '.join(wrong[:20])}" + (f" and {len(wrong) - 20} more" * (len(wrong) > 20)))
    return problems


def _recorded(checkpoint: Checkpoint, layout: Layout) -> dict[str, object]:
    """The traits that the file recorded when it was written in this layout.

    Raises:
        LayoutError: They are not those of a DenseNet.
    """
    if checkpoint.metadata.get("layout") != layout.name or "traits" not in checkpoint.metadata:
        return {}
    try:
        recorded = json.loads(checkpoint.metadata["traits"])
        if isinstance(recorded, dict):
            Traits(**recorded)
            return recorded
    except (ValueError, TypeError, RecursionError, LayoutError) as error:
        recorded = error
    raise LayoutError(
        f"{checkpoint.path}: the recorded traits are not those of a DenseNet: {quoted(recorded)}; "
        "write the file again from its source"
    )


def _traits(checkpoint: Checkpoint, layout: Layout, config: DenseNetConfig, observed: Mapping[str, Any]) -> Traits:
    """What the file's own model configuration says, else what an earlier conversion recorded, else the layout's."""
    usual = {} if config.stem_norm else {"stem_stride": 1, "stem_pool": "none"}  # a bare stem is one for small images
    return Traits(**{**usual, **layout.traits_of(config), **_recorded(checkpoint, layout), **observed})


def _head(
    strangers: Mapping[str, Mapping[str, str]], checkpoint: Checkpoint, framework: Framework, config: DenseNetConfig
) -> str:
    """The one layer left over, where it is a dense layer on the net's features, pooled or flattened; else ""."""
    if len(strangers) != 1 or config.num_classes is not None:
        return ""
    ((layer, parameters),) = strangers.items()
    own = {framework.canonical_parameter("dense", parameter): name for parameter, name in parameters.items()}
    if own.keys() != {"weight", "bias"}:
        return ""
    kernel = framework.canonical_shape("dense", checkpoint.tensors[own["weight"]].shape)
    return layer if len(kernel) == 2 and all(kernel) and kernel[1] % config.features == 0 else ""


def _with_stem(canonical_shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """The shapes, and one for the first convolution where it is missing, so that all that is missing can be named."""
    first = ("stem.conv.weight", "stem.conv1.weight")
    if any(name in canonical_shapes for name in first):
        return canonical_shapes
    return {first["stem.conv2.weight" in canonical_shapes]: (1, 3, 7, 7), **canonical_shapes}


def _is_counter(tensor: Tensor) -> bool:
    return tensor.shape == () and tensor.dtype.kind in "iu"


def _role_shape(role: str, shape: Shape, framework: Framework) -> Shape:
    return framework.canonical_shape(kind(role.rpartition(".")[0].removesuffix(SCALE)), shape)


def _own_name(role: str, spelling: Spelling, framework: Framework, layout: Layout) -> str:
    """What a layout calls a canonical tensor, for a message."""
    layer, _, parameter = role.rpartition(".")
    try:
        return role if layout.numbered else framework.spell(spelling.layer(layer), kind(layer), parameter)
    except LayoutError:
        return role
