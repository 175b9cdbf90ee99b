"""The libraries whose DenseNet can take the twin's place: their class and their loader, nothing of denseport's.

A mistake that reader, writer and twin share would not show between two of them; it shows here. A function that loads
runs inside a framework's process alone. It builds the net by the architecture, and leaves the library's epsilon and
padding as they are. Libraries are imported by name, since none need be there where this is checked. `--help` takes
their names from here, so that what takes long to import is imported by the functions that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from denseport import formats
from denseport.errors import DenseportError, FrameworkMissingError, LayoutError, UsageError, VerificationError, quoted
from denseport.requirements import require_keras, require_torch

if TYPE_CHECKING:
    import keras
    import torch

    from denseport.checkpoint import Checkpoint
    from denseport.net.config import DenseNetConfig


@dataclass(frozen=True)
class Library:
    """A library's DenseNet and loader.

    Attributes:
        name: What `--against` calls it.
        framework: `torch` or `keras`.
        module: What must be importable.
        layouts: The layouts whose files it loads; the first is the one to convert to.
        loader: Its net with the weights of a file, by the file, the architecture and the dtype.
        limits: Why its class cannot build an architecture that its layout can name, or "".
        wrappers: Where in a PyTorch file its loader looks for the tensors; "" is the top.
    """

    name: str
    framework: str
    module: str
    layouts: tuple[str, ...]
    loader: Callable[[Path, DenseNetConfig, str], Any]
    limits: Callable[[DenseNetConfig], str] = lambda _: ""
    wrappers: tuple[str, ...] = ("",)

    def require(self, checkpoint: Checkpoint, layout: str, config: DenseNetConfig, wrapper: str = "") -> None:
        """Checks, without importing anything of it, that the library is there and takes files of this kind.

        Whether its loader then takes this file is for `load` to find out.

        Args:
            checkpoint: The file.
            layout: What finds its layout.
            config: Its architecture.
            wrapper: Where in the file its tensors stand, or "".

        Raises:
            FrameworkMissingError: The library or its framework is not installed.
            LayoutError: The layout is none of `layouts`, or the library's class cannot build the architecture.
            UsageError: The file's format is none that the library reads, or its tensors are not where it looks.
        """
        from denseport.layouts import find_layout

        (require_torch if self.framework == "torch" else require_keras)()
        file, found = checkpoint.path, checkpoint.format
        if find_spec(self.module) is None:
            missing = self.distribution
            raise FrameworkMissingError(f"{file}: --against {self.name} needs {missing}: pip install {missing}")
        if layout not in self.layouts:
            fitting = [each for each in self.layouts if not find_layout(each).cannot_build(config)]
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
                f"{file}: has its tensors under {quoted(wrapper)}, where {self.name} does not look; convert "
                "it to another file first"
            )
        reason = find_layout(layout).cannot_build(config) or self.limits(config)
        if not reason and config.head_shape:
            reason = "its class averages the map before the classifier, this net flattens it"
        if not reason and (config.head_layers or not config.classifier_bias):
            reason = "its class has one dense layer with a bias for a head, this net has another head"
        if reason:
            raise LayoutError(f"{file}: {self.name} cannot build it: {reason}; choose another --against, or none")

    def load(self, file: Path, config: DenseNetConfig, dtype: str, shown: str | Path | None = None) -> Any:
        """The library's net with a file's weights, as the library's loader takes them.

        Args:
            file: The file.
            config: Its architecture; the traits are the library's, but for a blur pool, which is a part of it.
            dtype: `float32` or `float64`, in which the net holds its weights and computes.
            shown: What an error calls the file, where that is not `file`.

        Returns:
            A `torch.nn.Module` in eval mode on the CPU, or a `keras.Model` of free spatial size. It gives logits, or
            pooled features where the configuration has no classes.

        Raises:
            VerificationError: The library refuses the file; the message has its reason.
            UsageError: The dtype is float64 and Keras runs on another backend than TensorFlow.
        """
        try:
            return self.loader(file, config, dtype)
        except DenseportError:
            raise
        except Exception as error:  # libraries, torch and Keras have no class in common for what they do not take
            reason = quoted(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)
            raise VerificationError(
                f"{shown or file}: {self.version()} does not load it ({reason}); see what it holds with denseport "
                "inspect"
            ) from None

    def version(self) -> str:
        """The library's name, as pip knows it, and version."""
        from importlib.metadata import version

        return f"{self.distribution} {version(self.distribution)}"

    @property
    def distribution(self) -> str:
        """What pip calls it."""
        return self.module.replace("_", "-")


def load_torchvision(file: Path, config: DenseNetConfig, dtype: str) -> torch.nn.Module:
    """torchvision's net, given a state dict or a safetensors file.

    Source: torchvision/models/densenet.py: DenseNet.
    """
    from torch import nn

    net = import_module("torchvision.models").DenseNet(
        growth_rate=config.growth_rate,
        block_config=config.block_config,
        num_init_features=config.stem_widths[0],
        bn_size=config.bn_size,
        num_classes=config.num_classes or 1,
    )
    if config.num_classes is None:
        net.classifier = nn.Identity()
    return _with_state_dict(net, file, dtype)


def torchvision_limits(config: DenseNetConfig) -> str:
    """Why torchvision's class cannot build a net that its layout can name, or ""."""
    channels = config.in_channels
    return "" if channels == 3 else f"its class takes images of 3 channels, this net of {channels}"


