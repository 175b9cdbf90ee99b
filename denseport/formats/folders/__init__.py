"""Folders in which libraries keep a model: weights, and JSON files that describe it; nothing is built from those.

What is read and written here is plain JSON data by the name of its file; `layouts.descriptions` says what is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denseport.errors import FormatError
from denseport.formats.keras import parse_config
from denseport.formats.source_file import SourceFile

MAX_CONFIG_BYTES = 1 << 20


def read_json(folder: Path, name: str, shown: str | Path) -> dict[str, Any]:
    """The object in one of the files of a folder that errors call `shown`.

    Raises:
        FormatError: The file is too large, or holds no JSON object.
    """
    source = SourceFile(folder / name, f"{shown}/{name}")
    try:
        if source.size > MAX_CONFIG_BYTES:
            raise FormatError(
                f"{source.path}: has {source.size} bytes, more than a configuration takes; save the model again"
            )
        return parse_config(source.read(0, source.size), str(source.path))
    finally:
        source.close()


def write_json(folder: Path, description: Mapping[str, Any], indent: int) -> None:
    """Writes each object of a description to the file that it is named after."""
    for name, content in description.items():
        (folder / name).write_text(f"{json.dumps(content, indent=indent)}\n", encoding="utf-8")
