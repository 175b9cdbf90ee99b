"""A `.keras` archive of Keras' own layers alone, which `keras.saving.load_model` opens without denseport.

The net gives logits. Source: keras/src/saving/saving_lib.py: _save_model_to_fileobj.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from denseport import layouts
from denseport.formats.keras import weights as keras3
from denseport.formats.keras.archive import CONFIG, METADATA, WEIGHTS
from denseport.layouts.descriptions.keras_functional import functional
from denseport.layouts.frameworks import KERAS
from denseport.net.config import DenseNetConfig
from denseport.preprocessing import Preprocessing

KERAS_VERSION = "3.6.0"


def layout_of(config: DenseNetConfig) -> str:
    """keras.applications' names where it has such nets, else this project's own."""
    layout = layouts.find_layout("keras-applications")
    return layout.name if not layout.cannot_build(config) and not layout.mismatches(config) else "denseport"


def cannot_hold(config: DenseNetConfig) -> str:
    """Why Keras' own layers cannot compute such a net, or "" where they can."""
    if config.traits.stem_pool == "max-blur":
        return "Keras has no layer that reflects borders, which a blur pool needs"
    if config.traits.stem_pool == "max" and config.traits.padding == "symmetric" and not config.stem_norm:
        return "Keras has no layer that pads a maximum of negative values on both sides"
    return ""


def write(
    weights: layouts.Weights,
    layout: layouts.Layout,
    metadata: Mapping[str, str],
    _: Preprocessing | None,
    path: Path,
) -> list[str]:
    """Writes the archive; the config must be one that plain layers can compute."""
    weights = weights.concatenated(layout.traits.get("concatenation", weights.config.traits.concatenation))
    tensors = layouts.from_canonical(weights, layout, KERAS)
    # No date, so that the same weights give the same bytes.
    with (
        tempfile.TemporaryDirectory(dir=path.parent) as folder,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.writestr(zipfile.ZipInfo(METADATA), json.dumps({"keras_version": KERAS_VERSION}))
        archive.writestr(zipfile.ZipInfo(CONFIG), json.dumps(functional(weights.config, layout)))
        inner = Path(folder) / WEIGHTS
        keras3.write(tensors, metadata, inner)
        with archive.open(zipfile.ZipInfo(WEIGHTS), "w", force_zip64=True) as entry, inner.open("rb") as file:
            shutil.copyfileobj(file, entry)
    return []
