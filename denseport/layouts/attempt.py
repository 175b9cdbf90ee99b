"""A layout tried at one place of a file: which layers belong to the net that stands there, and which beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from denseport.checkpoint import Checkpoint
from denseport.errors import quoted
from denseport.layouts.detection import Detection
from denseport.layouts.frameworks import TORCH, Framework, Groups
from denseport.layouts.match import MisfitError, match
from denseport.layouts.prefixes import Place
from denseport.layouts.spec import Layout
from denseport.layouts.traits import Said
from denseport.net.config import DenseNetConfig
from denseport.net.graph import CLASSIFIER

Layers = dict[str, Mapping[str, str]]
STATISTICS = frozenset({"running_mean", "running_var"})
# What training by contrast puts beside a classifier: it reads the features too, and nobody reads it afterwards.
PROJECTOR = re.compile("proj")


@dataclass(frozen=True)
class Found:
    """A net at a place.

    Attributes:
        place: Where it stands.
        detection: What it is.
        partial: Why it may be a part of something larger, which computes something else; or "".
    """

    place: Place
    detection: Detection
    partial: str = ""


@dataclass
class Zones:
    """The layers of a file as a layout at a place sees them, by the names to look up there.

    Attributes:
        own: Those that it has a name for, and others within the body.
        near: Others below the same prefix: a head perhaps, or something else.
        far: Those elsewhere.
        classifier: The name of the classifier among its own, or "".
    """

    own: Layers = field(default_factory=dict)
    near: Layers = field(default_factory=dict)
    far: Layers = field(default_factory=dict)
    classifier: str = ""


@dataclass(frozen=True)
class Attempt:
    """One layout at one place of a checkpoint.

    Attributes:
        checkpoint: The file.
        groups: The names of its tensors by layer and parameter, as the framework divides them.
        said: Traits that the file or the user states.
        place: Where the layout is tried, and `others` where other nets may stand.
        layout: The layout, and `framework` whose parameter names and axes it has.
        drop_head: Whether the classifier takes no part.
        chosen: Whether the user said where the net stands.
    """

    checkpoint: Checkpoint
    groups: Groups
    said: Said
    place: Place
    others: tuple[Place, ...]
    layout: Layout
    framework: Framework
    drop_head: bool
    chosen: bool

    def found(self) -> Found:
        """The net; all tensors of the file that are no part of it are `dropped`.

        Raises:
            MisfitError: No net of this layout stands here.
        """
        if self.drop_head:
            return self._body()
        own, near, far, whole = self.zones.own, self.zones.near, self.zones.far, bool(self.zones.classifier)
        misfits = []
        every = near | far
        for beside in [near] if whole else [near, self._without_loose(near), every, self._without_loose(every)]:
            try:
                detection = self._matched(own | beside)
            except MisfitError as misfit:
                misfits.append(misfit)
                continue
            classes = detection.config.num_classes
            loose = (of for layer, of in near.items() if layer not in beside)
            if not far if classes is None else all(self._is_loose(of, classes) for of in loose):
                return self._net(detection)
        try:
            if whole and self._are_spare(near, (body := self._matched(own)).config):
                return self._net(body)
        except MisfitError as misfit:
            misfits.append(misfit)
        try:
            body = self._matched(self._headless)
        except MisfitError:
            raise misfits[0] from None
        problem = misfits[-1] if misfits else "it has no classifier"
        return Found(self.place, self._completed(body), str(problem))

    def _body(self) -> Found:
        """The net without its classifier, whatever stands beside it."""
        zones = self.zones
        try:
            return Found(self.place, self._completed(self._matched(zones.own | zones.near)))
        except MisfitError:
            if self.framework is not TORCH and any(self._has_kernel(of, 3) for of in zones.near.values()):
                raise  # Keras' names are flat, so that these may be layers of the body
            return Found(self.place, self._completed(self._matched(self._headless)))

    @property
    def _headless(self) -> Layers:
        return {layer: of for layer, of in self.zones.own.items() if layer != self.zones.classifier}

    def _matched(self, layers: Groups) -> Detection:
        return match(self.checkpoint, self.layout, self.framework, layers, self.said, drop_head=self.drop_head)

    def _completed(self, detection: Detection) -> Detection:
        """A detection that says where it was found, and what of the file is no part of it."""
        used = {*detection.roles.values(), *detection.dropped}
        beside = [name for of in self.groups.values() for name in of.values() if name not in used]
        place = self.place
        return replace(detection, prefix=place.prefix, instead=place.instead, dropped=(*detection.dropped, *beside))

    def _net(self, detection: Detection) -> Found:
        """The net, unless a dense layer beside it reads what its body or its classifier gives."""
        detection = self._completed(detection)
        if self.chosen or self.framework is not TORCH or detection.config.num_classes is None:
            return Found(self.place, detection)
        foreign = tuple(other.prefix for other in self.others)
        beside = [name for name in detection.dropped if not name.startswith(foreign)]
        return Found(self.place, detection, reads_the_net(detection, beside, self.checkpoint))

    def _are_spare(self, near: Layers, config: DenseNetConfig) -> bool:
        """Whether layers beside a net that has its classifier cannot stand between its body and its classifier.

        They are no layers, or those of a projector.
        """
        loose = (PROJECTOR.search(layer) or self._is_loose(of, config.num_classes) for layer, of in near.items())
        return self.framework is TORCH and all(loose)

    def _without_loose(self, layers: Layers) -> Layers:
        return {layer: of for layer, of in layers.items() if not self._is_loose(of)}

    def _is_loose(self, parameters: Mapping[str, str], classes: int | None = None) -> bool:
        """Whether tensors are none of a net's layers: a queue, centres, a loss's weights of as many classes.

        In Keras all are a layer's, whatever they are called, but for whole numbers, such as the state of a generator,
        and for what a normalisation of the image has, of which `around` tells.
        """
        if self.framework is not TORCH:
            tensors = [self.checkpoint.tensors[name] for name in parameters.values()]
            of_image = {tensor.shape for tensor in tensors} <= {(), (self._image_channels,)}
            return of_image or all(tensor.dtype.kind in "iu" for tensor in tensors)
        if all(prod(self._shape(name)) == 1 for name in parameters.values()):
            return False
        if parameters.keys() == {"weight"}:
            shape = self._shape(parameters["weight"])
            return len(shape) == 1 and classes in (None, *shape)
        return not any(name.endswith(("weight", "bias", "kernel")) or name in STATISTICS for name in parameters)

    @cached_property
    def zones(self) -> Zones:
        """The layers of the file, but for those of other nets and single numbers that are no layer's."""
        strangers, branches, zones = dict[str, Mapping[str, str]](), set[str](), Zones()
        for layer, parameters in self.groups.items():
            rest = self._rest(layer)
            name = rest and self.place.instead + rest
            canonical = name and self._canonical(name)
            if name and canonical:
                zones.own[name] = parameters
                branches.add(self._branch(rest or ""))
                zones.classifier = name if canonical == CLASSIFIER else zones.classifier
            elif not self._is_foreign(layer) and self._may_compute(rest, parameters):
                strangers[layer] = parameters
        for layer, parameters in strangers.items():
            rest = self._rest(layer)
            if rest is None:
                zones.far[layer] = parameters
            elif self._branch(rest) in branches or (self.place.instead and self.place.prefix):
                zones.own[layer] = parameters
            else:
                zones.near[layer] = parameters
        return zones

    def _rest(self, layer: str) -> str | None:
        """A layer's name below the place, or None where it is elsewhere."""
        return layer.removeprefix(self.place.prefix) if layer.startswith(self.place.prefix) else None

    def _branch(self, rest: str) -> str:
        """The first part of a name; where the names of nets have only one part, there are no branches."""
        return rest.partition(self.framework.separator)[0]

    def _canonical(self, name: str) -> str | None:
        found = (spelling.canonical(name) for spelling in self.layout.spellings)
        return next((canonical for canonical in found if canonical), None)

    def _is_foreign(self, layer: str) -> bool:
        """Whether a layer belongs to a net at another place."""
        prefixes, blocks = self._elsewhere
        if layer in blocks or layer.startswith(prefixes):
            return True
        return self._rest(layer) is None and self._canonical(layer) not in (None, CLASSIFIER)

    @cached_property
    def _elsewhere(self) -> tuple[tuple[str, ...], frozenset[str]]:
        """The prefixes of other nets, but for those around this one, and the layers of their dense blocks."""
        around = self.place.prefix
        prefixes = tuple(other.prefix for other in self.others if not around.startswith(other.prefix))
        return prefixes, frozenset().union(*(other.blocks for other in self.others))

    def _may_compute(self, rest: str | None, parameters: Mapping[str, str]) -> bool:
        """Whether tensors can be a layer's: they have more than one value, or are called a weight.

        A single number in a module of the net may be one, too, such as the exponent of a pool.
        """
        tensors = [self.checkpoint.tensors[name] for name in parameters.values()]
        if self.framework is not TORCH or "weight" in parameters or any(tensor.size > 1 for tensor in tensors):
            return True
        return bool(rest) and any(tensor.dtype.kind not in "iub" for tensor in tensors)

    @cached_property
    def _image_channels(self) -> int:
        """The channels that the stem takes, or 0 where no layer is known to be its."""
        for layer, parameters in self.zones.own.items():
            if self._canonical(layer) in ("stem.conv", "stem.conv1"):
                shapes = [self._shape(name) for name in parameters.values()]
                return next((self.framework.canonical_shape("conv", shape)[1] for shape in shapes if len(shape) > 2), 0)
        return 0

    def _has_kernel(self, parameters: Mapping[str, str], rank: int) -> bool:
        return any(len(self._shape(name)) >= rank for name in parameters.values())

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.checkpoint.tensors[name].shape


def reads_the_net(found: Detection, names: Iterable[str], checkpoint: Checkpoint) -> str:
    """Which dense layer beside a net reads what its body or its classifier gives, or ""."""
    config = found.config
    gives = {config.num_classes: f"its {config.num_classes} outputs", config.features: "its body gives"}
    for name in names:
        shape = checkpoint.tensors[name].shape
        if name.endswith(".weight") and len(shape) == 2 and shape[1] in gives and not PROJECTOR.search(name):
            return f"{quoted(name)} reads as many values as {gives[shape[1]]}, and may belong to the net"
    return ""
