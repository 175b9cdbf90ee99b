"""Folders in which libraries keep a model: weights, and JSON files that describe it; nothing is built from those.

What is read and written here is plain JSON data by the name of its file; `layouts.descriptions` says what is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from denseport.formats.keras import parse_config
from denseport.formats.source_file import SourceFile

MAX_CONFIG_BYTES = 1 << 20


def read_json(folder: Path, name: str, shown: str | Path) -> dict[str, Any]:
    """The object in one of the files of a folder that errors call `shown`.

    Raises:
        FormatError: The file is too large, or holds no JSON object.
    """
    with closing(SourceFile(folder / name, f"{shown}/{name}")) as file:
        return parse_config(file.read(0, MAX_CONFIG_BYTES + 1), f"{shown}/{name}", MAX_CONFIG_BYTES)


def write_json(folder: Path, description: Mapping[str, Any], indent: int) -> None:
    """Writes each object of a description to the file that it is named after."""
    for name, content in description.items():
        (folder / name).write_text(f"{json.dumps(content, indent=indent)}\n", encoding="utf-8")
