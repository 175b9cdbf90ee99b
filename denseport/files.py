"""Files under the names that their tensors have there: read, written whole or not at all, and confirmed.

What was written is read back through h5py and safetensors, the libraries by which others will open it, and not through
this project's readers: a mistake that a reader and its writer share would pass them. Where Keras looks for a tensor is
therefore said here a second time, after Keras' source. A pth file is read by this project: torch would take a second to
import. The tests hold that reader and its writer to torch.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import count, takewhile, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from denseport import formats
from denseport.atomic import replacing, sync
from denseport.background import in_background
from denseport.checkpoint import PIECE_BYTES, Checkpoint, Tensor, block, dtype_of
from denseport.errors import DenseportError, UsageError, VerificationError, listed, quoted
from denseport.layouts import descriptions

# The order of a Keras layer's variables, and what Keras calls the class of one with a kernel of that rank.
VARIABLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
KERNELS = {2: "dense", 3: "conv1d", 4: "conv2d", 5: "conv3d"}
# safetensors' names of dtypes, but for the number of bits.
DTYPES = {"BOOL": "bool", "BF": "bfloat", "F": "float", "I": "int", "U": "uint"}
# What safetensors has read stays in memory as long as its file is open.
MAPPED_BYTES = 4 << 20

# What is found under a name; None for anything that is not as it should be.
Finding = tuple[str, Tensor | None]
Strings = Mapping[str, str]
NO_STRINGS: Strings = MappingProxyType({})


def read(path: str | Path, *, format: str | None = None) -> Checkpoint:  # noqa: A002 - the option's name
    """The tensors of a file under the names they have there, read when they are needed, and its metadata.

    Raises:
        UsageError: There is no such file.
        FormatError: It is broken, hostile, of no known format, or not of `format`.
    """
    return descriptions.recorded(formats.read(Path(path), format))


def write(
    checkpoint: Checkpoint,
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the option's name
    force: bool = False,
) -> None:
    """Writes a checkpoint's tensors and metadata under the names they have, whole or not at all, and confirms them.

    Args:
        checkpoint: What to write.
        path: The file; a name that ends in `.weights.h5` gives Keras 3's container, any other h5 name the legacy one.
        format: `pth`, `h5` or `safetensors`; None goes by the suffix.
        force: Whether an existing file may be replaced.

    Raises:
        UsageError: The file exists, or cannot be written.
        FormatError: The format cannot hold such names or dtypes.
        VerificationError: Reading back gave something else.
    """
    target = Path(path)
    if checkpoint.backend == "theano":
        raise UsageError(f"{target}: these kernels are Theano's, which a copy would not say; use convert")
    format = format or formats.by_suffix(target)  # noqa: A001
    with replacing(target, force=force) as temporary:
        formats.write(checkpoint.tensors, checkpoint.metadata, temporary, format, shown=target)
        confirm(checkpoint.tensors, checkpoint.metadata, temporary, format, shown=target)


def confirm(
    tensors: Mapping[str, Tensor],
    metadata: Strings,
    path: Path,
    format: str,  # noqa: A002 - the option's name
    nesting: Strings = NO_STRINGS,
    shown: str | Path | None = None,
    description: Mapping[str, Any] = NO_STRINGS,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Reads what was written back and compares it with what was to be written, bit by bit, while it is synced.

    Args:
        tensors: What `formats.write` was given, as all that follows.
        metadata, path, format, nesting, shown, description: See there.
        checkpoint: The file as this project reads it, where it is open already; a pth file is compared with that.

    Raises:
        OSError: The disk has not taken what was written.
        VerificationError: A name, its place, a shape, a dtype or a bit differs; the message names the tensors.
    """
    shown, wrong, missing = shown or path, [], dict(tensors)
    with in_background(_sync, path) as synced:
        try:
            for name, found in _found(tensors, metadata, path, format, nesting, description, checkpoint):
                wanted = missing.pop(name, None)
                if wanted is None or found is None or not wanted.same_bits(found):
                    wrong.append(name)
        except (DenseportError, MemoryError):
            raise
        except Exception as error:  # those of h5py and safetensors have no class in common
            why = f"cannot be read back ({quoted(error, 200)})"
            raise VerificationError(f"{shown}: {why}; check the disk, and convert again") from None
        synced.result()
    if wrong := [*missing, *wrong]:
        why = f"what was read back differs in {listed(wrong)}"
        raise VerificationError(f"{shown}: {why}; check the disk, and convert again")


def _sync(path: Path) -> None:
    """Waits until the disk has a file, or every file of a folder."""
    for each in (*path.glob("*"), path):
        sync(each)


