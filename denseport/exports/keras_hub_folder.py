"""A preset folder that `keras_hub.models.ImageClassifier.from_preset(FOLDER)` opens; headless, a backbone's.

Source: keras_hub/src/utils/preset_utils.py: KerasPresetSaver, KerasPresetLoader; keras_hub/src/models/task.py:
save_to_preset; keras_hub/src/models/densenet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denseport import layouts
from denseport.exports.pixels import USUAL_SIDE, fault, unit_statistics
from denseport.formats import folder
from denseport.formats.keras import weights as keras3
from denseport.layouts.frameworks import KERAS
from denseport.net.config import DenseNetConfig
from denseport.net.graph import parameters
from denseport.preprocessing import Preprocessing

FILES = (
    folder.CONFIG,
    folder.METADATA,
    folder.BACKBONE_WEIGHTS,
    folder.TASK,
    folder.TASK_WEIGHTS,
    folder.PREPROCESSOR,
    folder.IMAGE_CONVERTER,
)
MODULE = "keras_hub.src.models.densenet.densenet_"
# The version whose presets these are like.
KERAS_HUB_VERSION, KERAS_VERSION = "0.20.0", "3.6.0"


def layout_of(_: DenseNetConfig) -> str:
    """The layout of keras_hub's own names."""
    return "keras-hub"


def cannot_hold(config: DenseNetConfig) -> str:
    """Why keras_hub cannot build such a net, or "" where it can."""
    if reason := layouts.find_layout("keras-hub").cannot_build(config):
        return reason
    if config.head_shape:
        return "keras_hub's DenseNets have no head behind a flattened map"
    if config.compression is None:
        return "keras_hub's DenseNets have one ratio of compression for all transitions"
    return ""


def write(
    weights: layouts.Weights,
    layout: layouts.Layout,
    metadata: Mapping[str, str],
    preprocessing: Preprocessing | None,
    path: Path,
) -> list[str]:
    """Writes the preset's files into a folder that is there; the config must be one that keras_hub can hold."""
    config, notes = weights.config, []
    tensors = layouts.from_canonical(weights, layout, KERAS)
    head = {name: tensor for name, tensor in tensors.items() if name.startswith("predictions/")}
    body = {name: tensor for name, tensor in tensors.items() if name not in head}
    keras3.write(body, metadata, path / folder.BACKBONE_WEIGHTS)
    backbone = _backbone(config)
    about: dict[str, Any] = {
        "keras_version": KERAS_VERSION,
        "keras_hub_version": KERAS_HUB_VERSION,
        "parameter_count": parameters(config.without_head()),
        "tasks": ["ImageClassifier"] if head else [],
    }
    preprocessor = None
    unsaid = fault("keras_hub", preprocessing, config.in_channels)
    if preprocessing is not None and not unsaid:
        converter = _converter(config, preprocessing)
        preprocessor = _object(
            "image_classifier_preprocessor",
            "DenseNetImageClassifierPreprocessor",
            {"image_converter": converter, "config_file": folder.PREPROCESSOR},
        )
        _write(path / folder.IMAGE_CONVERTER, converter)
        _write(path / folder.PREPROCESSOR, preprocessor)
        if preprocessing.crop_fraction != 1:
            notes.append(
                "keras_hub resizes images to the size that the net takes; the source resizes them so that a crop keeps "
                f"{preprocessing.crop_fraction:g} of their shorter side"
            )
    notes += [unsaid] if unsaid else []
    if head:
        keras3.write(head, {}, path / folder.TASK_WEIGHTS)
        task = {
            "backbone": backbone,
            "preprocessor": preprocessor,
            "name": "dense_net_image_classifier",
            "num_classes": config.num_classes,
            "pooling": "avg",
            "activation": None,
            "dropout": 0.0,
        }
        _write(path / folder.TASK, _object("image_classifier", "DenseNetImageClassifier", task))
    _write(path / folder.METADATA, about)
    _write(path / folder.CONFIG, backbone)
    return notes


def _backbone(config: DenseNetConfig) -> dict[str, Any]:
    return _object(
        "backbone",
        "DenseNetBackbone",
        {
            "name": "dense_net_backbone",
            "trainable": True,
            "stackwise_num_repeats": list(config.block_config),
            "compression_ratio": config.compression,
            "growth_rate": config.growth_rate,
            "image_shape": [None, None, config.in_channels],
        },
    )


def _converter(config: DenseNetConfig, preprocessing: Preprocessing) -> dict[str, Any]:
    """pixels * scale + offset, after resizing with a filter against aliasing, as PIL always has one."""
    mean, std = unit_statistics(preprocessing, config.in_channels)
    side = preprocessing.crop or USUAL_SIDE
    interpolation = "lanczos3" if preprocessing.interpolation == "lanczos" else preprocessing.interpolation
    return _object(
        "image_converter",
        "DenseNetImageConverter",
        {
            "image_size": [side, side],
            "scale": [1 / 255 / each for each in std],
            "offset": [-middle / each for middle, each in zip(mean, std, strict=True)],
            "interpolation": interpolation,
            "antialias": interpolation != "nearest",
            "crop_to_aspect_ratio": True,
            "pad_to_aspect_ratio": False,
        },
    )


def _object(module: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": f"{MODULE}{module}",
        "class_name": name,
        "config": config,
        "registered_name": f"keras_hub>{name}",
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(f"{json.dumps(content, indent=4)}\n", encoding="utf-8")
