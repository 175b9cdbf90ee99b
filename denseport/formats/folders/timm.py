"""The folder of a model in timm: `config.json` and `model.safetensors`.

Source: timm/models/_hub.py: load_model_config_from_path, save_for_hf.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from denseport.checkpoint import Checkpoint, Tensor
from denseport.formats import CONFIG, TIMM_FILES, safetensors
from denseport.formats.folders import read_json, write_json

WEIGHTS = TIMM_FILES[0]


def read(path: Path, shown: str | Path | None = None) -> Checkpoint:
    """The tensors of the folder's weights, with its config as their description.

    Raises:
        FormatError: One of the files is broken.
    """
    shown = shown or path
    description = {CONFIG: read_json(path, CONFIG, shown)}
    checkpoint = safetensors.read(path / WEIGHTS, f"{shown}/{WEIGHTS}")
    return replace(checkpoint, path=shown, container="timm folder", description=description, described_by="timm")


def write(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    description: Mapping[str, Any],
    path: Path,
    shown: str | Path | None = None,
) -> None:
    """Writes the files into a folder that is there.

    Raises:
        FormatError: safetensors has no such dtype.
    """
    write_json(path, description, indent=2)
    safetensors.write(tensors, metadata, path / WEIGHTS, f"{shown or path}/{WEIGHTS}")