def _found(
    tensors: Mapping[str, Tensor],
    metadata: Strings,
    path: Path,
    format: str,  # noqa: A002
    nesting: Strings,
    description: Mapping[str, Any],
    checkpoint: Checkpoint | None,
) -> Iterator[Finding]:
    """What others find in a file or folder that was written, each tensor under the name that it has for them."""
    if format == "pth":
        with nullcontext(checkpoint) if checkpoint else formats.read(path) as read_again:
            yield from read_again.tensors.items()
            yield from _unless_same("the metadata", read_again.metadata, metadata)
    elif format in ("safetensors", "timm"):
        yield from _by_safetensors(path if format == "safetensors" else path / "model.safetensors", metadata)
    elif format == "keras-hub":
        head = {name: tensor for name, tensor in tensors.items() if name.startswith("predictions/")}
        body = {name: tensor for name, tensor in tensors.items() if name not in head}
        yield from _by_h5py(path / "model.weights.h5", partial(_in_keras_3, body, NO_STRINGS), metadata)
        if head:
            yield from _by_h5py(path / "task.weights.h5", partial(_in_keras_3, head, NO_STRINGS), NO_STRINGS)
    elif format == "keras":
        with _start_in_archive(path, tensors, description) as start:
            yield from _by_h5py(path, partial(_in_keras_3, tensors, NO_STRINGS), metadata, start)
    elif format == "h5":
        places = _in_keras_3 if path.name.endswith(".weights.h5") else _in_legacy
        yield from _by_h5py(path, partial(places, tensors, nesting), metadata)
    else:
        raise NotImplementedError(f"nothing reads a written {format} file back")
    if path.is_dir():
        for name, content in description.items():
            yield from _unless_same(name, json.loads((path / name).read_bytes()), content)


