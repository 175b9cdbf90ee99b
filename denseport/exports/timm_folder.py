"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens: `config.json` and `model.safetensors`.

Source: timm/models/_hub.py: load_model_config_from_path, save_for_hf; timm/models/densenet.py: DenseNet.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denseport import formats, layouts
from denseport.exports.pixels import USUAL_SIDE, fault, unit_statistics
from denseport.formats.folder import CONFIG, TIMM_WEIGHTS
from denseport.layouts.frameworks import TORCH
from denseport.net.config import DenseNetConfig
from denseport.net.names import TAGS, find_config, timm_stem
from denseport.preprocessing import Preprocessing

FILES = (CONFIG, TIMM_WEIGHTS)


def layout_of(config: DenseNetConfig) -> str:
    """The layout of timm's own names for such a net."""
    return "torchvision" if len(config.stem_widths) == 1 else "timm-deep"


def cannot_hold(config: DenseNetConfig) -> str:
    """Why timm cannot build such a net, or "" where it can."""
    if reason := layouts.find_layout(layout_of(config)).cannot_build(config):
        return reason
    if config.head_shape:
        return "timm's DenseNets have no head behind a flattened map"
    if config.stem_widths[-1] != 2 * config.growth_rate:
        return (
            f"timm's DenseNets have stems of {2 * config.growth_rate} channels, this net has {config.stem_widths[-1]}"
        )
    if timm_stem(config) is None:
        return f"timm's DenseNets have no stem of {'-'.join(map(str, config.stem_widths))} channels"
    return ""


def write(
    weights: layouts.Weights,
    layout: layouts.Layout,
    metadata: Mapping[str, str],
    preprocessing: Preprocessing | None,
    path: Path,
) -> list[str]:
    """Writes the two files into a folder that is there; the config must be one that timm can hold."""
    unsaid = fault("timm", preprocessing, weights.config.in_channels)
    content = json.dumps(_config(weights.config, None if unsaid else preprocessing), indent=2)
    (path / CONFIG).write_text(f"{content}\n", encoding="utf-8")
    formats.write(layouts.from_canonical(weights, layout, TORCH), metadata, path / TIMM_WEIGHTS, "safetensors")
    return [unsaid] if unsaid else []


def _config(config: DenseNetConfig, preprocessing: Preprocessing | None) -> dict[str, Any]:
    architecture, arguments = _architecture(config)
    side = USUAL_SIDE if preprocessing is None else preprocessing.crop or USUAL_SIDE
    pretrained: dict[str, Any] = {
        "input_size": [config.in_channels, side, side],
        "fixed_input_size": False,
        "num_classes": config.num_classes or 0,
        "first_conv": "features.conv0",
        "classifier": "classifier",
    }
    if preprocessing is not None:
        mean, std = unit_statistics(preprocessing, config.in_channels)
        pretrained |= {
            "mean": mean,
            "std": std,
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_fraction,
            "crop_mode": "center",
        }
    return {
        "architecture": architecture,
        "num_classes": config.num_classes or 0,
        "num_features": config.features,
        "pretrained_cfg": pretrained,
        **({"model_args": arguments} if arguments else {}),
    }


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
