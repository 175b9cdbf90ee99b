"""The feature maps of a DenseNet at each resolution, for detectors and segmenters that are built on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from denseport.errors import UsageError
from denseport.models.pytorch.densenet import DenseNet
from denseport.net.config import DenseNetConfig
from denseport.net.graph import Node, graph, reduction


@dataclass(frozen=True)
class FeatureMap:
    """One of the maps: the module whose output it is, its channels, and how many pixels a side of it stands for."""

    module: str
    channels: int
    reduction: int


@dataclass(frozen=True)
class FeatureInfo:
    """What is known of the maps that a `FeatureNet` returns; called as timm calls it."""

    maps: tuple[FeatureMap, ...]

    def channels(self) -> list[int]:
        """The channels of each map."""
        return [each.channels for each in self.maps]

    def reduction(self) -> list[int]:
        """How many pixels of the image a side of one position of each map stands for."""
        return [each.reduction for each in self.maps]

    def module_name(self) -> list[str]:
        """The canonical name of the module whose output each map is."""
        return [each.module for each in self.maps]


class FeatureNet(DenseNet):
    """A DenseNet without pool and classifier: (N, C, *spatial) images to a list of maps, the finest first.

    The maps are the stem's before its pool, each block's before its transition, and the last block's behind the last
    normalisation and ReLU; so the deepest is half as large as the one before it, and each is complete. Modules behind
    the last map that was asked for are left out; all others have the names that they have in `DenseNet`.

    Attributes:
        feature_info: The channels and the reduction of each map.

    Raises:
        UsageError: An index is none of the maps'.

    Source: timm `densenet.py`, `DenseNet.feature_info`; `_features.py`, `FeatureListNet`, `FeatureInfo`.
    """

    def __init__(
        self,
        config: DenseNetConfig,
        out_indices: Sequence[int] | None = None,
        *,
        layer_drop_rate: float = 0.0,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__(config.without_head(), layer_drop_rate=layer_drop_rate, memory_efficient=memory_efficient)
        every = feature_maps(config)
        wanted = list(range(len(every))) if out_indices is None else [_counted(i, len(every)) for i in out_indices]
        if not wanted:
            raise UsageError("out_indices names no map; leave it out for all of them")
        self.feature_info = FeatureInfo(tuple(every[index] for index in sorted(set(wanted))))
        self._parts = [name for name, _ in self.named_children()]
        last = self.feature_info.maps[-1].module
        for name in self._parts[self._parts.index(last.partition(".")[0]) + 1 :]:
            delattr(self, name)
        for name in ("pool", "flatten"):
            if last.startswith("head") and hasattr(self.head, name):
                delattr(self.head, name)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(N, C, *spatial) to maps (N, channels, *smaller)."""
        wanted = self.feature_info.module_name()
        maps = []
        for name, part in self.named_children():
            inner = part.named_children() if name == "stem" else [("", part)]
            for inner_name, module in inner:
                x = module(x)
                if f"{name}.{inner_name}".rstrip(".") in wanted:
                    maps.append(x)
        return maps


def feature_maps(config: DenseNetConfig) -> list[FeatureMap]:
    """Every map that a net of this configuration can give."""
    ends: dict[str, Node] = {}
    for node in graph(config):
        stage = node.name.partition(".")[0]
        if (node.kind == "concat" and stage.startswith("block")) or (stage == "stem" and "pool" not in node.kind):
            ends[stage] = node
    maps = [
        FeatureMap(node.name if stage == "stem" else stage, node.width, max(reduction(config, node.name)))
        for stage, node in ends.items()
    ]
    return [*maps[:-1], replace(maps[-1], module="head")]


def _counted(index: int, count: int) -> int:
    """An index from the start, of one that may count from the end."""
    if not -count <= index < count:
        raise UsageError(f"out_indices has {index}; this net has maps 0 to {count - 1}")
    return index % count
