"""What must hold whatever a file holds: it is read or refused in one line, in bounded time and memory, by itself."""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from densenets import SMALL, canonical_weights

from denseport import formats, inspect, layouts, terminal, text
from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import DenseportError, FormatError, LayoutError, UsageError, printable
from denseport.net.config import DenseNetConfig
from denseport.running import npz

SECONDS = 5
BYTES = 512 << 20
CLASSES = 5
NET_OF_IMAGES = DenseNetConfig(num_classes=CLASSES)
PACKAGE = Path(formats.__file__).parents[1]
# Whatever would touch something beside the file, by the names of Python's audit events.
FORBIDDEN = ("os.", "shutil.", "subprocess.", "socket.", "pty.", "ctypes.", "pickle.", "tempfile.", "webbrowser.")
HARMLESS = ("os.listdir", "os.scandir")


class BrokenPropertyError(AssertionError):
    """A file made a reader do what it must never do."""


def hold_for_weights(path: Path) -> bool:
    """Reads all that a file of weights holds, as `inspect` and `convert` do; False where it is refused.

    Raises:
        BrokenPropertyError: Something else came of it than tensors or a refusal in one line.
    """
    try:
        with _bounded(path):
            report = inspect(path)
            _check_lines(*terminal.plain(text.inspection(report)), json.dumps(report.to_dict()))
            with formats.read(path) as checkpoint:
                for name, tensor in checkpoint.tensors.items():
                    array = tensor.read()
                    if (array.dtype, array.shape) != (tensor.dtype, tensor.shape) or not array.dtype.isnative:
                        raise BrokenPropertyError(f"{name!r} is {array.dtype} {array.shape}, not {tensor}")
                    array.tobytes()
    except (FormatError, LayoutError, UsageError) as error:
        _check_refusal(error, path)
        return False
    return True


def hold_for_layouts(path: Path) -> bool:
    """Parses a layout file and holds every small net against it; False where it is refused.

    Raises:
        BrokenPropertyError: Something else came of it than a layout or a refusal in one line.
    """
    try:
        with _bounded(path):
            layout = layouts.find_layout(path)
    except LayoutError as error:
        _check_refusal(error, path)
        return False
    for checkpoint in _nets():
        try:
            with _bounded(path):
                found = layouts.detect(checkpoint, path)
                weights = layouts.to_canonical(checkpoint, found)
                layouts.from_canonical(weights, layout, layout.frameworks[0])
        except LayoutError as error:
            _check_lines(str(error))
    return True


def hold_for_images(path: Path) -> bool:
    """Reads all images and labels of a npz file, as `--inputs` does; False where it is refused.

    Raises:
        BrokenPropertyError: Something else came of it than finite images or a refusal in one line.
    """
    try:
        with _bounded(path):
            shape, labels = npz.checked(path, NET_OF_IMAGES)
            if labels is not None and not (labels.shape == shape[:1] and labels.min() >= 0 and labels.max() < CLASSES):
                raise BrokenPropertyError(f"labels {labels} of {shape[0]} images")
            count = 0
            for images in npz.batches(path, shape, 2):
                count += len(images)
                if images.shape[1:] != shape[1:] or images.dtype != np.float32 or not np.isfinite(images).all():
                    raise BrokenPropertyError(f"{images.dtype} images of shape {images.shape}, which was to be {shape}")
            if count != shape[0]:
                raise BrokenPropertyError(f"{count} images of {shape[0]}")
    except UsageError as error:
        _check_refusal(error, path)
        return False
    return True


def _nets() -> list[Checkpoint]:
    if not _NETS:
        for kind in ("four blocks", "CIFAR", "tutorial"):
            tensors = {name: Tensor.of(array) for name, array in canonical_weights(SMALL[kind][0]).items()}
            _NETS.append(Checkpoint(tensors, {}, "pth"))
            _NETS.append(Checkpoint({name.replace("block", "b"): tensor for name, tensor in tensors.items()}))
    return _NETS


_NETS: list[Checkpoint] = []


def _check_refusal(error: DenseportError, path: Path) -> None:
    _check_lines(str(error))
    if not str(error).startswith(str(path)):
        raise BrokenPropertyError(f"the error does not name the file: {error}")


def _check_lines(*lines: str) -> None:
    for line in lines:
        if printable(line) != line:
            raise BrokenPropertyError(f"a line that would disturb a terminal: {line!r}")


@contextmanager
def _bounded(path: Path) -> Iterator[None]:
    """Within the block, time and memory are bounded, and only `path` and the package's own files may be opened."""

    def too_slow(_: int, __: FrameType | None) -> None:
        raise BrokenPropertyError(f"reading it takes more than {SECONDS} seconds of processor time")

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGVTALRM, too_slow)
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # what a reader imports would be written
    _GUARD.path = path
    try:
        resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, limits[1]))
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a user would see it, and the line of code that it came from
            yield
    except MemoryError:
        raise BrokenPropertyError(f"reading it takes more than {BYTES} bytes") from None
    except RecursionError:
        raise BrokenPropertyError("reading it recurses without bound") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        _GUARD.path, sys.dont_write_bytecode = None, bytecode


# A file within a file that was compressed is unpacked into a temporary one, which has no name or a random one.
UNPACKED = re.compile(rf"{re.escape(tempfile.gettempdir())}(/tmp[a-z0-9_]{{8}})?")


class _Guard:
    """Watches what Python does while a file is read; a hook of this kind can never be taken off again."""

    def __init__(self) -> None:
        self.path: Path | None = None
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.path is None or (arguments and UNPACKED.fullmatch(str(arguments[0]))):
            return
        if event == "open":
            name, mode, flags = arguments
            writes = set(mode or "r") & set("wax+") or flags & 0b11
            inside = isinstance(name, int) or Path(name) == self.path or str(name).endswith((".py", ".pyc", ".toml"))
            if writes or not (inside or str(name).startswith((str(PACKAGE), sys.prefix, sys.base_prefix))):
                self._stop(f"opens {name!r} as {mode or flags}")
        elif event.startswith(FORBIDDEN) and event not in HARMLESS:
            self._stop(f"does {event} {str(arguments)[:400]}")

    def _stop(self, what: str) -> None:
        self.path = None
        raise BrokenPropertyError(f"a reader {what}")


_GUARD = _Guard()
