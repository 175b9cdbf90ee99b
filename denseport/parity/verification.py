"""The parity check: both files, each in a framework of its own, on the same images, at once."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from denseport.checkpoint import Checkpoint
from denseport.config import DenseNetConfig, Traits
from denseport.errors import LayoutError, UsageError, quoted
from denseport.layouts import Detection
from denseport.loading import opened
from denseport.parity.processes import run_both
from denseport.parity.report import FrameworkRun, ParityReport, compare
from denseport.requirements import require_parity

TOLERANCE = 1e-5
SEED = 20170128
NARROW = {"float16": 11, "bfloat16": 8}  # significand bits
DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
OTHER = {"torch": "keras", "keras": "torch"}


# What numpy raises for a npz file that is damaged, pickled, or none.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    AttributeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Side:
    """One of the two files: what is in it, and the framework that is to run it."""

    path: Path
    layout: str
    framework: str
    config: DenseNetConfig
    narrow: str


@dataclass(frozen=True)
class Images:
    """The arrays that both sides see: a npz file, the names in it of images (N, *spatial, C), and labels (N,)."""

    file: Path
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    labels: np.ndarray | None = None


def verify(
    a: str | Path,
    b: str | Path,
    *,
    layout_a: str | Path | None = None,
    layout_b: str | Path | None = None,
    device: str = "auto",
    tolerance: float | None = None,
    inputs: str | Path | None = None,
    head: Literal["keep", "drop"] = "keep",
    same_traits: bool = False,
) -> ParityReport:
    """Compares the logits of two files, each read from disk and run by the twin of its own framework.

    Where both files belong to the same framework, the second one runs in the other. Where one file is stored in a
    narrower dtype, the first's weights are rounded alike, so that the figure shows the mapping and not the rounding,
    which is reported beside it.

    Args:
        a: The reference file.
        b: The other file.
        layout_a: The layout of `a`, where it is not to be detected; `layout_b` likewise.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where both frameworks can use it, else the CPU.
        tolerance: The largest relative error that passes, max|a - b| / max|a|; 1e-5 where None.
        inputs: A npz file with `images` (N, *spatial, C), as the net takes them (integers are converted, not scaled),
            and perhaps `labels` (N,); where None, fixed-seed noise of an even and an odd size.
        head: `drop` compares pooled features, whether or not the files have a classifier.
        same_traits: Whether the second file runs under the first one's traits where theirs differ; what its own
            traits do to the outputs is then reported beside the figure.

    Returns:
        The report, passed or not.

    Raises:
        FrameworkMissingError: A framework is not installed.
        UsageError: The device or the inputs cannot be used.
        FormatError, LayoutError: A file cannot be read, or the two are not the same architecture.
    """
    started = time.perf_counter()
    if not DEVICE.fullmatch(device):
        raise UsageError(f"--device {quoted(device)}: is none of auto, cpu, cuda and cuda:N")
    require_parity()
    sides = _sides(Path(a), Path(b), layout_a, layout_b, head)
    with tempfile.TemporaryDirectory(prefix="denseport-") as folder:
        images = _given(Path(inputs), sides[0].config) if inputs else _noise(sides[0].config, Path(folder))
        rounded = max((side.narrow for side in sides), key=lambda dtype: NARROW.get(dtype, 99) * -1) or None
        traits = sides[0].config.traits if same_traits else None
        requests = [_request(side, images, device, rounded, traits, Path(folder)) for side in sides]
        replies = run_both(requests, device)
        outputs = [dict(np.load(request["outputs"], allow_pickle=False)) for request in requests]
    comparisons = tuple(
        compare(
            outputs[0][f"logits{n}"],
            outputs[1][f"logits{n}"],
            shape,
            images.labels,
            unrounded=outputs[0].get(f"unrounded{n}"),
            own_traits=outputs[1].get(f"own_traits{n}"),
        )
        for n, shape in enumerate(images.shapes)
    )
    runs = [
        FrameworkRun(str(side.path), side.layout, side.framework, **reply)
        for side, reply in zip(sides, replies, strict=True)
    ]
    return ParityReport(
        runs[0], runs[1], comparisons, TOLERANCE if tolerance is None else tolerance, time.perf_counter() - started
    )


def _sides(
    a: Path, b: Path, layout_a: str | Path | None, layout_b: str | Path | None, head: Literal["keep", "drop"]
) -> list[Side]:
    sides: list[Side] = []
    for path, layout in ((a, layout_a), (b, layout_b)):
        with opened(path, layout, head=head) as (checkpoint, found):
            framework = found.framework.runs_in
            if sides and sides[0].framework == framework:
                framework = OTHER[framework]
            named = str(layout) if layout is not None else found.layout.name
            config = found.config.without_head() if head == "drop" else found.config
            sides.append(Side(path, named, framework, config, _narrow(checkpoint, found)))
    first, second = (side.config.replace(traits=DenseNetConfig().traits) for side in sides)
    if first != second:
        raise LayoutError(
            f"{b}: is a {second.variant} with {second.num_classes} classes and {second.in_channels} channels, {a} a "
            f"{first.variant} with {first.num_classes} and {first.in_channels}; only equal architectures compare"
        )
    return sides


def _narrow(checkpoint: Checkpoint, found: Detection) -> str:
    """The narrowest dtype below float32 among a net's tensors, or ""."""
    dtypes = {str(checkpoint.tensors[name].dtype) for name in found.roles.values()}
    return min(dtypes & NARROW.keys(), key=NARROW.__getitem__, default="")


