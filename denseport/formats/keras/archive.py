"""The `.keras` archive of Keras 3: a zip of `config.json`, `metadata.json` and `model.weights.h5`.

The config is plain data: no class that it names is looked up, let alone built.
Source: keras/src/saving/saving_lib.py, `save_model`, `_save_model_to_fileobj`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError, UsageError
from denseport.formats.hdf5 import File, open_root
from denseport.formats.keras import KERAS_VERSION, MAX_CONFIG_BYTES, parse_config, weights
from denseport.formats.source_file import SourceFile
from denseport.formats.zip import ZipArchive

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_METADATA_BYTES = 1 << 16


def read(path: Path, shown: str | Path | None = None) -> Checkpoint:
    """The tensors of the archive's weights, named `<layer>/<variable>`, and the model's config as their description.

    Raises:
        FormatError: The archive is broken or unsafe, lacks its config or weights, or they cannot be unpacked.
    """
    with closing(SourceFile(path, shown)) as archive:
        zipped = ZipArchive(archive)
        for name in (CONFIG, WEIGHTS):
            if name not in zipped.entries:
                raise FormatError(
                    f"{archive.path}: has no {name}, so it is no .keras file; save the model again with model.save"
                )
        stored = zipped.entries[WEIGHTS]
        if not stored.deflated:
            zipped.verify(stored)
        inflated = zipped.content(stored, stored.size) if stored.deflated else b""
        config, about = (
            parse_config(zipped.content(zipped.entries[name], most), f"{archive.path}: {name}")
            if name in zipped.entries
            else {}
            for name, most in ((CONFIG, MAX_CONFIG_BYTES), (METADATA, MAX_METADATA_BYTES))
        )
    file = _of_bytes(inflated, shown or path) if inflated else File(path, stored.start, stored.size, shown)
    version = about.get("keras_version")
    return replace(
        weights.read(file, open_root(file), path),
        format="keras",
        container=f"Keras 3 .keras archive ({version})" if isinstance(version, str) else "Keras 3 .keras archive",
        wrapper=WEIGHTS,
        description=config,
        described_by="keras",
    )


def _of_bytes(content: bytes, shown: str | Path) -> File:
    """An HDF5 file that was compressed within the archive: Keras stores it as it is, a user's zip program may not.

    Raises:
        UsageError: There is no room for it among the temporary files.
    """
    try:
        with tempfile.NamedTemporaryFile() as unpacked:  # which stays open, and has no name any longer
            unpacked.write(content)
            unpacked.flush()
            return File(Path(unpacked.name), shown=shown)
    except OSError as error:
        raise UsageError(f"{shown}: its {WEIGHTS} cannot be unpacked ({error.strerror}); make room") from None


def write(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    description: Mapping[str, Any],
    path: Path,
    shown: str | Path | None = None,
) -> None:
    """Writes an archive of a model whose config is `description`; equal input gives equal bytes.

    Raises:
        FormatError: A name or a dtype has no place in a `.weights.h5`.
        OSError: The file cannot be written.
    """
    with (
        tempfile.TemporaryDirectory(dir=path.parent) as folder,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
    ):
        # A ZipInfo that is made from a name alone has no date.
        archive.writestr(zipfile.ZipInfo(METADATA), json.dumps({"keras_version": KERAS_VERSION}))
        archive.writestr(zipfile.ZipInfo(CONFIG), json.dumps(dict(description)))
        inner = Path(folder) / WEIGHTS
        weights.write(tensors, metadata, inner, shown=shown or path)
        with archive.open(zipfile.ZipInfo(WEIGHTS), "w", force_zip64=True) as entry, inner.open("rb") as file:
            shutil.copyfileobj(file, entry)
