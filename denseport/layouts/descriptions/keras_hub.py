"""The JSON files of a preset of keras_hub, which `keras_hub.models.ImageClassifier.from_preset(FOLDER)` opens.

Source: keras_hub/src/utils/preset_utils.py: KerasPresetSaver, KerasPresetLoader; keras_hub/src/models/task.py:
save_to_preset; keras_hub/src/models/densenet; keras_hub/src/layers/preprocessing/image_converter.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from denseport.formats import CONFIG, KERAS_HUB_FILES
from denseport.layouts.parse import find_layout
from denseport.layouts.spec import Layout
from denseport.metadata import Record
from denseport.net.config import DenseNetConfig
from denseport.net.graph import parameters
from denseport.preprocessing import USUAL_CROP, Preprocessing

STATED: frozenset[str] = frozenset()
_, _, _, METADATA, TASK, PREPROCESSOR, IMAGE_CONVERTER = KERAS_HUB_FILES
# The version whose presets these are like.
KERAS_HUB_VERSION = "0.20.0"
LAYOUT, BACKBONE = "keras-hub", "keras_hub>DenseNetBackbone"
LARGEST = sys.float_info.max


def stated(description: Mapping[str, Any], shown: str) -> Record:
    """The layout of a backbone of keras_hub, and the preprocessing.

    Raises:
        FormatError: The preprocessing makes no sense.
    """
    table = _preprocessing(description.get(IMAGE_CONVERTER, {}).get("config"))
    return Record(
        layout=LAYOUT if description[CONFIG].get("registered_name") == BACKBONE else "",
        preprocessing=Preprocessing.from_dict(table, f"{shown}/{IMAGE_CONVERTER}") if table else None,
    )


def _preprocessing(converter: object) -> dict[str, Any]:
    """What an image converter does, pixels * scale + offset, as a mean and a std of pixels from 0 to 1."""
    if not isinstance(converter, dict):
        return {}
    scale, offset = (_numbers(converter.get(name), usual) for name, usual in (("scale", 1.0), ("offset", 0.0)))
    if not scale or not offset or not all(scale):
        return {}
    channels = max(len(scale), len(offset))
    scale, offset = (numbers * channels if len(numbers) == 1 else numbers for numbers in (scale, offset))
    size, interpolation = converter.get("image_size"), converter.get("interpolation")
    table = {
        "mean": [-shift / (255 * factor) for factor, shift in zip(scale, offset, strict=False)],
        "std": [1 / (255 * factor) for factor in scale],
        "crop": size[0] if isinstance(size, list) and size else None,
        "interpolation": "lanczos" if str(interpolation).startswith("lanczos") else interpolation,
    }
    return {name: value for name, value in table.items() if value is not None}


def _numbers(value: object, usual: float) -> list[float]:
    """One number or a list of them; none where it is neither. Whole numbers may be larger than any float."""
    numbers: list[Any] = [usual] if value is None else value if isinstance(value, list) else [value]
    if not all(type(number) in (int, float) for number in numbers):
        return []
    return [float(max(-LARGEST, min(number, LARGEST))) for number in numbers]


def layout_of(_: DenseNetConfig) -> str:
    """The layout of keras_hub's own names."""
    return LAYOUT


def cannot_hold(config: DenseNetConfig) -> str:
    """Why keras_hub cannot build such a net, or "" where it can."""
    if reason := find_layout(LAYOUT).cannot_build(config):
        return reason
    if config.head_shape:
        return "keras_hub's DenseNets have no head behind a flattened map"
    if config.head_layers or not config.classifier_bias:
        return "keras_hub's DenseNets have one dense layer with a bias for a head"
    if config.compression is None:
        return "keras_hub's DenseNets have one ratio of compression for all transitions"
    return ""


def describe(
    config: DenseNetConfig, _: Layout, preprocessing: Preprocessing | None
) -> tuple[dict[str, Any], list[str]]:
    """The content of each file, and notes; the config must be one that keras_hub can hold."""
    from denseport.formats.keras import KERAS_VERSION  # with all that reads HDF5, which detection does not need

    backbone = _backbone(config)
    description: dict[str, Any] = {
        CONFIG: backbone,
        METADATA: {
            "keras_version": KERAS_VERSION,
            "keras_hub_version": KERAS_HUB_VERSION,
            "parameter_count": parameters(config.without_head()),
            "tasks": [] if config.num_classes is None else ["ImageClassifier"],
        },
    }
    preprocessor, notes = None, []
    if preprocessing is not None:
        converter = _converter(config, preprocessing)
        preprocessor = _object(
            "image_classifier_preprocessor",
            "DenseNetImageClassifierPreprocessor",
            {"image_converter": converter, "config_file": PREPROCESSOR},
        )
        description |= {IMAGE_CONVERTER: converter, PREPROCESSOR: preprocessor}
        if preprocessing.crop_fraction != 1:
            notes.append(
                "keras_hub resizes images to the size that the net takes; the source resizes them so that a crop keeps "
                f"{preprocessing.crop_fraction:g} of their shorter side"
            )
    if config.num_classes is not None:
        task = {
            "backbone": backbone,
            "preprocessor": preprocessor,
            "name": "dense_net_image_classifier",
            "num_classes": config.num_classes,
            "pooling": "avg",
            "activation": None,
            "dropout": 0.0,
        }
        description[TASK] = _object("image_classifier", "DenseNetImageClassifier", task)
    return description, notes


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
    mean, std = preprocessing.of_unit_pixels(config.in_channels)
    side = preprocessing.crop or USUAL_CROP
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
    """An object as keras_hub serialises it."""
    return {
        "module": f"keras_hub.src.models.densenet.densenet_{module}",
        "class_name": name,
        "config": config,
        "registered_name": f"keras_hub>{name}",
    }
