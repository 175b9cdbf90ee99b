"""Folders in which libraries keep a model: timm's `config.json` and `model.safetensors`, and keras_hub's presets.

The weights are read, and what the configuration beside them says of the preprocessing; nothing is built from it.
Source: timm/models/_hub.py: save_for_hf; keras_hub/src/utils/preset_utils.py: KerasPresetSaver.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from denseport.checkpoint import Checkpoint
from denseport.errors import FormatError, UsageError
from denseport.formats import safetensors
from denseport.formats.keras import legacy as h5
from denseport.formats.keras.config import parse_config
from denseport.formats.source_file import SourceFile
from denseport.preprocessing import Preprocessing

CONFIG, METADATA = "config.json", "metadata.json"
TIMM_WEIGHTS = "model.safetensors"
BACKBONE_WEIGHTS, TASK, TASK_WEIGHTS = "model.weights.h5", "task.json", "task.weights.h5"
PREPROCESSOR, IMAGE_CONVERTER = "preprocessor.json", "image_converter.json"
MAX_CONFIG_BYTES = 1 << 20
# What timm's names say of a net that none of its tensors shows.
TIMM_TRAITS: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType(
    {"densenetblur121d": ("timm-deep", {"stem_pool": "max-blur"})}
)
KERAS_HUB_BACKBONE = "keras_hub>DenseNetBackbone"


def weights_files(folder: Path, shown: str | Path | None = None) -> tuple[Path, ...]:
    """The files of a folder that hold its weights, the body's first.

    Raises:
        UsageError: It is no such folder.
    """
    if (folder / CONFIG).is_file():
        if (folder / TIMM_WEIGHTS).is_file():
            return (folder / TIMM_WEIGHTS,)
        if (folder / BACKBONE_WEIGHTS).is_file():
            task = folder / TASK_WEIGHTS
            return (folder / BACKBONE_WEIGHTS, *((task,) if task.is_file() else ()))
    raise UsageError(
        f"{shown or folder}: is a folder without {CONFIG} and {TIMM_WEIGHTS} or {BACKBONE_WEIGHTS}, which timm and "
        "keras_hub write; give the file that holds the weights"
    )


def read(path: Path, shown: str | Path | None = None) -> Checkpoint:
    """The tensors of a folder's weights, with `preprocessing` among its metadata where the folder says it.

    Raises:
        UsageError: It is no folder of timm's or keras_hub's.
        FormatError: A file in it is broken.
    """
    files = weights_files(path, shown)
    shown = shown or path
    config = _json(path, CONFIG, shown)
    if files[0].name == TIMM_WEIGHTS:
        checkpoint = safetensors.read(files[0], f"{shown}/{TIMM_WEIGHTS}")
        preprocessing = _stated(_timm_preprocessing(config), f"{shown}/{CONFIG}")
        stated = {**_timm_traits(config), **checkpoint.metadata, **preprocessing}
        return replace(checkpoint, path=shown, container="timm folder", metadata=stated)
    checkpoint, *others = [h5.read(file, f"{shown}/{file.name}") for file in files]
    tensors = dict(checkpoint.tensors)
    for other in others:
        tensors |= other.tensors
    metadata = {"layout": "keras-hub"} if config.get("registered_name") == KERAS_HUB_BACKBONE else {}
    metadata |= checkpoint.metadata
    if (path / IMAGE_CONVERTER).is_file():
        converter = _json(path, IMAGE_CONVERTER, shown)
        metadata |= _stated(_keras_hub_preprocessing(converter), f"{shown}/{IMAGE_CONVERTER}")

    def close() -> None:
        for each in (checkpoint, *others):
            each.close()

    return replace(
        checkpoint, tensors=tensors, path=shown, container="keras_hub preset folder", metadata=metadata, close=close
    )


def _json(folder: Path, name: str, shown: str | Path) -> dict[str, Any]:
    source = SourceFile(folder / name, f"{shown}/{name}")
    try:
        if source.size > MAX_CONFIG_BYTES:
            raise FormatError(
                f"{source.path}: has {source.size} bytes, more than a configuration takes; save the model again"
            )
        return parse_config(source.read(0, source.size), str(source.path))
    finally:
        source.close()


def _timm_traits(config: Mapping[str, Any]) -> dict[str, str]:
    name = config.get("architecture")
    if name not in TIMM_TRAITS:
        return {}
    layout, traits = TIMM_TRAITS[str(name)]
    return {"layout": layout, "traits": json.dumps(dict(traits))}


def _stated(table: Mapping[str, Any], file: str) -> dict[str, str]:
    """A preprocessing as metadata; nothing where none is stated.

    Raises:
        FormatError: It is none that makes sense.
    """
    if not table:
        return {}
    return {"preprocessing": json.dumps(Preprocessing.from_dict(dict(table), file).to_dict())}


def _timm_preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
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


def _keras_hub_preprocessing(converter: Mapping[str, Any]) -> dict[str, Any]:
    """What an image converter does, pixels * scale + offset, as a mean and a std of pixels from 0 to 1."""
    own = converter.get("config")
    if not isinstance(own, dict):
        return {}
    scale, offset = (_figures(own.get(name), default) for name, default in (("scale", 1.0), ("offset", 0.0)))
    if scale is None or offset is None or not all(scale):
        return {}
    both = max(len(scale), len(offset))
    scale, offset = (figures * both if len(figures) == 1 else figures for figures in (scale, offset))
    size, interpolation = own.get("image_size"), own.get("interpolation")
    table = {
        "mean": [-shift / (255 * factor) for factor, shift in zip(scale, offset, strict=False)],
        "std": [1 / (255 * factor) for factor in scale],
        "crop": size[0] if isinstance(size, list) and size else None,
        "interpolation": "lanczos" if str(interpolation).startswith("lanczos") else interpolation,
    }
    return {name: value for name, value in table.items() if value is not None}


def _figures(value: object, default: float) -> list[float] | None:
    """One number or a list of them; None where it is neither."""
    if value is None:
        return [default]
    stated: list[Any] = value if isinstance(value, list) else [value]
    figures = [float(figure) for figure in stated if type(figure) in (int, float)]
    return figures if figures and len(figures) == len(stated) else None
