"""The `.keras` archive of Keras 3: a zip of `config.json`, `metadata.json` and `model.weights.h5`; read only.

The config is read as data: no class that it names is looked up, let alone built.
Source: keras/src/saving/saving_lib.py, `save_model`, `_save_model_to_fileobj`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from denseport.checkpoint import Checkpoint
from denseport.errors import FormatError
from denseport.formats.hdf5 import File, open_root
from denseport.formats.keras import weights as keras3
from denseport.formats.keras.config import MAX_CONFIG_BYTES, parse_config
from denseport.formats.source_file import SourceFile
from denseport.formats.zip import ZipArchive

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_METADATA_BYTES = 1 << 16


def read(path: Path, shown: str | Path | None = None) -> Checkpoint:
    """The tensors of the archive's weights, named `<layer>/<variable>`, and the model's config as data.

    Raises:
        FormatError: The archive is broken or unsafe, lacks its config or weights, or has them compressed.
    """
    archive = SourceFile(path, shown)
    try:
        zipped = ZipArchive(archive)
        for name in (CONFIG, WEIGHTS):
            if name not in zipped.entries:
                raise FormatError(
                    f"{archive.path}: has no {name}, so it is no .keras file; save the model again with model.save"
                )
        weights = zipped.entries[WEIGHTS]
        if weights.deflated:
            raise FormatError(
                f"{archive.path}: its {WEIGHTS} is compressed, which Keras never does; zip it stored (zip -0)"
            )
        zipped.verify(weights)
        config = parse_config(zipped.content(zipped.entries[CONFIG], MAX_CONFIG_BYTES), f"{archive.path}: {CONFIG}")
        about = (
            parse_config(zipped.content(zipped.entries[METADATA], MAX_METADATA_BYTES), f"{archive.path}: {METADATA}")
            if METADATA in zipped.entries
            else {}
        )
    finally:
        archive.close()
    file = File(path, weights.start, weights.size, shown)
    checkpoint = keras3.read(file, open_root(file), path)
    version = about.get("keras_version")
    container = f"Keras 3 .keras archive ({version})" if isinstance(version, str) else "Keras 3 .keras archive"
    return replace(checkpoint, format="keras", container=container, wrapper=WEIGHTS, model_config=config)
