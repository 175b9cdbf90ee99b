"""Whole models for other libraries: folders of timm and keras_hub, and archives of plain Keras layers.

Each kind has a module with the same three verbs: `layout_of(config)` names the layout of the tensors,
`cannot_hold(config)` says why there can be no such model, and `write(weights, layout, metadata, preprocessing, path)`
writes it and returns notes for the user. Nothing here imports a framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType

from denseport.errors import LayoutError, UsageError
from denseport.formats import FORMATS
from denseport.layouts import Layout, Weights, find_layout
from denseport.net.config import TRAIT_NAMES, DenseNetConfig
from denseport.preprocessing import recorded

# The traits that the model itself states beside its weights, whatever its layout says of them.
STATED: Mapping[str, frozenset[str]] = MappingProxyType({"timm": frozenset({"stem_pool"}), "keras": TRAIT_NAMES})
_MODULES = {"timm": "timm_folder", "keras-hub": "keras_hub_folder", "keras": "keras_archive"}


def folder_kind(target: Path | None, to_format: str | None, to_layout: str | Path | None) -> str | None:
    """The kind of folder that the user asks for, or None where it is a file.

    `--to-layout timm` always means a folder; `--to-layout keras-hub` means one where neither `--to` nor the target's
    suffix says a format.

    Raises:
        UsageError: A folder is asked for, and a file's format or no target as well.
    """
    kind = str(to_layout)
    if kind not in FORMATS or not FORMATS[kind].is_folder:
        return None
    if kind == "keras-hub" and (to_format or target is None or target.suffix):
        return None
    if to_format is not None:
        raise UsageError(f"--to-layout {kind} writes a folder, not a {to_format} file; leave --to out")
    if target is None:
        raise UsageError(f"--to-layout {kind} writes a folder; give its name")
    return kind


def layout_for(kind: str, config: DenseNetConfig, asked: str | Path | None) -> str | Path:
    """The layout of the tensors in a model of this kind.

    Raises:
        LayoutError: There can be no such model of this net, or it cannot have the layout that was asked for.
    """
    module = _module(kind)
    if reason := module.cannot_hold(config):
        raise LayoutError(f"{reason}; choose a file of weights, such as .h5 or .safetensors")
    if FORMATS[kind].is_folder or asked is None:
        own: str = module.layout_of(config)
        return own
    if all(framework.name != "keras" for framework in find_layout(asked).frameworks):
        raise LayoutError(f"layout {find_layout(asked).name} is none of Keras', and a .keras file is; leave it out")
    return asked


def files(kind: str) -> tuple[str, ...]:
    """The names of all files that a folder of this kind may have."""
    names: tuple[str, ...] = _module(kind).FILES
    return names


def write(kind: str, weights: Weights, layout: Layout, metadata: Mapping[str, str], path: Path) -> list[str]:
    """Writes a model to a file, or into a folder that is there.

    Args:
        kind: `timm`, `keras-hub` or `keras`.
        weights: Those of a net for which there is a `layout_for` this kind.
        layout: That layout.
        metadata: The strings that travel with the weights; a `preprocessing` among them says how images are prepared.
        path: The file, or the folder.

    Returns:
        What a user should know.

    Raises:
        FormatError: The recorded preprocessing makes no sense, or the format cannot hold a dtype.
        OSError: It cannot be written.
    """
    preprocessing = recorded(metadata, path)
    notes: list[str] = _module(kind).write(weights, layout, metadata, preprocessing, path)
    return notes


def _module(kind: str) -> ModuleType:
    return import_module(f"denseport.exports.{_MODULES[kind]}")
