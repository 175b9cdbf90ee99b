"""The `.weights.h5` of Keras 3: a group for each layer, named after its class and counted, with numbered variables.

A layer's own name stands only in the attribute `name` of its group `vars`, and only since Keras 3.6; variables have no
names at all. Nested models are groups within groups.

Source: keras/src/saving/saving_lib.py, `_save_state`, `_save_container_state`, `H5IOStore`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError, quoted
from denseport.formats.hdf5 import Dataset, File, Group
from denseport.formats.hdf5.writer import Writer
from denseport.formats.keras import check_names, read_metadata, write_metadata

VARIABLES = "vars"
KERNEL = ("kernel", "bias")
SCALE = ("gamma", "beta")  # the custom layer of nets that came from Caffe
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
CLASSES: Mapping[str, tuple[str, ...]] = {
    "conv1d": KERNEL,
    "conv2d": KERNEL,
    "conv3d": KERNEL,
    "dense": KERNEL,
    "batch_normalization": NORM,
    "scale": SCALE,
}
# Without `center` and `scale` both; without one of them, nothing in the file tells which.
BARE_NORM = ("moving_mean", "moving_variance")
KERNEL_CLASSES: Mapping[int, str] = {2: "dense", 3: "conv1d", 4: "conv2d", 5: "conv3d"}

# State of training that lies at the top, beside the layers; and of random numbers, within them.
TRAINING = frozenset({"optimizer", "metrics", "_metrics", "_loss_tracker", "_compile_metrics", "_compile_loss"})
RANDOM = "seed_generator"
DEPTH_AT_MOST = 32


@dataclass(frozen=True, slots=True)
class Layer:
    """A group with variables: where it is, its class and number (`conv2d_3`), its own name where that is recorded."""

    path: str
    leaf: str
    name: str | None
    variables: Mapping[str, Dataset]

    def joined(self, other: Layer) -> Layer:
        """The layer whose other variables lie in another file."""
        return replace(self, name=self.name or other.name, variables={**self.variables, **other.variables})


def read(file: File, root: Group, path: Path) -> Checkpoint:
    """The tensors of an open `.weights.h5` that lies at `path`, named `<layer>/<variable>`.

    Order is that of creation where the file records it, else by class and number: `conv2d`, `conv2d_1`, ...,
    `conv2d_10`. Variables of convolutions, dense layers and batch normalisations have names, others numbers. Layers
    without a recorded name are called by class and number, and the checkpoint says so (`nameless`).

    Raises:
        FormatError: The file is none of this kind, one shard of several, damaged, or leaves it open which variable is
            which, or which layer: two layers of one name.
    """
    checkpoint, _ = read_parts([(file, root)])
    _refuse_shard(file, path)
    return checkpoint


def read_parts(parts: Sequence[tuple[File, Group]]) -> tuple[Checkpoint, frozenset[str]]:
    """The same of files among which the layers of one model are divided, and the paths of those layers.

    Raises:
        FormatError: As for `read`.
    """
    others: list[str] = []
    found: dict[str, Layer] = {}
    for file, root in parts:
        for layer in _layers(file, root, others):
            before = found.get(layer.path)
            found[layer.path] = layer if before is None else before.joined(layer)
    file, root = parts[0]
    layers = [layer for layer in found.values() if layer.variables]
    if not layers:
        raise file.refused("holds no weights that Keras saved", "give the file that model.save_weights or save wrote")
    tensors: dict[str, Tensor] = {}
    paths: dict[str, str] = {}
    for layer in layers:
        name = layer.name or layer.leaf or "model"
        if name in paths:
            raise file.refused(
                f"{quoted(paths[name])} and {quoted(layer.path)} are both named {quoted(name)}",
                "give the layers different names and save again with Keras 3.6 or later, or save the models one by one",
            )
        paths[name] = layer.path
        for variable, dataset in zip(_variable_names(file, layer), layer.variables.values(), strict=True):
            tensors[f"{name}/{variable}"] = Tensor(dataset.dtype, dataset.shape, dataset.read, dataset.part)
    nameless = any(layer.name is None for layer in layers)
    checkpoint = Checkpoint(
        tensors=tensors,
        metadata=read_metadata(file, root),
        format="h5",
        container="Keras 3 .weights.h5" + (" without layer names" if nameless else ""),
        path=file.path,
        others=tuple(others),
        weightless=tuple(layer.leaf for layer in found.values() if layer.leaf and not layer.variables),
        nameless=nameless,
        paths=paths,
        close=file.close,
    )
    return checkpoint, frozenset(path.strip("/") for path in paths.values())


def write(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    path: Path,
    nesting: Mapping[str, str] = MappingProxyType({}),
    shown: str | Path | None = None,
) -> None:
    """Writes a `.weights.h5`, one tensor in memory at a time; layers are counted in the order of their first tensor.

    The class of a layer follows from its variables: `kernel` of rank 2 to 5, with or without `bias`, or the four of a
    batch normalisation. The layers of an inner model, which `nesting` names by its class, lie in its group. bfloat16 is
    stored as Keras stores it.

    Raises:
        FormatError: A name is not `<layer>/<variable>` of such a layer, or a dtype has no place in the file.
        OSError: The file cannot be written.
    """
    check_names(tensors, shown or path)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, variable = name.rpartition("/")
        layers.setdefault(layer, {})[variable] = tensor
    kinds = {layer: _class_of(layer, variables, shown or path) for layer, variables in layers.items()}
    counts: dict[tuple[str, str], int] = {}
    with Writer(path, shown) as writer:
        write_metadata(writer, metadata)
        # Keras before 3.6 opens the model's own variables, even though there are none.
        writer.group(VARIABLES)
        for layer, variables in layers.items():
            kind = kinds[layer]
            model = f"layers/{nesting[layer]}/layers" if layer in nesting else "layers"
            number = counts[model, kind] = counts.get((model, kind), -1) + 1
            group = writer.group(f"{model}/{kind}_{number}/{VARIABLES}" if number else f"{model}/{kind}/{VARIABLES}")
            writer.string(group, "name", layer)
            present = [variable for variable in CLASSES[kind] if variable in variables]
            for index, variable in enumerate(present):
                writer.dataset(group, str(index), variables[variable], f"{layer}/{variable}")


def _layers(file: File, root: Group, others: list[str]) -> Iterator[Layer]:
    """Every group with variables, outer before inner; names what is passed over in `others`."""
    seen: set[int] = set()
    pending = [(root, "", 0)]
    while pending:
        group, leaf, depth = pending.pop()
        if group.address in seen or depth > DEPTH_AT_MOST:
            raise file.broken(f"{quoted(group.path)} leads to a group that has another path, or is too deep")
        seen.add(group.address)
        inner = []
        for name in _ordered(group):
            path = f"{group.path}/{name}".removeprefix("/")
            if (name in TRAINING and not depth) or name.startswith(RANDOM):
                others.append(path)
                continue
            child = group.child(name)
            if isinstance(child, Dataset):
                others.append(path)
            elif name == VARIABLES:
                yield _layer(group, leaf, child)
            else:
                inner.append((child, name, depth + 1))
        pending.extend(reversed(inner))


def _layer(group: Group, leaf: str, variables: Group) -> Layer:
    recorded = variables.attributes.get("name")
    found = {name: variables.dataset(name) for name in _ordered(variables)}
    return Layer(group.path or "/", leaf, recorded.text() if recorded is not None else None, found)


def _ordered(group: Group) -> list[str]:
    """The names in a group by creation where that is recorded, else counted: `conv2d_2` before `conv2d_10`."""
    if any(link.order for link in group.links.values()):
        return list(group.links)
    return sorted(group.links, key=_counted)


def _counted(name: str) -> tuple[str, int, str]:
    match = re.fullmatch(r"(.*?)_?(\d{1,18})", name)
    return (match[1], int(match[2]), name) if match else (name, -1, name)


def _class(leaf: str) -> str:
    return re.sub(r"_\d+$", "", leaf)


def _variable_names(file: File, layer: Layer) -> list[str]:
    stored = list(layer.variables)
    known = CLASSES.get(_class(layer.leaf))
    if known is None:
        return stored
    if sorted(stored, key=_counted) != [str(index) for index in range(len(stored))]:
        raise file.broken(f"{quoted(layer.path)} has variables {quoted(stored)}, which are not numbered from 0")
    if known is NORM and len(stored) == len(BARE_NORM):
        known = BARE_NORM
    if len(stored) > len(known) or (known is not KERNEL and len(stored) < len(known)):
        raise file.refused(
            f"{quoted(layer.path)} has {len(stored)} variables; which of {', '.join(known)} they are is not recorded",
            "save the model as legacy .h5, which names them",
        )
    return [known[int(index)] for index in stored]


def _class_of(layer: str, variables: Mapping[str, Tensor], shown: str | Path) -> str:
    names = set(variables) if layer else set()
    if names in ({"kernel"}, {"kernel", "bias"}):
        rank = len(variables["kernel"].shape)
        if rank in KERNEL_CLASSES:
            return KERNEL_CLASSES[rank]
    elif names in (set(NORM), set(BARE_NORM)):
        return "batch_normalization"
    elif names == set(SCALE):
        return "scale"
    first = f"{layer}/{next(iter(variables))}".removeprefix("/")
    raise FormatError(
        f"{shown}: {quoted(first)} belongs to no convolution, dense layer or batch normalisation of Keras, and a "
        ".weights.h5 holds nothing else; choose the layout keras-applications, or a name ending in plain .h5"
    )


def _refuse_shard(file: File, path: Path) -> None:
    """One shard of a model saved in several looks like a whole file; only the index beside it tells.

    Source: keras/src/saving/saving_lib.py, `ShardedH5IOStore`.
    """
    match = re.fullmatch(r"(.+)_\d{5}\.weights\.h5", path.name)
    if match:
        for index in (f"{match[1]}.weights.json", f"{match[1]}.json"):
            if path.with_name(index).exists():
                raise file.refused(
                    f"is one of the shards that {quoted(index)} lists",
                    "give that file instead",
                )
