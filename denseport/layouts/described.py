"""A net whose file describes it: roles by that description, whatever its layers are called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, quoted
from denseport.layouts.descriptions.net import DescribedNet, Place
from denseport.layouts.detection import Detection
from denseport.layouts.frameworks import KERAS, KERAS_ON_THEANO, THEANO, Framework, Groups
from denseport.layouts.match import Matching, MisfitError, Named, namings
from denseport.layouts.parse import find_layout, known_layouts
from denseport.layouts.spec import Layout
from denseport.layouts.template import SCALE
from denseport.layouts.traits import Said, refuse_contradiction
from denseport.net.config import DenseNetConfig
from denseport.net.graph import graph, sizes

Shape = tuple[int, ...]

# The layout of nets whose names are no layout's.
WITHOUT_NAMES = "keras-numbered"
# Names of the statistics of a `Normalization` where variables are only numbered.
STATISTICS = {"0": "mean", "1": "variance"}


def figures(checkpoint: Checkpoint, place: Place) -> dict[str, np.ndarray]:
    """The values of a layer's parameters by name; none where the file has no such layer."""
    groups = KERAS.grouped({name: name for name in checkpoint.tensors})
    found = groups.get(_group_beside(place, groups, checkpoint) or "", {})
    return {STATISTICS.get(parameter, parameter): checkpoint.tensors[name].read() for parameter, name in found.items()}


def detect_described(
    checkpoint: Checkpoint, net: DescribedNet, layout: str | Path | None, traits: Mapping[str, Any], *, drop_head: bool
) -> Detection:
    """The detection that a description of the net gives.

    Args:
        checkpoint: The tensors.
        net: What is described beside them.
        layout: The layout that the user names, or None for the one whose names the layers have, if there is one.
        traits: Those that the user states.
        drop_head: Whether tensors that the description has no place for are left out.

    Raises:
        LayoutError: Tensors are missing, left over, or of other shapes than those of such a net; or the layout gives
            layers other roles than the description does.
    """
    said: Said = {"file": net.traits, "option": traits}
    refuse_contradiction(said, checkpoint.label)
    theano = checkpoint.backend == "theano"
    framework = THEANO if net.theano_kernels else KERAS_ON_THEANO if theano else KERAS
    groups = framework.grouped({name: name for name in checkpoint.tensors})
    beside = {_group_beside(place, groups, checkpoint) for place in net.beside}
    own = {layer: parameters for layer, parameters in groups.items() if layer not in beside}
    named: dict[str, str | None] = dict.fromkeys(own)
    for canonical, place in net.places.items():
        layer = _group_of(place, own, checkpoint)
        if layer is None:
            raise LayoutError(
                f"{checkpoint.label}: has no weights of layer {quoted(place.name)}, which its configuration lists; "
                "save the model again"
            )
        if named[layer] is not None:
            raise LayoutError(
                f"{checkpoint.label}: {quoted(layer)} would be {named[layer]} and {canonical}; save the model again, "
                "each layer with a name of its own"
            )
        named[layer] = canonical
    found = _layout(checkpoint, own, named, framework, net, layout)
    try:
        detection = _Described(checkpoint, found, framework, named, net=net).detection(own, said, drop_head)
        return replace(detection, described=True, reading=net.notes, wrapper=checkpoint.wrapper)
    except MisfitError as misfit:
        raise LayoutError(
            f"{checkpoint.label}: its weights are not those of the net that its configuration describes: {misfit}; "
            "save the model again"
        ) from None


def _group_of(place: Place, groups: Groups, checkpoint: Checkpoint) -> str | None:
    """The layer of the file that a description's layer is, or None."""
    if checkpoint.nameless:
        return place.counted if place.counted in groups else None
    if place.name in groups:
        return place.name
    # A `.keras` file that denseport wrote has names in the weights that Keras does not allow in a configuration.
    alike = [layer for layer in groups if layer.replace(".", "_") == place.name or layer.endswith(f"/{place.name}")]
    if len(alike) > 1:
        alike = [layer for layer in alike if set(place.inside) & set(layer.split("/"))]
    if len(alike) == 1:
        return alike[0]
    # In a legacy file, the only layer of an inner model goes by that model's name.
    return next((model for model in reversed(place.inside) if model in groups), None)


