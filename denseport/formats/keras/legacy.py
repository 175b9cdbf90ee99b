"""HDF5 files of Keras: the legacy container of Keras 1, 2 and 3 here, the `.weights.h5` of Keras 3 in `weights`.

A legacy file has a group for each layer, and lists of names in attributes: `layer_names` on the group of all layers,
`weight_names` on each layer's group. A full model keeps that tree in `model_weights`, beside its config and optimizer.

Source: keras/src/legacy/saving/legacy_h5_format.py, `save_weights_to_hdf5_group`; the same in tf_keras/src/saving/
legacy/hdf5_format.py, which appends `:0` to the names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from denseport.checkpoint import Checkpoint, Tensor, dtype_name
from denseport.errors import FormatError, listed, quoted
from denseport.formats.hdf5 import Dataset, File, Group, open_root
from denseport.formats.hdf5.writer import Writer
from denseport.formats.keras import (
    check_names,
    has_names,
    parse_config,
    read_metadata,
    read_names,
    weights,
    write_metadata,
    write_names,
)
from denseport.formats.keras.weights import BARE_NORM, NORM
from denseport.metadata import H5_ATTRIBUTE

LAYERS = "layer_names"
WEIGHTS = "weight_names"
# Written only where the order of the tensors is not that of the layers one after the other.
ORDER = "tensor_names"
MODEL_WEIGHTS = "model_weights"
MODEL_CONFIG = "model_config"
# A group beside those of the layers, for variables that belong to the model itself.
TOP_LEVEL = "top_level_model_weights"
# Keras loads a layer's weights by their order, which is this, whatever they are called.
IN_ORDER = (("kernel", "bias"), ("W", "b"), NORM, ("gamma", "beta", "running_mean", "running_std"))
PARAMETER = re.compile(r"(.*?)[/_]?(kernel|bias|gamma|beta|(?:moving|running)_(?:mean|variance|std)|(?<=_)[Wb])")
# What a file says of itself: in the manner of Keras 3, whose weight names carry no `:0`.
FIRST_KERAS_3 = "3.0.0"


def read(path: Path, shown: str | Path | None = None) -> Checkpoint:
    """The tensors of any HDF5 file that Keras or this module wrote, named `<layer>/<variable>`, in the file's order.

    The layer is the group's name, not the first part of the weight's own, which Keras may have numbered (`out_2/kernel`
    in the group `out`). A group that holds several inner layers, a nested model, gives each weight the name of the
    inner layer. Names without `/` (`convolution2d_1_W` of Keras 1) stay as they are. Axes, dtypes and bits are the
    file's, byte order is native.

    Raises:
        FormatError: The file is no HDF5 file of Keras, is damaged, or holds what weights do not need: see `hdf5`.

    Source: keras/src/legacy/saving/legacy_h5_format.py, `load_weights_from_hdf5_group`.
    """
    with ExitStack() as opened:
        file = File(path, shown=shown)
        opened.callback(file.close)
        root = open_root(file)
        wrapper = "" if has_names(root, LAYERS) or MODEL_WEIGHTS not in root.links else MODEL_WEIGHTS
        tree = root.group(wrapper) if wrapper else root
        if has_names(tree, LAYERS):
            checkpoint = _legacy(file, root, tree, wrapper)
        elif wrapper:
            raise file.broken(f"{MODEL_WEIGHTS} has no attribute {LAYERS}")
        else:
            checkpoint = weights.read(file, root, path)
        opened.pop_all()
    return checkpoint


def write(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    path: Path,
    nesting: Mapping[str, str] = MappingProxyType({}),
    shown: str | Path | None = None,
) -> None:
    """Writes a legacy file of weights, one tensor in memory at a time.

    The layers of an inner model, which `nesting` names, share its group, with all that is not trained behind all that
    is, as Keras orders a model's weights. Otherwise a tensor's layer is what stands before the last `/` of its name or,
    where there is none, before the last `.`; layers come in the order of their first tensor, by which Keras loads them.

    Raises:
        FormatError: A dtype is bfloat16 or otherwise has no place in such a file, or a name cannot be stored.
        OSError: The file cannot be written.
    """
    check_names(tensors, shown or path)
    layers: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if dtype_name(tensor.dtype) == "bfloat16":
            raise FormatError(
                f"{shown or path}: {quoted(name)} is bfloat16, which legacy h5 cannot hold; "
                "give --dtype float32, or a name ending in .weights.h5"
            )
        layer = _layer_of(name)
        layers.setdefault(nesting.get(layer, layer), []).append(name)
    for model in set(nesting.values()):
        layers[model].sort(key=lambda name: name.rpartition("/")[2] in BARE_NORM)
    with Writer(path, shown) as writer:
        write_names(writer, writer.root, LAYERS, layers)
        writer.string(writer.root, "backend", "tensorflow")
        writer.string(writer.root, "keras_version", FIRST_KERAS_3)
        write_metadata(writer, metadata)
        if [name for names in layers.values() for name in names] != list(tensors):
            write_names(writer, writer.root, ORDER, tensors)
        for layer, names in layers.items():
            group = writer.group(layer)
            write_names(writer, group, WEIGHTS, names)
            for name in names:
                writer.dataset(group, name, tensors[name], name)


def _legacy(file: File, root: Group, tree: Group, wrapper: str) -> Checkpoint:
    version, backend = (_said(tree, name) or _said(root, name) for name in ("keras_version", "backend"))
    weightless: list[str] = []
    datasets = _datasets(file, tree, version, weightless)
    if has_names(tree, ORDER):
        in_order = read_names(tree, ORDER)
        if sorted(in_order) != sorted(datasets):
            raise file.broken(f"attribute {ORDER} lists other tensors than the layers hold")
        datasets = {name: datasets[name] for name in in_order}
    named = (LAYERS, WEIGHTS, ORDER, H5_ATTRIBUTE, "keras_version", "backend")
    others = [link for link in root.links if link != wrapper] if wrapper else []
    others += [attribute for attribute in root.attributes if attribute.rstrip("0123456789") not in named]
    description = _model_config(file, root)
    major = re.match(r"\d{1,3}", version)
    maker = ", ".join(part for part in (f"keras {version}" if version else "", backend) if part)
    return Checkpoint(
        tensors={
            name: Tensor(dataset.dtype, dataset.shape, dataset.read, dataset.part) for name, dataset in datasets.items()
        },
        metadata=read_metadata(file, root),
        format="h5",
        container=f"Keras {major[0] if major else '1'} legacy h5" + (f" ({quoted(maker)})" if maker else ""),
        path=file.path,
        wrapper=wrapper,
        others=tuple(others),
        weightless=tuple(weightless),
        backend=backend,
        description=description,
        described_by="keras" if description else "",
        close=file.close,
    )


def _model_config(file: File, root: Group) -> dict[str, Any]:
    """The configuration of the model, where the whole model was saved; data, from which nothing is ever built."""
    text = _said(root, MODEL_CONFIG)
    return parse_config(text, f"{file.path}: {MODEL_CONFIG}") if text else {}


def _said(group: Group, name: str) -> str:
    return group.attributes[name].text() if name in group.attributes else ""


def _datasets(file: File, tree: Group, version: str, weightless: list[str]) -> dict[str, Dataset]:
    """Every dataset that the lists name, by the tensor's name; names layers without any in `weightless`."""
    found: list[tuple[str, str, Dataset]] = []
    layers = read_names(tree, LAYERS)
    if TOP_LEVEL in tree.links and TOP_LEVEL not in layers:
        layers.append(TOP_LEVEL)
    for layer in layers:
        group = tree.group(layer)
        if not has_names(group, WEIGHTS) and group.links:
            raise file.broken(f"layer {quoted(layer)} holds {listed(group.links, 3)} but has no attribute {WEIGHTS}")
        stored = read_names(group, WEIGHTS)
        weightless += [] if stored else [layer]
        full = [name.removesuffix(":0") for name in stored]
        _refuse_other_order(file, layer, full)
        short = full if layer == TOP_LEVEL else list(_short_names(layer, full, version))
        found += zip(short, full, (group.dataset(name) for name in stored), strict=True)
    # Two nested models may have inner layers of one name: then the longer names tell them apart, or nothing does.
    ambiguous = {name for name, count in Counter(found_as for found_as, _, _ in found).items() if count > 1}
    datasets: dict[str, Dataset] = {}
    for short_name, full_name, dataset in found:
        name = full_name if short_name in ambiguous else short_name
        if name in datasets:
            raise file.refused(
                f"{quoted(datasets[name].path)} and {quoted(dataset.path)} are both named {quoted(name)}",
                "give the layers different names, or save the inner models one by one",
            )
        datasets[name] = dataset
    return datasets