def _noise(config: DenseNetConfig, folder: Path) -> Images:
    """Two images of an even and two of an odd size: `same` and symmetric padding differ at even sizes alone."""
    even = _even_size(config)
    random = np.random.default_rng(SEED)
    arrays = {
        name: random.standard_normal((2, *[size] * config.dimensions, config.in_channels), np.float32)
        for name, size in (("even", even), ("odd", even + 1))
    }
    file = folder / "inputs.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return Images(file, tuple(arrays), tuple(array.shape for array in arrays.values()))


def _even_size(config: DenseNetConfig) -> int:
    """An even side of images; where the head is flattened, one that leaves it the map that it has weights for."""
    if config.head_shape and config.num_classes is not None:
        pools = config.blocks - 1 + (config.traits.stem_pool != "none")
        return int(config.head_shape[0] * config.traits.stem_stride * 2**pools)
    return 32 if config.traits.stem_stride == 1 else 64 if config.dimensions == 3 else 224


def _given(file: Path, config: DenseNetConfig) -> Images:
    """A user's images, checked before any framework starts.

    Raises:
        UsageError: The file is no npz of plain arrays, or the images or labels do not fit the net.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays.get("labels")
    except UNREADABLE as error:
        raise UsageError(
            f"{file}: holds no array `images` ({quoted(error)}); save it with numpy.savez(file, images=..., labels=...)"
        ) from None
    wanted = config.dimensions + 2
    if images.ndim != wanted or images.shape[-1] != config.in_channels or not len(images):
        raise UsageError(
            f"{file}: images of shape {images.shape} do not fit; the net takes (N, "
            f"{'height, width, ' if config.dimensions == 2 else '*spatial, '}{config.in_channels})"
        )
    if images.dtype.kind not in "uif":
        raise UsageError(f"{file}: images of dtype {images.dtype} are no numbers; save them as float32 or uint8")
    if labels is not None and labels.shape != images.shape[:1]:
        raise UsageError(f"{file}: labels of shape {labels.shape} do not fit {len(images)} images; give one an image")
    return Images(file, ("images",), (images.shape,), labels)


def _request(
    side: Side, images: Images, device: str, rounded: str | None, traits: Traits | None, folder: Path
) -> dict[str, Any]:
    """What a worker is to run: one pass for the comparison, and one for each effect that is reported beside it."""
    same = None if traits in (None, side.config.traits) else dataclasses.asdict(traits)
    passes: dict[str, dict[str, Any]] = {"logits": {"rounded": rounded, "traits": same}}
    if rounded and side.narrow != rounded:
        passes["unrounded"] = {"rounded": None, "traits": same}
    if same:
        passes["own_traits"] = {"rounded": rounded, "traits": None}
    return {
        "framework": side.framework,
        "file": str(side.path),
        "layout": side.layout,
        "head": "keep" if side.config.num_classes else "drop",
        "passes": passes,
        "device": device,
        "inputs": str(images.file),
        "images": images.names,
        "outputs": str(folder / f"{side.framework}.npz"),
    }
