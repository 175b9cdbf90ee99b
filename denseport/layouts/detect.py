"""Which layout a checkpoint has, and the role that each of its tensors plays there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from denseport.architecture import kind, shapes
from denseport.checkpoint import Checkpoint
from denseport.config import DenseNetConfig, Traits
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.frameworks import KERAS, Framework
from denseport.layouts.inference import infer_config
from denseport.layouts.order import roles_by_order
from denseport.layouts.spec import Layout, find_layout, known_layouts

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
CLASSIFIER = "head.classifier"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Detection:
    """A checkpoint that fits a layout: the architecture it describes and the role of each of its tensors.

    Attributes:
        layout: The layout whose names fit.
        framework: Whose parameter names and axes the tensors have.
        config: The architecture that names, shapes and layout together describe.
        roles: Canonical tensor name to the name in the checkpoint, in graph order.
        counters: Canonical normalisation to the name of its step counter in the checkpoint.
        prefix: What stood before the names and was taken off, or "".
        head: The classifier's name in the checkpoint where the layout calls it otherwise, or "".
    """

    layout: Layout
    framework: Framework
    config: DenseNetConfig
    roles: Mapping[str, str]
    counters: Mapping[str, str]
    prefix: str = ""
    head: str = ""

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """What a user should know of how the tensors were found."""
        notes = []
        if checkpoint.wrapper:
            notes.append(f"the tensors stand under {quoted(checkpoint.wrapper)}")
        if self.prefix:
            notes.append(f"the prefix {self.prefix} was taken off")
        if self.head:
            notes.append(f"{quoted(self.head)} was taken for the classifier")
        if checkpoint.nameless:
            notes.append(
                f"the file records no layer names: order and shapes fit, and layout {self.layout.name} was taken"
            )
        return notes


@dataclass(frozen=True)
class Misfit:
    """A layout that a checkpoint does not fit: how many of its tensors do, and what keeps the others from it."""

    layout: Layout
    matched: int
    reason: str


def detect(checkpoint: Checkpoint, layout: str | Path | None = None) -> Detection:
    """The one layout that every tensor of a checkpoint fits, in name and shape.

    Args:
        checkpoint: Tensors as a format read them.
        layout: A layout's name or TOML file, where it is not to be detected.

    Raises:
        LayoutError: No layout fits, and the message says how far the nearest one does; or several fit.
    """
    file = checkpoint.path or "the given tensors"
    if not checkpoint.tensors:
        raise LayoutError(f"{file}: holds no tensors; nothing can be converted from it")
    candidates = list(known_layouts().values()) if layout is None else [find_layout(layout)]
    if checkpoint.nameless and layout is None:
        candidates = [candidate for candidate in candidates if candidate.nameless]
    misfits: list[Misfit] = []
    for prefix, originals in _without_prefixes(checkpoint.tensors):
        tried = [
            _match(checkpoint, candidate, framework, originals, prefix)
            for candidate in candidates
            for framework in candidate.frameworks
        ]
        fits = [match for match in tried if isinstance(match, Detection)]
        if len(fits) > 1:
            fits = [match for match in fits if match.layout.name == checkpoint.metadata.get("layout")] or fits
        if len(fits) > 1:
            names = " and ".join(match.layout.name for match in fits)
            raise LayoutError(f"{file}: fits {names} alike; say which with --from-layout")
        if fits:
            return fits[0]
        misfits += [match for match in tried if isinstance(match, Misfit)]
    nearest = max(misfits, key=lambda misfit: misfit.matched)
    if not nearest.matched and layout is None:
        names = listed(checkpoint.tensors, 4)
        raise LayoutError(
            f"{file}: fits no layout, and none comes near: its tensors are called {names}; "
            "if it is a DenseNet, give --from-layout FILE.toml"
        )
    if not nearest.matched:
        raise LayoutError(
            f"{file}: does not fit {nearest.layout.name}: {nearest.reason}, and its tensors are called "
            f"{listed(checkpoint.tensors, 4)}; leave --from-layout out, or give the layout it has"
        )
    relation = "does not fit" if layout is not None else "fits no layout; the nearest is"
    raise LayoutError(
        f"{file}: {relation} {nearest.layout.name}: {nearest.reason}; "
        "check that the file is whole, or give the layout it has with --from-layout"
    )


def _without_prefixes(tensors: Mapping[str, object]) -> Iterator[tuple[str, dict[str, str]]]:
    """Names to look up and the originals they come from: first as they are, then with ever more prefixes taken off.

    A prefix counts when every name has it, or every name but those of one layer, a head beside a wrapped body.
    """
    names = {name: name for name in tensors}
    taken = ""
    yield taken, names
    while True:
        first = next(iter(names))
        candidates = (prefix for prefix in PREFIXES if sum(name.startswith(prefix) for name in names) * 2 > len(names))
        prefix = next(candidates, None)
        if prefix is None or len(first) > 1000:
            return
        others = {name for name in names if not name.startswith(prefix)}
        if len({name.rpartition(".")[0] for name in others}) > 1:
            return
        stripped = {name.removeprefix(prefix): original for name, original in names.items()}
        if len(stripped) < len(names):
            return
        names, taken = stripped, taken + prefix
        yield taken, names


def _match(
    checkpoint: Checkpoint, layout: Layout, framework: Framework, originals: Mapping[str, str], prefix: str
) -> Detection | Misfit:
    """Gives every tensor its role in one layout, or says what keeps them from it."""
    tensors = checkpoint.tensors
    traits = _traits(checkpoint, layout)
    by_role: dict[str, str] = {}
    counters: dict[str, str] = {}
    strangers: dict[str, list[str]] = {}
    if checkpoint.nameless and framework is KERAS:
        try:
            by_role = roles_by_order({name: tensor.shape for name, tensor in tensors.items()}, framework, traits)
        except LayoutError as error:
            return Misfit(layout, 0, f"its layers have no names of their own, and by their order {error}")
    else:
        canonical_layers: dict[str, str | None] = {}
        for name, original in originals.items():
            layer, parameter = framework.split(name)
            if layer not in canonical_layers:
                canonical_layers[layer] = layout.canonical(layer)
            canonical = canonical_layers[layer]
            if canonical is not None and parameter == framework.counter and kind(canonical) == "norm":
                counters[canonical] = original
                continue
            own = framework.canonical_parameter(kind(canonical), parameter) if canonical is not None else None
            if own is None:
                strangers.setdefault(layer, []).append(name)
            elif f"{canonical}.{own}" in by_role:
                return Misfit(layout, len(by_role), f"{quoted(original)} stands for {canonical}.{own} a second time")
            else:
                by_role[f"{canonical}.{own}"] = original

    canonical_shapes = {role: _shape(role, tensors[name].shape, framework) for role, name in by_role.items()}
    try:
        config = infer_config(canonical_shapes, layout.architecture, traits)
    except LayoutError as error:
        return Misfit(layout, len(by_role), str(error))
    head = _head(strangers, originals, checkpoint, framework, config)
    if head and f"{CLASSIFIER}.weight" not in by_role:
        for name in strangers.pop(head):
            own = framework.canonical_parameter("dense", framework.split(name)[1])
            by_role[f"{CLASSIFIER}.{own}"] = originals[name]
            canonical_shapes[f"{CLASSIFIER}.{own}"] = _shape(
                f"{CLASSIFIER}.{own}", tensors[originals[name]].shape, framework
            )
        config = config.replace(num_classes=canonical_shapes[f"{CLASSIFIER}.weight"][0])
    else:
        head = ""

    expected = shapes(config)
    problems = []
    if missing := [role for role in expected if role not in by_role]:
        problems.append(f"missing {listed(_own_name(role, layout, framework) for role in missing)}")
    unexpected = [originals[name] for names in strangers.values() for name in names]
    unexpected += [name for role, name in by_role.items() if role not in expected]
    unexpected += [name for norm, name in counters.items() if f"{norm}.weight" not in expected]
    if unexpected:
        problems.append(f"unexpected {listed(unexpected)}")
    if misshapen := [
        f"{by_role[role]} {tensors[by_role[role]].shape} should be {_own_shape(role, shape, framework)}"
        for role, shape in expected.items()
        if role in by_role and canonical_shapes[role] != shape
    ]:
        problems.append(f"misshapen {listed(misshapen)}")
    if problems:
        return Misfit(layout, len(by_role), "; ".join(problems))
    roles = {role: by_role[role] for role in expected}
    return Detection(layout, framework, config, roles, counters, prefix, head)


def _traits(checkpoint: Checkpoint, layout: Layout) -> Traits:
    """The layout's traits, and those that the file recorded when it was written in this layout."""
    recorded: object = {}
    if checkpoint.metadata.get("layout") == layout.name and "traits" in checkpoint.metadata:
        try:
            recorded = json.loads(checkpoint.metadata["traits"])
            if isinstance(recorded, dict):
                return Traits(**{**recorded, **layout.traits})
        except (ValueError, TypeError, RecursionError, LayoutError) as error:
            recorded = error
        raise LayoutError(
            f"{checkpoint.path}: the recorded traits are not those of a DenseNet: {quoted(recorded)}; "
            "write the file again from its source"
        )
    return Traits(**layout.traits)


