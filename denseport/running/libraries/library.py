"""The libraries whose own DenseNet can take the twin's place: their class, their loader, and nothing of this project's.

A mistake that reader, writer and twin share would not show between two of them; it shows here. `--help` takes the
libraries' names from here, so that what takes long to import is imported by the functions that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from denseport import formats
from denseport.errors import FrameworkMissingError, LayoutError, UsageError, VerificationError, quoted
from denseport.requirements import require_keras, require_torch
from denseport.running.libraries import nets

if TYPE_CHECKING:
    from denseport.net.config import DenseNetConfig


@dataclass(frozen=True)
class Library:
    """A library's own DenseNet and loader.

    Attributes:
        name: What `--against` calls it.
        framework: `torch` or `keras`.
        module: What must be importable.
        distribution: What pip calls it.
        layouts: The layouts whose files it loads; the first is the one to convert to.
        loader: Its net with the weights of a file, by the file, the architecture and the dtype.
        limits: Why its class cannot build an architecture that its layout can name, or "".
        wrappers: Where in a PyTorch file its loader looks for the tensors; "" is the top.
    """

    name: str
    framework: str
    module: str
    distribution: str
    layouts: tuple[str, ...]
    loader: Callable[[Path, DenseNetConfig, str], Any]
    limits: Callable[[DenseNetConfig], str] = lambda _: ""
    wrappers: tuple[str, ...] = ("",)

    def require(self, file: Path, layout: str, config: DenseNetConfig) -> None:
        """Checks, without importing anything of it, that the library is there and takes files of this kind.

        Whether its loader then takes this file is for `load` to find out.

        Raises:
            FrameworkMissingError: The library, its framework, or what it reads the file with is not installed.
            LayoutError: The layout is none of `layouts`, or the library's class cannot build the architecture.
            UsageError: The file's format is none that the library reads, or its tensors are not where it looks.
        """
        from denseport.layouts import find_layout

        (require_torch if self.framework == "torch" else require_keras)()
        with formats.read(file) as checkpoint:
            found, wrapper = checkpoint.format, checkpoint.wrapper
        needed = {self.module: self.distribution, **({"safetensors": "safetensors"} if found == "safetensors" else {})}
        if missing := [distribution for module, distribution in needed.items() if find_spec(module) is None]:
            raise FrameworkMissingError(
                f"{file}: --against {self.name} needs {' and '.join(missing)}: pip install {' '.join(missing)}"
            )
        if layout not in self.layouts:
            fitting = [own for own in self.layouts if not find_layout(own).cannot_build(config)]
            raise LayoutError(
                f"{file}: has layout {quoted(layout)}, which {self.name} does not load; convert it with --to-layout "
                f"{(fitting or self.layouts)[0]} first"
            )
        if formats.FORMATS[found].framework != self.framework:
            native = next(name for name, each in formats.FORMATS.items() if each.framework == self.framework)
            raise UsageError(
                f"{file}: is a {found} file, which {self.name} does not load; convert it with --to {native} first"
            )
        if self.framework == "torch" and wrapper not in self.wrappers:
            raise UsageError(
                f"{file}: has its tensors under {quoted(wrapper)}, where {self.name} does not look; convert it to "
                "another file first"
            )
        flattened = (
            "its class averages the map before the classifier, this net flattens it" if config.head_shape else ""
        )
        if reason := find_layout(layout).cannot_build(config) or self.limits(config) or flattened:
            raise LayoutError(f"{file}: {self.name} cannot build it: {reason}; choose another --against, or none")

    def load(self, file: Path, config: DenseNetConfig, dtype: str) -> Any:
        """The library's net with a file's weights, as the library's own loader takes them.

        Args:
            file: The file.
            config: Its architecture; the traits are the library's own, but for a blur pool, which is a part of it.
            dtype: `float32` or `float64`, in which the net holds its weights and computes.

        Returns:
            A `torch.nn.Module` in eval mode on the CPU, or a `keras.Model` of free spatial size. It gives logits, or
            pooled features where the configuration has no classes.

        Raises:
            VerificationError: The library refuses the file; the message has its reason.
            UsageError: The dtype is float64 and Keras runs on another backend than TensorFlow.
        """
        try:
            return self.loader(file, config, dtype)
        except _refusals() as error:
            reason = quoted(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)
            raise VerificationError(
                f"{file}: {self.version()} does not load it ({reason}); see what it holds with denseport inspect"
            ) from None

    def version(self) -> str:
        """The library's name, as pip knows it, and version."""
        from importlib.metadata import version

        return f"{self.distribution} {version(self.distribution)}"


def _refusals() -> tuple[type[Exception], ...]:
    """What the loaders of the libraries, of torch and of Keras raise for a file that they do not take."""
    import pickle
    import zipfile

    usual = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError, AssertionError)
    broken = (pickle.UnpicklingError, zipfile.BadZipFile)
    if find_spec("safetensors") is None:
        return (*usual, *broken)
    from safetensors import SafetensorError

    return (*usual, *broken, SafetensorError)  # which has no ancestor but Exception


LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        library.name: library
        for library in (
            Library(
                name="torchvision",
                framework="torch",
                module="torchvision",
                distribution="torchvision",
                layouts=("torchvision",),
                loader=nets.load_torchvision,
                limits=nets.torchvision_limits,
            ),
            Library(
                name="timm",
                framework="torch",
                module="timm",
                distribution="timm",
                layouts=("torchvision", "timm-deep"),
                loader=nets.load_timm,
                limits=nets.timm_limits,
                wrappers=("", "state_dict", "model"),
            ),
            Library(
                name="monai",
                framework="torch",
                module="monai",
                distribution="monai",
                layouts=("monai",),
                loader=nets.load_monai,
            ),
            Library(
                name="keras-applications",
                framework="keras",
                module="keras",
                distribution="keras",
                layouts=("keras-applications", "keras-applications-2"),
                loader=nets.load_keras_applications,
            ),
            Library(
                name="keras-hub",
                framework="keras",
                module="keras_hub",
                distribution="keras-hub",
                layouts=("keras-hub",),
                loader=nets.load_keras_hub,
                limits=nets.keras_hub_limits,
            ),
        )
    }
)
