"""Which layout a checkpoint has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from denseport import metadata
from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts import descriptions
from denseport.layouts.built import as_built
from denseport.layouts.described import detect_described, figures
from denseport.layouts.descriptions import keras
from denseport.layouts.descriptions.net import DescribedNet
from denseport.layouts.frameworks import KERAS, KERAS_ON_THEANO, TORCH, Framework, Groups
from denseport.layouts.match import JOINED, Detection, MisfitError, match
from denseport.layouts.order import refuse_other_order
from denseport.layouts.parse import find_layout, known_layouts
from denseport.layouts.places import ROOT, Place, branches, common_path, places, within, without, wrappers
from denseport.layouts.recognition import recognise
from denseport.layouts.search import Attempt, Found
from denseport.layouts.shown import as_shown
from denseport.layouts.spec import BY_SHAPE, Layout
from denseport.layouts.subtrees import nets_by_shape
from denseport.layouts.traits import Said, refuse_contradiction, refuse_idle
from denseport.net.config import Traits

# The keys under which training scripts and libraries look for a state dict among other things.
WRAPPERS = ("state_dict", "model_state_dict")
# No file that people have holds as many nets; of a hostile one, so many places are looked at.
MOST_PLACES = 32
# What the parts of a net's path say that it usually is.
KINDS = {
    r"ema|averaged?|swa|shadow|polyak": "averaged weights",
    r"teacher": "a teacher, whose weights are averages as a rule",
    r"k|key|momentum|target": "the key encoder, whose weights are averages as a rule",
    r"q|query|online": "the query encoder, which is trained",
    r"student": "the student, which is trained",
}


def detect(
    checkpoint: Checkpoint,
    layout: str | Path | None = None,
    *,
    head: Literal["keep", "drop"] = "keep",
    net: str | None = None,
    traits: Mapping[str, Any] = MappingProxyType({}),
) -> Detection:
    """The one net in a checkpoint, and the one layout that its tensors fit in name and shape.

    Args:
        checkpoint: Tensors as a format read them.
        layout: A layout's name or TOML file, where it is not to be detected.
        head: `drop` lets anything stand beside the body.
        net: The path of the net that is meant, where there are several.
        traits: Those that the user states.

    Raises:
        LayoutError: No layout matches, and the message says how far the closest one does; or several match; or the
            file holds several nets, or a part of something larger; or `traits` contradict what the file states.
    """
    if not checkpoint.tensors:
        raise LayoutError(f"{checkpoint.label}: holds no tensors; nothing can be converted from it")
    described = descriptions.stated(checkpoint)
    recorded = checkpoint.metadata.get(metadata.LAYOUT, described.layout)
    if layout is None and recorded and recorded not in known_layouts() and metadata.SOURCE in checkpoint.metadata:
        raise LayoutError(
            f"{checkpoint.label}: was written in layout {quoted(recorded)}, which does not ship with denseport; "
            "give its file with --from-layout"
        )
    drop_head = head == "drop"
    if net in (None, ROOT) and (whole := _described_net(checkpoint, drop_head=drop_head)):
        detection = detect_described(checkpoint, whole, layout, traits, drop_head=drop_head)
        return _settled(detection, checkpoint, traits, drop_head=drop_head)
    said: Said = {"file": described.traits, "option": traits}
    refuse_contradiction(said, checkpoint.label)
    search = _Search(checkpoint, said, drop_head, net)
    for each in (search, *search.without_wrappers()):
        for candidates in _candidates(checkpoint, layout, recorded):
            if found := each.nets(candidates):
                detection = as_built(each.completed(_only(found, checkpoint)), checkpoint)
                return _settled(detection, checkpoint, traits, drop_head=drop_head)
    detection = search.by_shape(asked=layout is not None)
    return _settled(detection, checkpoint, traits, drop_head=drop_head)


def _settled(detection: Detection, checkpoint: Checkpoint, traits: Mapping[str, Any], *, drop_head: bool) -> Detection:
    """A detection with what the weights show, held against the names in the file and against what the user states.

    Raises:
        LayoutError: One contradicts the other, or the order of joined pools would be a guess.
    """
    refuse_other_order(checkpoint, detection)
    found = as_shown(detection, checkpoint)
    if not drop_head:
        refuse_idle(traits, found.config, checkpoint.label)
    if found.known_as["head_pool"] != "assumed" or found.config.traits.head_pool not in JOINED:
        return found
    if drop_head:
        usual = found.layout.traits_of(found.config).get("head_pool", Traits().head_pool)
        return replace(found, config=found.config.replace(head_pool=usual))
    raise LayoutError(
        f"{checkpoint.label}: its head takes {2 * found.config.features:,} features, twice those of the last map: the "
        "mean and the maximum joined, in an order that nothing shows; give --trait head_pool=mean-max or --trait "
        "head_pool=max-mean"
    )


@dataclass(frozen=True)
class Net:
    """A net in a checkpoint, whole or the body of something larger.

    Attributes:
        path: Where it stands, as `--net` calls it.
        kind: Its architecture, and what its path says that it usually is.
        layout: The layout of its names.
        tensors: How many tensors it has.
    """

    path: str
    kind: str
    layout: str
    tensors: int


def survey(checkpoint: Checkpoint, layout: str | Path | None = None) -> tuple[list[Net], str]:
    """Every net in a checkpoint, and in words what else is there; nothing where no layout fits."""
    described = descriptions.stated(checkpoint)
    if whole := _described_net(checkpoint, drop_head=True):
        net = detect_described(checkpoint, whole, layout, {}, drop_head=True)
        return [Net(ROOT, net.config.variant, net.layout.name, len(net.roles))], branches(list(net.dropped))
    search = _Search(checkpoint, {"file": described.traits, "option": {}}, drop_head=False, net=None)
    tried = _candidates(checkpoint, layout, checkpoint.metadata.get(metadata.LAYOUT, described.layout))
    found = next((found for candidates in tried if (found := search.nets(candidates))), [])
    found = found or (search.nets_by_shape()[0] if layout is None else [])
    used = {name for each in found for name in each.detection.roles.values()}
    nets = [
        Net(each.place.path, _described(each, found), each.detection.layout.name, len(each.detection.roles))
        for each in found
    ]
    return nets, branches([name for name in checkpoint.tensors if name not in used]) if nets else ""


def _described_net(checkpoint: Checkpoint, *, drop_head: bool) -> DescribedNet | None:
    """The whole net that the file describes, if it does.

    Raises:
        LayoutError: It describes no DenseNet.
    """
    if checkpoint.described_by != "keras":
        return None
    try:
        return keras.net(checkpoint.description, partial(figures, checkpoint), drop_head=drop_head)
    except LayoutError as error:
        raise LayoutError(f"{checkpoint.label}: {error}") from None


def _candidates(checkpoint: Checkpoint, layout: str | Path | None, recorded: str) -> list[list[Layout]]:
    """The layouts to try: where one of the first list fits, those of the next do not come into question."""
    if layout is not None:
        return [[find_layout(layout)]]
    known = list(known_layouts().values())
    if first := [candidate for candidate in known if candidate.name == recorded]:
        return [first, [candidate for candidate in known if candidate.detected]]
    if checkpoint.nameless:
        of_keras = [c for c in known if c.detected and KERAS in c.frameworks and TORCH not in c.frameworks]
        return [[c for c in known if c.nameless], of_keras]
    return [[candidate for candidate in known if candidate.detected]]


class _Search:
    """The nets of a checkpoint, and what was found where none is."""

    def __init__(
        self, checkpoint: Checkpoint, said: Said, drop_head: bool, net: str | None, wrappers: tuple[str, ...] = ()
    ) -> None:
        self.checkpoint, self.said, self.drop_head, self.net = checkpoint, said, drop_head, net
        names = list(checkpoint.tensors) if net is None else within(net, checkpoint.tensors)
        if not names:
            raise LayoutError(
                f"{checkpoint.label}: no tensor stands below {quoted(net)}; see with denseport inspect what does"
            )
        self.names, self.wrappers = names, wrappers
        looked_up = {without(wrappers, name): name for name in names}
        self.groups: dict[str, Groups] = {each.runs_in: each.grouped(looked_up) for each in (TORCH, KERAS)}
        self.misfits: list[tuple[Place, MisfitError]] = []

    def nets(self, candidates: list[Layout]) -> list[Found]:
        """The nets that one of some layouts fits, each with layers of its own."""
        stand = [] if self.checkpoint.nameless else self.places(candidates)
        found: list[Found] = []
        for place in [*self.whole(candidates), *stand]:
            elsewhere = self.net == ROOT and place.prefix
            if not elsewhere and not any(place.blocks & each.place.blocks for each in found):
                found += self.at(place, stand)
        return found

    def without_wrappers(self) -> Iterator[_Search]:
        """The same search in names without the modules that stand within them again and again."""
        for parts in wrappers(self.names):
            if len({without(parts, name) for name in self.names}) == len(self.names):
                yield _Search(self.checkpoint, self.said, self.drop_head, self.net, parts)

    def whole(self, candidates: list[Layout]) -> list[Place]:
        """The file as a whole: without the path that all names have where layers go by their order, not by names."""
        numbered = tuple(each for each in candidates if each.numbered)
        path = common_path(self.names)
        return [Place(layouts=tuple(candidates)), *([Place(path, layouts=numbered)] if path and numbered else [])]

    def places(self, candidates: list[Layout]) -> list[Place]:
        """Where the names of layouts stand; of places that share layers, those with most layers come first."""
        found = []
        for framework in (TORCH, KERAS):
            of = [each for each in candidates if framework.runs_in in {own.runs_in for own in each.frameworks}]
            found += places(self.groups[framework.runs_in], of)
        return found[:MOST_PLACES]

    def at(self, place: Place, stand: list[Place]) -> list[Found]:
        """The net at a place, in the one layout that fits; nothing where none does."""
        others = tuple(other for other in stand if not other.blocks & place.blocks)
        fits = []
        for layout in place.layouts:
            for stated in layout.frameworks:
                framework = KERAS_ON_THEANO if stated is KERAS and self.checkpoint.backend == "theano" else stated
                try:
                    fits.append(self.fit(place, others, layout, framework))
                except MisfitError as misfit:
                    self.misfits.append((place, misfit))
        return [_one([fit for fit in fits if not fit.partial] or fits, self.checkpoint, self.said)] if fits else []

    def fit(self, place: Place, others: tuple[Place, ...], layout: Layout, framework: Framework) -> Found:
        """One layout at one place.

        Raises:
            MisfitError: It does not fit.
        """
        groups = self.groups[framework.runs_in]
        if not place.blocks:  # of layers that go by their order, names say nothing
            below = {layer.removeprefix(place.prefix): of for layer, of in groups.items()}
            found = match(self.checkpoint, layout, framework, below, self.said, drop_head=self.drop_head)
            return Found(replace(place, blocks=frozenset(groups)), replace(found, prefix=place.prefix))
        return Attempt(
            checkpoint=self.checkpoint,
            groups=groups,
            said=self.said,
            place=place,
            others=others,
            layout=layout,
            framework=framework,
            drop_head=self.drop_head,
            chosen=self.net is not None,
        ).found()

    def completed(self, found: Detection) -> Detection:
        """A detection that says, too, in which part of the file it is, and what another path than asked for has."""
        asked, file = set(self.names), self.checkpoint
        first = found.prefix.partition(".")[0]
        wrapper = first if file.format == "pth" and first in WRAPPERS else ""
        return replace(
            found,
            dropped=(*found.dropped, *(name for name in file.tensors if name not in asked)),
            wrapper=wrapper or file.wrapper,
            prefix=found.prefix.removeprefix(f"{wrapper}.") if wrapper else found.prefix,
            within=self.wrappers,
        )

    def by_shape(self, *, asked: bool) -> Detection:
        """The net whose names no layout has, told by its shapes.

        Raises:
            LayoutError: There is none, or it is one of a known layout from which something is missing; or there are
                several, or it is a part of something larger.
        """
        if asked and not any(misfit.layout is BY_SHAPE for _, misfit in self.misfits):
            raise self.no_match(asked=True)
        found, reason = self.nets_by_shape()
        if not found:
            raise self.no_match(asked=asked, by_shape=reason)
        return self.completed(_only(found, self.checkpoint))

    def nets_by_shape(self) -> tuple[list[Found], str]:
        """The nets whose names no layout has, and why the file as a whole is none."""
        try:
            return [Found(Place(), self.recognised(self.names))], ""
        except LayoutError as error:
            reason = str(error)
        found = nets_by_shape(
            self.checkpoint, self.names, self.recognised, drop_head=self.drop_head, chosen=self.net is not None
        )
        return [each for each in found if self.net != ROOT or not each.place.prefix], reason

    def recognised(self, names: Sequence[str]) -> Detection:
        """The net that some tensors are by their shapes.

        Raises:
            LayoutError: They are none, or one of a known layout from which something is missing.
        """
        found = recognise(self.checkpoint, names, self.said, drop_head=self.drop_head)
        _, closest = max(self.misfits, key=lambda each: each[1].named)
        config = found.config
        is_whole = config.final_norm and config.bottleneck_norm and (config.stem_norm or config.stem_kernel <= 3)
        if not is_whole and closest.named * 2 > closest.layers and not closest.layout.numbered:
            raise LayoutError("")
        return found

    def no_match(self, *, asked: bool, by_shape: str = "") -> LayoutError:
        """The error that says which layout is closest, what does not fit, and what to do next."""
        label, path = self.checkpoint.label, shlex.quote(str(self.checkpoint.path or "FILE"))
        place, closest = max(self.misfits, key=lambda each: each[1].named - each[1].wrong)
        if split := self.split(place, closest.layout):
            return LayoutError(f"{label}: {split}")
        layout, keys = closest.layout, f"its keys are {listed(self.names, 4)}"
        at = f" below {quoted(place.path)}" if place.prefix else ""
        reason = f"{layout.name}{at} ({closest.named:,} of {closest.layers:,} layers): {str(closest) or keys}"
        derive = f"denseport layouts derive {path} -o mine.toml"
        is_strange = by_shape and closest.named * 2 < closest.layers
        told = f"; by its shapes it is no DenseNet: {by_shape}" if is_strange else ""
        if asked:
            remedy = f"correct {layout.file}" if layout.file else "leave the layout out to try every known one"
            message = f"does not match layout {reason}; {remedy}, or run {derive}"
        elif closest.named:
            message = f"no known layout matches; closest: {reason}{told}; check that the file is whole, or run {derive}"
        else:
            message = f"no known layout matches: {keys}{told}; if it is a DenseNet, run {derive}"
        return LayoutError(f"{label}: {message}")

    def split(self, place: Place, layout: Layout) -> str:
        """What to say where the layers of one net stand partly below a prefix and partly not, or ""."""
        elsewhere = {"": Place(), **{each.prefix: each for each, _ in self.misfits if each.instead == place.instead}}
        for prefix in {place.prefix, *elsewhere} - {""}:
            without = [name for name in self.names if not name.startswith(prefix)]
            layers = {TORCH.split(name)[0] for name in without}
            if any(spelling.canonical(layer) for spelling in layout.spellings for layer in layers):
                told = f"the prefix {quoted(prefix)} stands before {len(self.names) - len(without)} keys"
                return f"{told}, but not before {listed(without)}; save one state dict, with one prefix"
        return ""


def _one(fits: list[Found], checkpoint: Checkpoint, said: Said) -> Found:
    """The only one that fits, or an error that says what the others would change."""
    fits = [fit for fit in fits if not fit.detection.head] or fits
    stated = {**said["option"], **said["file"]}
    given = [fit.detection.layout.traits_of(fit.detection.config) for fit in fits]
    fits = [fit for fit, own in zip(fits, given, strict=True) if stated.items() <= {**stated, **own}.items()] or fits
    if len(fits) > 1:  # whose usual traits are those that the weights show
        shown = [as_shown(fit.detection, checkpoint).config for fit in fits]
        fits = [fit for fit, config in zip(fits, shown, strict=True) if config == fit.detection.config] or fits
    if len(fits) == 1:
        return fits[0]
    names = [fit.detection.layout.name for fit in fits]
    first, *others = (fit.detection.config.traits for fit in fits)
    apart = sorted({name for other in others for name, value in vars(other).items() if vars(first)[name] != value})
    raise LayoutError(
        f"{checkpoint.label}: matches layouts {' and '.join(names)} alike; they differ in "
        f"{' and '.join(apart) or 'name'}, which no name or shape shows; say which it is, as with "
        f"--from-layout {names[0]}"
    )


def _only(found: list[Found], checkpoint: Checkpoint) -> Detection:
    """The only net of a file.

    Raises:
        LayoutError: There are several, or it is a part of something larger.
    """
    found = sorted(found, key=lambda each: bool(each.partial) or each.detection.config.num_classes is None)
    net = found[0]
    others = [other for other in found[1:] if not _is_copy(other, net, checkpoint)]
    if others:
        told = [f"{quoted(each.place.path)} ({_described(each, found)})" for each in (net, *others)]
        paths = " or ".join(f"--net {shlex.quote(each.place.path)}" for each in (net, *others))
        raise LayoutError(f"{checkpoint.label}: holds {len(told)} nets: {listed(told, 8, 300)}; choose one: {paths}")
    if net.partial:
        at = f" at {quoted(net.place.path)}" if net.place.prefix else ""
        whole = net.detection.config.num_classes is not None
        or_net = f", or with its classifier by --net {shlex.quote(net.place.path)}" if whole else ""
        raise LayoutError(
            f"{checkpoint.label}: holds the body of a DenseNet{at}, of layout {net.detection.layout.name}, beside what "
            f"may belong to the net: {net.partial}; take the body alone with --head drop{or_net}"
        )
    return net.detection


def _is_copy(other: Found, net: Found, checkpoint: Checkpoint) -> bool:
    """Whether a net is another one once more, or its body, bit by bit: a module that has two names."""
    theirs, ours = other.detection.roles, net.detection.roles
    tensors = checkpoint.tensors
    return theirs.keys() <= ours.keys() and all(
        tensors[name].same_bits(tensors[ours[role]]) for role, name in theirs.items()
    )


def _described(found: Found, every: list[Found]) -> str:
    """One of several nets in words: what its path says that it usually is, and its architecture."""
    usual = {each.place.path: _usual(each.place.path) for each in every}
    averaged = any("average" in said for said in usual.values())
    said = usual[found.place.path] or ("weights as they were trained" if averaged else "")
    config = found.detection.config
    head = "without classifier" if config.num_classes is None else f"{config.num_classes} classes"
    return ", ".join([*([said] if said else []), config.variant, head])


def _usual(path: str) -> str:
    """What the parts of a path say that a net is, or ""."""
    parts = re.split(r"[^a-z0-9]+", path.lower().replace("_", "."))
    return next((kind for kinds, kind in KINDS.items() if any(re.fullmatch(kinds, part) for part in parts)), "")