def _unless_same(name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[Finding]:
    if dict(found) != dict(wanted):
        yield name, None


def _by_safetensors(path: Path, metadata: Strings) -> Iterator[Finding]:
    from safetensors import safe_open

    file: Any = safe_open(path, "numpy")
    mapped = 0

    def part(name: str, shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
        nonlocal file, mapped
        if mapped > MAPPED_BYTES:
            file, mapped = safe_open(path, "numpy"), 0
        whole = stop - start == math.prod(shape)
        values: np.ndarray = file.get_tensor(name) if whole else file.get_slice(name)[block(shape, start, stop)]
        mapped += values.nbytes
        return values.reshape(-1)

    yield from _unless_same("the metadata", file.metadata() or {}, metadata)
    for name in file.keys():  # noqa: SIM118 - it is no mapping
        stored = file.get_slice(name)
        kind, shape = stored.get_dtype().rstrip("0123456789"), tuple(stored.get_shape())
        yield name, _lazy(dtype_of(stored.get_dtype().replace(kind, DTYPES[kind])), shape, partial(part, name, shape))


def _lazy(dtype: np.dtype[Any], shape: tuple[int, ...], part: Callable[[int, int], np.ndarray]) -> Tensor:
    return Tensor(dtype, shape, partial(part, 0, math.prod(shape)), part)


def _by_h5py(path: Path, places: Callable[[Any], Strings], metadata: Strings, start: int = 0) -> Iterator[Finding]:
    """Each tensor at one of the `places`, in a file or in what begins at `start` in it."""
    import h5py

    buffer = np.empty(PIECE_BYTES, np.uint8)
    with _Part(path, start) as part, h5py.File(part if start else path, "r") as file:
        yield from _unless_same("the metadata", json.loads(file.attrs.get("denseport", "{}")), metadata)
        for name, place in places(file).items():
            yield name, _dataset(file, place, buffer)


class _Part(io.FileIO):
    """A file from one of its bytes on, as a file of its own."""

    def __init__(self, path: Path, start: int) -> None:
        super().__init__(path)
        self._start = start

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves to an offset; returns the new one."""
        return super().seek(offset + (self._start if whence == io.SEEK_SET else 0), whence) - self._start

    def tell(self) -> int:
        """The offset."""
        return super().tell() - self._start


def _dataset(file: Any, place: str, buffer: np.ndarray) -> Tensor:
    """A dataset whose values are read into the buffer, or in pieces where they are too many for it."""
    import h5py

    dataset = h5py.h5d.open(file.id, place.encode())
    stored, shape = dataset.dtype, dataset.shape
    is_bfloat16 = stored.kind == "V" and h5py.Dataset(dataset).attrs.get("dtype") == "bfloat16"
    dtype = dtype_of("bfloat16") if is_bfloat16 else stored

    def part(start: int, stop: int) -> np.ndarray:
        if stop - start < math.prod(shape) or stop * stored.itemsize > len(buffer):
            values = np.asarray(h5py.Dataset(dataset)[block(shape, start, stop)])
        else:
            values = np.ndarray(shape, stored, buffer)
            if stop:
                dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        return values.reshape(-1).view(dtype)

    return _lazy(dtype, shape, part)


def _in_legacy(tensors: Mapping[str, Tensor], nesting: Strings, file: Any) -> Strings:
    """Where each tensor of a legacy file is; Keras loads them in the order of the lists, whatever they are called.

    Source: keras/src/legacy/saving/legacy_h5_format.py: load_weights_from_hdf5_group, load_attributes_from_hdf5_group,
    _legacy_weights.
    """
    if file.attrs.get("backend") != "tensorflow" or not file.attrs.get("keras_version", "1").startswith("3."):
        return {}  # kernels of other backends and versions are transposed
    groups: dict[str, list[str]] = {}
    for name in tensors:
        layer = name.rpartition("/")[0] or name.rpartition(".")[0] or name
        groups.setdefault(nesting.get(layer, layer), []).append(name)
    for model in set(nesting.values()):
        groups[model].sort(key=lambda name: name.endswith(("/moving_mean", "/moving_variance")))
    wanted = {f"{group}/{name}": name for group, names in groups.items() for name in names}
    layers = _names(file, "/", "layer_names")
    found = [f"{layer}/{weight}" for layer in layers for weight in _names(file, layer, "weight_names")]
    in_order = zip_longest(wanted, found, fillvalue="")
    return {wanted[place] if place == there else there: there for place, there in in_order if there}


def _names(file: Any, group: str, name: str) -> list[str]:
    """A list of names, which Keras cuts in pieces where it is long."""
    import h5py

    def there(piece: str) -> bool:
        return bool(h5py.h5a.exists(file.id, piece.encode(), obj_name=group.encode()))

    pieces = [name] if there(name) else takewhile(there, (f"{name}{n}" for n in count()))
    return [each.decode() for piece in pieces for each in _attribute(file, group, piece)]


def _in_keras_3(tensors: Mapping[str, Tensor], nesting: Strings, file: Any) -> Strings:
    """Where each tensor of a `.weights.h5` is: layers are counted by their class, variables are numbered.

    Source: keras/src/saving/saving_lib.py: _load_state, _load_container_state, H5IOStore.
    """
    import h5py

    paths: list[bytes] = []
    file.id.links.visit(paths.append)
    places = {path.decode() for path in paths} - {path.rpartition(b"/")[0].decode() for path in paths}
    places.remove("vars")  # those of the model itself, which Keras before 3.6 opens even though there are none
    counts, text = Counter[str](), h5py.string_dtype()
    found: dict[str, str] = {}
    for layer, (kind, names) in _layers(tensors).items():
        path = f"layers/{nesting[layer]}/layers/{kind}" if layer in nesting else f"layers/{kind}"
        group = f"{path}_{counts[path]}/vars" if counts[path] else f"{path}/vars"
        counts[path] += 1
        if f"{group}/0" in places and _attribute(file, group, "name", text).item() == layer.encode():
            found |= {name: place for n, name in enumerate(names) if (place := f"{group}/{n}") in places}
    return found | {place: place for place in sorted(places - set(found.values()))}


def _attribute(file: Any, place: str, name: str, dtype: np.dtype[Any] | None = None) -> np.ndarray:
    """What h5py finds under an attribute's name, as this dtype or else as its own; texts are bytes."""
    import h5py

    attribute = h5py.h5a.open(file.id, name.encode(), obj_name=place.encode())
    values = np.empty(attribute.shape, dtype or attribute.dtype)
    attribute.read(values)
    return values


def _layers(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, list[str]]]:
    """What Keras calls the class of each layer, and its tensors in the order of their numbers."""
    layers: dict[str, set[str]] = {}
    for name in tensors:
        layer, _, variable = name.rpartition("/")
        layers.setdefault(layer, set()).add(variable)
    found = {}
    for layer, variables in layers.items():
        kind = "scale" if variables == {"gamma", "beta"} else "batch_normalization"
        kind = KERNELS[len(tensors[f"{layer}/kernel"].shape)] if "kernel" in variables else kind
        found[layer] = kind, [f"{layer}/{variable}" for variable in VARIABLES if variable in variables]
    return found


@contextmanager
def _start_in_archive(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> Iterator[int]:
    """Where the weights begin in a `.keras` archive, whose model must have the tensors' layers in their order.

    Source: keras/src/saving/saving_lib.py: _load_model_from_fileobj, _save_container_state.
    """
    import zipfile

    wanted = [(layer.replace(".", "_"), kind) for layer, (kind, _) in _layers(tensors).items()]
    with zipfile.ZipFile(path) as archive, path.open("rb") as content:
        model, about = (json.loads(archive.read(name)) for name in ("config.json", "metadata.json"))
        layers = [(layer["config"]["name"], _snake_case(layer["class_name"])) for layer in model["config"]["layers"]]
        weighted = set(wanted)
        if model != description or wanted != [layer for layer in layers if layer in weighted]:
            raise ValueError("config.json has other layers, or in another order")
        if "keras_version" not in about:
            raise ValueError("metadata.json does not say the version of Keras")
        start = archive.getinfo("model.weights.h5").header_offset
        content.seek(start + 26)  # the lengths of the name and of what is between it and the content
        with in_background(archive.testzip) as tested:
            yield start + 30 + sum(struct.unpack("<HH", content.read(4)))
        if broken := tested.result():
            raise ValueError(f"{broken} has another checksum")


def _snake_case(name: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
