"""timm's `config.json`: the architecture by its name in timm, and how images are prepared.

Source: timm/models/_hub.py: load_model_config_from_path, save_for_hf; timm/models/densenet.py: DenseNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from denseport.formats import CONFIG
from denseport.layouts.parse import find_layout
from denseport.layouts.spec import Layout
from denseport.metadata import Record
from denseport.net.config import DenseNetConfig
from denseport.net.names import TAGS, find_config, timm_stem
from denseport.preprocessing import USUAL_CROP, Preprocessing

STATED = frozenset({"stem_pool"})
# What an architecture's name says of a net that none of its tensors shows.
NAMED: Mapping[str, Record] = MappingProxyType(
    {"densenetblur121d": Record(layout="timm-deep", traits={"stem_pool": "max-blur"})}
)


def stated(description: Mapping[str, Any], shown: str) -> Record:
    """The layout and traits of some architectures, and the preprocessing.

    Raises:
        FormatError: The preprocessing makes no sense.
    """
    config = description[CONFIG]
    table = _preprocessing(config)
    preprocessing = Preprocessing.from_dict(table, f"{shown}/{CONFIG}") if table else None
    return dataclasses.replace(NAMED.get(str(config.get("architecture")), Record()), preprocessing=preprocessing)


def _preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `pretrained_cfg` says, at the size that timm tests the net at."""
    stated = config.get("pretrained_cfg", config)
    if not isinstance(stated, dict) or "mean" not in stated or "std" not in stated:
        return {}
    size = stated.get("test_input_size") or stated.get("input_size")
    table = {
        "mean": stated["mean"],
        "std": stated["std"],
        "crop": size[-1] if isinstance(size, list) and size else None,
        "crop_fraction": stated.get("test_crop_pct") or stated.get("crop_pct"),
        "interpolation": stated.get("interpolation"),
    }
    return {name: value for name, value in table.items() if value is not None}


def layout_of(config: DenseNetConfig) -> str:
    """The layout of timm's own names for such a net."""
    return "torchvision" if len(config.stem_widths) == 1 else "timm-deep"


def cannot_hold(config: DenseNetConfig) -> str:
    """Why timm cannot build such a net, or "" where it can."""
    if reason := find_layout(layout_of(config)).cannot_build(config):
        return reason
    if config.head_shape:
        return "timm's DenseNets have no head behind a flattened map"
    if config.head_layers or not config.classifier_bias:
        return "timm's DenseNets have one dense layer with a bias for a head"
    if config.stem_widths[-1] != 2 * config.growth_rate:
        return (
            f"timm's DenseNets have stems of {2 * config.growth_rate} channels, this net has {config.stem_widths[-1]}"
        )
    if timm_stem(config) is None:
        return f"timm's DenseNets have no stem of {'-'.join(map(str, config.stem_widths))} channels"
    return ""


def describe(
    config: DenseNetConfig, _: Layout, preprocessing: Preprocessing | None
) -> tuple[dict[str, Any], list[str]]:
    """The content of the one file, and no notes; the config must be one that timm can hold."""
    architecture, arguments = _architecture(config)
    side = (preprocessing and preprocessing.crop) or USUAL_CROP
    pretrained: dict[str, Any] = {
        "input_size": [config.in_channels, side, side],
        "fixed_input_size": False,
        "num_classes": config.num_classes or 0,
        "first_conv": "features.conv0",
        "classifier": "classifier",
    }
    if preprocessing is not None:
        mean, std = preprocessing.of_unit_pixels(config.in_channels)
        pretrained |= {
            "mean": mean,
            "std": std,
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_fraction,
            "crop_mode": "center",
        }
    content = {
        "architecture": architecture,
        "num_classes": config.num_classes or 0,
        "num_features": config.features,
        "pretrained_cfg": pretrained,
        **({"model_args": arguments} if arguments else {}),
    }
    return {CONFIG: content}, []


def _architecture(config: DenseNetConfig) -> tuple[str, dict[str, Any]]:
    """timm's name for the net, and the arguments that make the named net into this one."""
    arguments: dict[str, Any] = {"in_chans": config.in_channels} if config.in_channels != 3 else {}
    for name in TAGS:
        named = find_config(name)
        like = dataclasses.replace(
            named,
            in_channels=config.in_channels,
            num_classes=config.num_classes,
            traits=dataclasses.replace(config.traits, stem_pool=named.traits.stem_pool),
        )
        if like == config:
            return name, arguments
    # A blur pool is no argument that JSON can say; it comes with the name.
    architecture = "densenetblur121d" if config.traits.stem_pool == "max-blur" else "densenet121"
    return architecture, arguments | {
        "growth_rate": config.growth_rate,
        "block_config": list(config.block_config),
        "bn_size": config.bn_size,
        "stem_type": timm_stem(config),
    }
