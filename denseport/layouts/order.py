"""Roles by order: for layers that carry no names of their own, only a class and a place in the graph.

Keras builds its layers in graph order and counts each class by itself, so the n-th convolution of the file is the
n-th of the network, and the same holds for normalisations.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from denseport.architecture import Kind, layers
from denseport.config import DenseNetConfig
from denseport.errors import LayoutError, quoted

Shape = tuple[int, ...]


def canonical_by_order(found: Mapping[Kind, Mapping[str, Shape]]) -> dict[str, str | None]:
    """The canonical name of each layer.

    Args:
        found: For each kind, the layers in graph order with the shape of their kernel, canonical (O, I, *spatial), or
            of their scale. One dense layer at the most is given a name.

    Raises:
        LayoutError: The layers in this order are no DenseNet; the message names the first that breaks the pattern.
    """
    config = _config(list(found["conv"].items()), list(found["norm"].items()))
    named: dict[str, str | None] = dict.fromkeys(layer for own in found.values() for layer in own)
    for of in ("conv", "norm"):
        expected = [layer.name for layer in layers(config) if layer.kind == of]
        named |= dict(zip(found[of], expected, strict=True))
    if len(found["dense"]) == 1:
        named |= dict.fromkeys(found["dense"], "head.classifier")
    return named


def _config(convs: list[tuple[str, Shape]], norms: list[tuple[str, Shape]]) -> DenseNetConfig:
    """The configuration that has these convolutions and normalisations in this order."""
    if len(convs) < 2:
        raise LayoutError("there are fewer than two convolutions")
    (_, stem), rest = convs[0], convs[1:]
    plain = rest[0][1][-1] > 1
    growth_rate, bottleneck_width = (
        rest[0 if plain else 1][1][0] if len(rest) > 1 else 0,
        None if plain else rest[0][1][0],
    )
    block_config, transition_widths = [0], list[int]()
    at = 0
    while at < len(rest):
        layer, kernel = rest[at]
        own = [kernel] if plain else [shape for _, shape in rest[at : at + 2]]
        if len(own) == (1 if plain else 2) and own[-1][-1] > 1:
            if own[-1][0] != growth_rate or (not plain and own[0][0] != bottleneck_width):
                raise LayoutError(f"{quoted(layer)} {kernel} is no dense layer of growth rate {growth_rate}")
            block_config[-1] += 1
            at += len(own)
        else:
            transition_widths.append(kernel[0])
            block_config.append(0)
            at += 1
    if not all(block_config):
        raise LayoutError("the convolutions in their order form no dense blocks")
    widths = [shape[0] for _, shape in norms]
    for stem_norm, bottleneck_norm, final_norm in itertools.product((True, False), repeat=3):
        config = DenseNetConfig(
            growth_rate=growth_rate,
            block_config=tuple(block_config),
            stem_widths=(stem[0],),
            bottleneck_width=bottleneck_width,
            transition_widths=tuple(transition_widths),
            in_channels=stem[1],
            num_classes=None,
            dimensions=len(stem) - 2,
            stem_kernel=stem[-1],
            stem_norm=stem_norm,
            bottleneck_norm=bottleneck_norm,
            final_norm=final_norm,
        )
        if [layer.shapes["weight"][0] for layer in layers(config) if layer.kind == "norm"] == widths:
            return config
    raise LayoutError(
        f"its convolutions are those of blocks {'-'.join(map(str, block_config))} with growth rate {growth_rate}, but "
        f"its {len(widths)} normalisations do not stand where a DenseNet has them"
    )