def _head(
    strangers: Mapping[str, list[str]],
    originals: Mapping[str, str],
    checkpoint: Checkpoint,
    framework: Framework,
    config: DenseNetConfig,
) -> str:
    """The one layer left over, where it is a dense layer as wide as the net's features; else ""."""
    if len(strangers) != 1 or config.num_classes is not None:
        return ""
    ((layer, names),) = strangers.items()
    own = {framework.split(name)[1]: checkpoint.tensors[originals[name]].shape for name in names}
    kernel_name, bias_name = framework.parameters["dense"]
    if own.keys() != {kernel_name, bias_name} or len(own[kernel_name]) != 2:
        return ""
    kernel = _shape(f"{CLASSIFIER}.weight", own[kernel_name], framework)
    return layer if kernel[1] == config.features else ""


def _shape(role: str, shape: Shape, framework: Framework) -> Shape:
    """A tensor's shape in canonical axis order."""
    return tuple(shape[axis] for axis in framework.to_canonical(kind(role.rpartition(".")[0]), len(shape)))


def _own_shape(role: str, shape: Shape, framework: Framework) -> Shape:
    """A canonical shape in the framework's axis order."""
    return tuple(shape[axis] for axis in framework.from_canonical(kind(role.rpartition(".")[0]), len(shape)))


def _own_name(role: str, layout: Layout, framework: Framework) -> str:
    """What a layout calls a canonical tensor, for a message."""
    layer, _, parameter = role.rpartition(".")
    try:
        return framework.spell(layout.spell(layer), kind(layer), parameter)
    except LayoutError:
        return role
