"""The folder of a preset of keras_hub: a backbone's config and weights; those of a task's head, and more, beside them.

Source: keras_hub/src/utils/preset_utils.py: KerasPresetSaver, KerasPresetLoader; keras_hub/src/models/task.py:
save_to_preset, load_task_weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from denseport.checkpoint import Checkpoint, Tensor
from denseport.formats import CONFIG, KERAS_HUB_FILES
from denseport.formats.folders import read_json, write_json
from denseport.formats.keras import legacy, weights

WEIGHTS, TASK_WEIGHTS, *_, IMAGE_CONVERTER = KERAS_HUB_FILES
# keras_hub/src/models/image_classifier.py: the layer that a task adds to its backbone.
HEAD = "predictions/"


def read(path: Path, shown: str | Path | None = None) -> Checkpoint:
    """The tensors of the backbone and of the task's head, with the JSON files that say something of them.

    Raises:
        FormatError: One of the files is broken.
    """
    shown = shown or path
    described = [name for name in (CONFIG, IMAGE_CONVERTER) if (path / name).is_file()]
    description = {name: read_json(path, name, shown) for name in described}
    with ExitStack() as opened:
        parts = []
        for name in (WEIGHTS, TASK_WEIGHTS):
            if (path / name).is_file():
                parts.append(legacy.read(path / name, f"{shown}/{name}"))
                opened.callback(parts[-1].close)
        return replace(
            parts[0],
            tensors={name: tensor for part in parts for name, tensor in part.tensors.items()},
            path=shown,
            container="keras_hub preset folder",
            description=description,
            described_by="keras-hub",
            close=opened.pop_all().close,
        )


def write(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    description: Mapping[str, Any],
    path: Path,
    shown: str | Path | None = None,
) -> None:
    """Writes the files into a folder that is there.

    Raises:
        FormatError: A name or a dtype has no place in a `.weights.h5`.
    """
    write_json(path, description, indent=4)
    head = {name: tensor for name, tensor in tensors.items() if name.startswith(HEAD)}
    body = {name: tensor for name, tensor in tensors.items() if name not in head}
    weights.write(body, metadata, path / WEIGHTS, shown=f"{shown or path}/{WEIGHTS}")
    if head:
        weights.write(head, {}, path / TASK_WEIGHTS, shown=f"{shown or path}/{TASK_WEIGHTS}")