def _group_beside(place: Place, groups: Groups, checkpoint: Checkpoint) -> str | None:
    """The same for a layer that prepares images; Keras 2 names what a `Normalization` learns without its layer."""
    found = _group_of(place, groups, checkpoint)
    return "" if found is None and {"mean", "variance"} <= groups.get("", {}).keys() else found


def _layout(
    checkpoint: Checkpoint,
    groups: Groups,
    named: Named,
    framework: Framework,
    net: DescribedNet,
    asked: str | Path | None,
) -> Layout:
    """The layout that gives the layers the roles that they have; one without names where there is none."""
    if asked is not None:
        layout = find_layout(asked)
        if layout.name == WITHOUT_NAMES or _gives(layout, checkpoint, groups, named, framework):
            return layout
        raise LayoutError(
            f"{checkpoint.label}: its configuration says which layer is which, and not as layout {layout.name} has it; "
            "leave --from-layout out"
        )
    for layout in known_layouts().values():
        fits = layout.detected and _gives(layout, checkpoint, groups, named, framework)
        if fits and (not layout.numbered or all(net.traits.get(n) == value for n, value in layout.traits.items())):
            return layout
    return find_layout(WITHOUT_NAMES)


def _gives(layout: Layout, checkpoint: Checkpoint, groups: Groups, named: Named, framework: Framework) -> bool:
    """Whether a layout gives each layer of the body the role that it has."""
    if framework.runs_in not in {each.runs_in for each in layout.frameworks}:
        return False
    body = {layer: canonical for layer, canonical in named.items() if canonical and not canonical.startswith("head.")}
    try:
        ways = namings(checkpoint, layout, framework, groups)
    except MisfitError:
        return False
    return any(all(way.get(layer) == canonical for layer, canonical in body.items()) for way in ways)


@dataclass
class _Described(Matching):
    """A matching whose names come from a description, which also says what shapes do not show."""

    net: DescribedNet = field(kw_only=True)

    def architecture(self) -> DenseNetConfig:
        """The configuration that shapes and description give together."""
        config, net = super().architecture(), self.net
        if self.strangers:
            config = config.replace(num_classes=None)
        if net.head_layers:
            config = config.replace(num_classes=self._outputs(), head_layers=net.head_layers)
        elif config.num_classes is not None:
            config = config.replace(classifier_bias=net.classifier_bias)
        stem = config.in_channels
        if net.inputs and len(net.inputs.order) != stem:
            raise self.misfit(f"{len(net.inputs.order)} channels are made of the image, and the stem takes {stem}")
        return config.replace(inputs=net.inputs, head_shape=self._map(config) if net.flattened else ())

    def take_head(self, _groups: Groups, config: DenseNetConfig, _said: Said) -> DenseNetConfig:
        """No layer is left over that could be the head: the description names it."""
        return config

    def with_pools(self, config: DenseNetConfig, **_: bool) -> DenseNetConfig:
        """The description says what the head takes."""
        return config

    def drop_strangers(self) -> None:
        """Leaves out every layer that the description has no place for."""
        for parameters in self.strangers.values():
            self.dropped += parameters.values()
        self.strangers.clear()

    def expected(self, config: DenseNetConfig) -> dict[str, Shape]:
        """As for a layout, and a scale behind each norm that the description gives one."""
        tensors = super().expected(config)
        for canonical in self.net.places:
            norm = canonical.removesuffix(SCALE)
            if norm != canonical and f"{norm}.weight" in tensors:
                tensors |= {f"{canonical}.{each}": tensors[f"{norm}.{each}"] for each in ("weight", "bias")}
        return tensors

    def _outputs(self) -> int:
        """The outputs of the last dense layer."""
        last = [canonical for canonical in self.net.places if canonical.startswith("head.dense")][-1]
        return self.shape(f"{last}.weight", self.roles[f"{last}.weight"])[0]

    def _map(self, config: DenseNetConfig) -> Shape:
        """The last map of an image of the size that the model takes; () where it has one position."""
        traits = self.net.traits
        spatial = config.replace(**traits, head_shape=(), head_layers=(), num_classes=None)
        if len(self.net.image_size) != config.dimensions:
            raise self.misfit("a map is flattened, and the model does not say what size its images have")
        last = next(node for node in graph(spatial) if node.name.startswith("head.pool"))
        found = sizes(spatial, self.net.image_size)[last.inputs[0]]
        return found if math.prod(found) > 1 else ()
