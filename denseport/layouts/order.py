"""Roles by order: for files whose layers carry no names of their own, only a class and a place in the graph.

Keras builds its layers in graph order and counts each class by itself, so the n-th convolution of the file is the
n-th of the network, and the same holds for normalisations.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from denseport.architecture import Kind, Layer, layers
from denseport.config import DenseNetConfig, Traits
from denseport.errors import LayoutError
from denseport.layouts.frameworks import Framework

Shape = tuple[int, ...]


def roles_by_order(shapes: Mapping[str, Shape], framework: Framework, traits: Traits) -> dict[str, str]:
    """Canonical tensor name to the name in `shapes`, from the classes, shapes and order of the layers alone.

    Raises:
        LayoutError: The layers in this order are no DenseNet; the message names the first that breaks the pattern.
    """
    found = _layers(shapes, framework)
    kernels = [(name, _canonical_shape(found["conv"][name], framework)) for name in found["conv"]]
    config = _config(kernels, [next(iter(own.values()))[0] for own in found["norm"].values()], traits)
    if len(found["dense"]) == 1:
        (kernel,) = (own[framework.parameters["dense"][0]] for own in found["dense"].values())
        config = config.replace(num_classes=kernel[-1])
    roles: dict[str, str] = {}
    own_names: dict[Kind, list[str]] = {kind: list(own) for kind, own in found.items()}
    for kind, names in own_names.items():
        expected: list[Layer] = [layer for layer in layers(config) if layer.kind == kind]
        if len(expected) != len(names):
            raise LayoutError(f"there are {len(names)} layers of kind {kind} where this net has {len(expected)}")
        for layer, name in zip(expected, names, strict=True):
            for parameter in layer.shapes:
                roles[f"{layer.name}.{parameter}"] = framework.spell(name, kind, parameter)
    return roles


def _layers(shapes: Mapping[str, Shape], framework: Framework) -> dict[Kind, dict[str, dict[str, Shape]]]:
    """The layers of each kind in file order, each with its parameters' shapes."""
    by_name: dict[str, dict[str, Shape]] = {}
    for tensor, shape in shapes.items():
        layer, parameter = framework.split(tensor)
        by_name.setdefault(layer, {})[parameter] = shape
    found: dict[Kind, dict[str, dict[str, Shape]]] = {"conv": {}, "norm": {}, "dense": {}}
    for layer, own in by_name.items():
        kernel = own.get(framework.parameters["conv"][0])
        kind: Kind = "norm" if kernel is None else "dense" if len(kernel) == 2 else "conv"
        if own.keys() - set(framework.parameters[kind]):
            raise LayoutError(f"layer {layer} has parameters that no layer of a DenseNet has")
        found[kind][layer] = own
    return found


def _canonical_shape(own: Mapping[str, Shape], framework: Framework) -> Shape:
    kernel = own[framework.parameters["conv"][0]]
    return tuple(kernel[axis] for axis in framework.to_canonical("conv", len(kernel)))


def _config(kernels: list[tuple[str, Shape]], norm_widths: list[int], traits: Traits) -> DenseNetConfig:
    """The configuration whose convolutions have these kernels (O, I, *spatial), and whose norms have these widths."""
    if len(kernels) < 2:
        raise LayoutError("there are fewer than two convolutions")
    (_, stem), rest = kernels[0], kernels[1:]
    block_config, transition_widths = [0], list[int]()
    growth_rates, bottleneck_widths = set[int](), set[int | None]()
    at = 0
    while at < len(rest):
        _, kernel = rest[at]
        follower = rest[at + 1][1] if at + 1 < len(rest) else (0, 0, 1)
        if kernel[-1] > 1:
            bottleneck_widths.add(None)
            growth_rates.add(kernel[0])
            block_config[-1] += 1
        elif follower[-1] > 1:
            bottleneck_widths.add(kernel[0])
            growth_rates.add(follower[0])
            block_config[-1] += 1
            at += 1
        else:
            transition_widths.append(kernel[0])
            block_config.append(0)
        at += 1
    if len(growth_rates) != 1 or len(bottleneck_widths) != 1 or not all(block_config):
        raise LayoutError("the convolutions in their order form no dense blocks of one growth rate")
    for stem_norm, bottleneck_norm, final_norm in itertools.product((True, False), repeat=3):
        config = DenseNetConfig(
            growth_rate=next(iter(growth_rates)),
            block_config=tuple(block_config),
            stem_widths=(stem[0],),
            bottleneck_width=next(iter(bottleneck_widths)),
            transition_widths=tuple(transition_widths),
            in_channels=stem[1],
            num_classes=None,
            dimensions=len(stem) - 2,
            stem_kernel=stem[-1],
            stem_norm=stem_norm,
            bottleneck_norm=bottleneck_norm,
            final_norm=final_norm,
            traits=traits,
        )
        if [layer.shapes["weight"][0] for layer in layers(config) if layer.kind == "norm"] == norm_widths:
            return config
    raise LayoutError("the normalisations in their order do not have the widths that the convolutions ask for")
