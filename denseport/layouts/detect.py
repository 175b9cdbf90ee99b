"""Which layout a checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from denseport import metadata
from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, quoted
from denseport.layouts import descriptions
from denseport.layouts.choice import described_net, only_net
from denseport.layouts.described import detect_described, figures
from denseport.layouts.descriptions import keras
from denseport.layouts.descriptions.net import DescribedNet
from denseport.layouts.detection import Detection
from denseport.layouts.frameworks import KERAS, TORCH
from denseport.layouts.keras_names import refuse_other_order, with_layers_around
from denseport.layouts.match import JOINED
from denseport.layouts.net_search import NetSearch
from denseport.layouts.parse import find_layout, known_layouts, own_layouts
from denseport.layouts.prefixes import ROOT, branches
from denseport.layouts.shown import as_shown
from denseport.layouts.spec import Layout
from denseport.layouts.torch_modules import as_built
from denseport.layouts.traits import Said, refuse_contradiction, refuse_idle
from denseport.net.config import Inputs, Traits


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
    search = NetSearch(checkpoint, said, drop_head, net)
    for each in (search, *search.without_wrappers()):
        for candidates in _candidates(checkpoint, layout, recorded):
            if found := each.nets(candidates):
                detection = as_built(each.completed(only_net(found, checkpoint)), checkpoint)
                return _settled(detection, checkpoint, traits, drop_head=drop_head)
    detection = as_built(search.by_shape(asked=layout is not None), checkpoint)
    return _settled(detection, checkpoint, traits, drop_head=drop_head)


def _settled(detection: Detection, checkpoint: Checkpoint, traits: Mapping[str, Any], *, drop_head: bool) -> Detection:
    """A detection with what the weights show, held against the names in the file and against what the user states.

    Raises:
        LayoutError: One contradicts the other, the order of joined pools would be a guess, or normalisations of
            images were left out.
    """
    refuse_other_order(checkpoint, detection)
    if checkpoint.described_by == "keras" and not detection.described and keras.scales_images(checkpoint.description):
        channels = detection.config.in_channels
        scaled = replace(Inputs.unchanged(channels), scale=(1 / 255,) * channels)
        detection = replace(detection, config=detection.config.replace(inputs=scaled))
    found = as_shown(with_layers_around(detection, checkpoint), checkpoint)
    if not drop_head:
        refuse_idle(traits, found.config, checkpoint.label)
    if found.origins["head_pool"] not in ("layout", "usual") or found.config.traits.head_pool not in JOINED:
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
    search = NetSearch(checkpoint, {"file": described.traits, "option": {}}, drop_head=False, net=None)
    tried = _candidates(checkpoint, layout, checkpoint.metadata.get(metadata.LAYOUT, described.layout))
    found = next((found for candidates in tried if (found := search.nets(candidates))), [])
    found = found or (search.nets_by_shape()[0] if layout is None else [])
    used = {name for each in found for name in each.detection.roles.values()}
    nets = [
        Net(each.place.path, described_net(each, found), each.detection.layout.name, len(each.detection.roles))
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
    if own := own_layouts():
        return [own, *_candidates_that_ship(checkpoint, recorded)]
    return _candidates_that_ship(checkpoint, recorded)


def _candidates_that_ship(checkpoint: Checkpoint, recorded: str) -> list[list[Layout]]:
    """The same of the layouts that ship with the package."""
    known = list(known_layouts().values())
    if first := [candidate for candidate in known if candidate.name == recorded]:
        return [first, [candidate for candidate in known if candidate.detected]]
    if checkpoint.nameless:
        of_keras = [c for c in known if c.detected and KERAS in c.frameworks and TORCH not in c.frameworks]
        return [[c for c in known if c.nameless], of_keras]
    return [[candidate for candidate in known if candidate.detected]]