def load_monai(file: Path, config: DenseNetConfig, dtype: str) -> torch.nn.Module:
    """MONAI's net in 1, 2 or 3 dimensions, given a state dict or a safetensors file.

    Source: monai/networks/nets/densenet.py: DenseNet.
    """
    from torch import nn

    net = import_module("monai.networks.nets").DenseNet(
        spatial_dims=config.dimensions,
        in_channels=config.in_channels,
        out_channels=config.num_classes or 1,
        init_features=config.stem_widths[0],
        growth_rate=config.growth_rate,
        block_config=config.block_config,
        bn_size=config.bn_size,
    )
    if config.num_classes is None:
        net.class_layers.out = nn.Identity()
    return _with_state_dict(net, file, dtype)


def _with_state_dict(net: torch.nn.Module, file: Path, dtype: str) -> torch.nn.Module:
    """The net with a file's tensors, as PyTorch's documentation has users load them."""
    import torch

    if formats.sniff(file) == "safetensors":
        from safetensors.torch import load_file

        tensors = load_file(file)
    else:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    net = net.to(getattr(torch, dtype))
    net.load_state_dict(tensors, strict=True)
    return net.eval()


def load_timm(file: Path, config: DenseNetConfig, dtype: str) -> torch.nn.Module:
    """timm's net of any stem that it has, given any checkpoint that its loader reads.

    Source: timm/models/densenet.py: DenseNet; timm/models/_helpers.py: load_checkpoint.
    """
    import torch

    from denseport.net.names import timm_stem

    timm = import_module("timm")
    net: torch.nn.Module = timm.create_model(
        "densenet121",
        growth_rate=config.growth_rate,
        block_config=config.block_config,
        bn_size=config.bn_size,
        in_chans=config.in_channels,
        num_classes=config.num_classes or 0,
        stem_type=timm_stem(config),
        aa_layer=timm.layers.BlurPool2d if config.traits.stem_pool == "max-blur" else None,
    )
    net = net.to(getattr(torch, dtype))
    # The moving average that may lie beside the weights is another net than the one that was read.
    timm.models.load_checkpoint(net, str(file), use_ema=False, strict=True)
    return net.eval()


def timm_limits(config: DenseNetConfig) -> str:
    """Why timm's class cannot build a net that its layouts can name, or ""."""
    from denseport.net.names import timm_stem

    widths = "-".join(map(str, config.stem_widths))
    return "" if timm_stem(config) is not None else f"its class has no stem of {widths} at k={config.growth_rate}"


def load_keras_applications(file: Path, config: DenseNetConfig, dtype: str) -> keras.Model:
    """keras.applications' net without its softmax, given a legacy h5, a `.weights.h5` or a `.keras` file.

    Source: keras/src/applications/densenet.py: DenseNet, which the public DenseNet121, 169 and 201 call.
    """
    import keras
    from keras.src.applications.densenet import DenseNet

    with keras_computing_in(dtype):
        # With a tensor for its input the net takes images of any size; by itself it would take one size alone.
        images = keras.Input((None, None, config.in_channels))
        net = DenseNet(
            list(config.block_config),
            include_top=config.num_classes is not None,
            weights=None,
            input_tensor=images,
            pooling="avg",
            classes=config.num_classes or 1,
            classifier_activation=None,
        )
        net.load_weights(file)
    return net


def load_keras_hub(file: Path, config: DenseNetConfig, dtype: str) -> keras.Model:
    """keras_hub's classifier, or its backbone and a pool, given a legacy h5, a `.weights.h5` or a `.keras` file.

    Source: keras_hub/src/models/densenet/densenet_backbone.py: DenseNetBackbone; keras_hub/src/models/
    image_classifier.py: ImageClassifier.
    """
    import keras

    models = import_module("keras_hub.models")
    with keras_computing_in(dtype):
        net = backbone = models.DenseNetBackbone(
            stackwise_num_repeats=list(config.block_config),
            image_shape=(None, None, config.in_channels),
            compression_ratio=config.compression,
            growth_rate=config.growth_rate,
        )
        if config.num_classes is not None:
            net = models.DenseNetImageClassifier(backbone=backbone, num_classes=config.num_classes)
        net.load_weights(file)
        if config.num_classes is None:
            net = keras.Model(net.input, keras.layers.GlobalAveragePooling2D()(net.output))
    return net


def keras_hub_limits(config: DenseNetConfig) -> str:
    """Why keras_hub's class cannot build a net that its layout can name, or ""."""
    return "" if config.compression is not None else "its class compresses alike in every transition, this net does not"


@contextmanager
def keras_computing_in(dtype: str) -> Iterator[None]:
    """Gives the Keras layers and inputs that are made meanwhile their dtype."""
    import keras

    from denseport.models.keras.twin import computing_in

    before = keras.config.floatx()
    with computing_in(dtype):
        # Inputs go by floatx, and round the images to it, whatever the policy for layers says.
        keras.config.set_floatx(dtype)
        try:
            yield
        finally:
            keras.config.set_floatx(before)


LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        library.name: library
        for library in (
            Library("torchvision", "torch", "torchvision", ("torchvision",), load_torchvision, torchvision_limits),
            Library(
                "timm",
                "torch",
                "timm",
                ("torchvision", "timm-deep"),
                load_timm,
                timm_limits,
                ("", "state_dict", "model"),
            ),
            Library("monai", "torch", "monai", ("monai",), load_monai),
            Library(
                "keras-applications",
                "keras",
                "keras",
                ("keras-applications", "keras-applications-2"),
                load_keras_applications,
            ),
            Library("keras-hub", "keras", "keras_hub", ("keras-hub",), load_keras_hub, keras_hub_limits),
        )
    }
)
