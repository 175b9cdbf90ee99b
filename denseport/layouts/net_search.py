"""The search for nets among the tensors of a checkpoint: by the names of layouts first, then by shapes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.attempt import Attempt, Found
from denseport.layouts.choice import only_layout, only_net
from denseport.layouts.detection import Detection
from denseport.layouts.frameworks import KERAS, KERAS_ON_THEANO, TORCH, Framework, Groups
from denseport.layouts.match import MisfitError, match
from denseport.layouts.prefixes import ROOT, Place, common_path, places, within, without, wrappers
from denseport.layouts.recognition import recognise
from denseport.layouts.spec import BY_SHAPE, Layout
from denseport.layouts.subtrees import nets_by_shape
from denseport.layouts.traits import Said

# The keys under which training scripts and libraries look for a state dict among other things.
WRAPPERS = ("state_dict", "model_state_dict")
# No file that people have holds as many nets; of a hostile one, so many places are looked at.
MOST_PLACES = 16


class NetSearch:
    """The nets of a checkpoint, and what was found where none is."""

    def __init__(
        self, checkpoint: Checkpoint, said: Said, drop_head: bool, net: str | None, wrappers: tuple[str, ...] = ()
    ) -> None:
        self.checkpoint, self.said, self.drop_head, self.net = checkpoint, said, drop_head, net
        names = list(checkpoint.tensors) if net is None else within(net, checkpoint.tensors)
        if not names:
            raise LayoutError(
                f"{checkpoint.label}: no tensor stands below {quoted(net)}; denseport inspect lists the nets of a file"
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

    def without_wrappers(self) -> Iterator[NetSearch]:
        """The same search in names without the modules that stand within them again and again."""
        for parts in wrappers(self.names):
            if len({without(parts, name) for name in self.names}) == len(self.names):
                yield NetSearch(self.checkpoint, self.said, self.drop_head, self.net, parts)

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
        return (
            [only_layout([fit for fit in fits if not fit.partial] or fits, self.checkpoint, self.said)] if fits else []
        )

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
        return self.completed(only_net(found, self.checkpoint))

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