def _refuse_other_order(file: File, layer: str, weights: list[str]) -> None:
    """Refuses a layer whose weights are listed in another order than their names say, since Keras goes by the order."""
    listed_of: dict[str, list[str]] = {}
    for weight in weights:
        if named := PARAMETER.fullmatch(weight):
            listed_of.setdefault(named[1], []).append(named[2])
    for parameters in listed_of.values():
        order = next((each for each in IN_ORDER if set(parameters) <= set(each)), tuple(parameters))
        if parameters != (right := sorted(parameters, key=order.index)):
            raise file.refused(
                f"layer {quoted(layer)} lists {listed(parameters)}, which Keras would load as {listed(right)}",
                f"put its {WEIGHTS} in that order where the names are right, or save the model again",
            )


def _short_names(layer: str, weights: list[str], version: str) -> Iterator[str]:
    """The name of each weight of a layer's group as `<layer>/<variable>`."""
    inner = {weight.rpartition("/")[0] for weight in weights if "/" in weight}
    nested = len(inner) > 1
    for weight in weights:
        if "/" not in weight:
            yield weight
        elif not nested:
            yield f"{layer}/{weight.rpartition('/')[2]}"
        elif version.startswith("3."):
            # No name of a Keras 3 layer has a `/` in it: what comes before the last two parts are outer models.
            yield "/".join(weight.split("/")[-2:])
        else:
            yield weight.removeprefix(f"{layer}/")


def _layer_of(name: str) -> str:
    layer = name.rpartition("/")[0] or name.rpartition(".")[0]
    return layer or name
