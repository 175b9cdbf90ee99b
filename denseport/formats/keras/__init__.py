"""The containers of Keras: legacy h5, `.weights.h5`, and the `.keras` archive; here is what they have in common.

That is attributes, lists of names that are cut in pieces where they are long; metadata; and configurations of models,
which are plain data: bounded, and never a reason to import or build anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from denseport.errors import FormatError, quoted
from denseport.formats.hdf5 import File, Group
from denseport.formats.hdf5.writer import NewGroup, Writer
from denseport.metadata import H5_ATTRIBUTE

# The version whose files those that are written are like: the first that records the names of layers.
KERAS_VERSION = "3.6.0"
# A config takes a kilobyte a layer; as Python's objects up to fifty times that.
MAX_CONFIG_BYTES = 4 << 20
# The most that fits beside other attributes into an object header; what Keras calls HDF5_OBJECT_HEADER_LIMIT.
BYTES_OF_ONE_ATTRIBUTE = 64512
# No name becomes longer than an attribute, at four bytes a letter, nor a path deeper than `hdf5` follows, names twice.
LETTERS_AT_MOST = BYTES_OF_ONE_ATTRIBUTE // 4
PARTS_AT_MOST = 24
# HDF5 ends names at NUL; surrogates are no text.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def has_names(group: Group, name: str) -> bool:
    """Whether a list of names is there, whole or in pieces."""
    return name in group.attributes or f"{name}0" in group.attributes


def read_names(group: Group, name: str) -> list[str]:
    """The names of a list, `layer_names` or `weight_names`; pieces `layer_names0`, `layer_names1`, ... are joined.

    Raises:
        FormatError: An attribute is no list of strings.

    Source: keras/src/legacy/saving/legacy_h5_format.py, `load_attributes_from_hdf5_group`.
    """
    if name in group.attributes:
        return group.attributes[name].texts()
    names: list[str] = []
    piece = 0
    while (attribute := group.attributes.get(f"{name}{piece}")) is not None:
        names += attribute.texts()
        piece += 1
    return names


def write_names(writer: Writer, group: NewGroup, name: str, names: Iterable[str]) -> None:
    """Stores a list of names, none of them longer than an attribute, in as few equal pieces as fit.

    Source: keras/src/legacy/saving/legacy_h5_format.py, `save_attributes_to_hdf5_group`.
    """
    array = np.array([each.encode() for each in names], dtype=np.bytes_)
    count = 1
    while any(piece.nbytes > BYTES_OF_ONE_ATTRIBUTE for piece in np.array_split(array, count)):
        count += 1
    for index, piece in enumerate(np.array_split(array, count)):
        writer.byte_strings(group, name if count == 1 else f"{name}{index}", piece)


def read_metadata(file: File, root: Group) -> dict[str, str]:
    """The strings that `write_metadata` stored; none in a file of Keras' own.

    Raises:
        FormatError: What is stored under the name is no object of strings in JSON.
    """
    attribute = root.attributes.get(H5_ATTRIBUTE)
    if attribute is None:
        return {}
    text = attribute.text()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise file.broken(f"attribute {H5_ATTRIBUTE} is no JSON object of strings: {quoted(text)}")
    return found


def write_metadata(writer: Writer, metadata: Mapping[str, str]) -> None:
    """Stores strings as JSON in the root attribute `denseport`, which Keras' loaders do not look at."""
    if metadata:
        writer.string(writer.root, H5_ATTRIBUTE, json.dumps(dict(metadata)))


def check_names(names: Iterable[str], shown: str | Path) -> None:
    """Refuses what cannot be the name of a tensor in an HDF5 file and come back as it was.

    Raises:
        FormatError: A name has an empty part, `.`, `..` or NUL in it, ends in `:0`, which Keras drops, is too long, or
            is no Unicode text.
    """
    for name in names:
        parts = name.split("/")
        long = len(parts) > PARTS_AT_MOST or len(name) > LETTERS_AT_MOST
        if long or UNSTORABLE.search(name) or name.endswith(":0") or not {"", ".", ".."}.isdisjoint(parts):
            raise FormatError(
                f"{shown}: a tensor named {quoted(name)} cannot be stored as h5; rename it, or choose .safetensors"
            )


def parse_config(text: bytes | str, what: str, most: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object as plain data; `what` names it in errors.

    Raises:
        FormatError: The text is no JSON object, nested beyond reason, or longer than `most`.
    """
    if len(text) > most:
        raise FormatError(f"{what}: is longer than the {most} bytes that any DenseNet takes; save its weights alone")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: is no JSON ({quoted(error)}); save the model again") from None
    if not isinstance(parsed, dict):
        raise FormatError(f"{what}: is no JSON object; save the model again")
    return parsed
