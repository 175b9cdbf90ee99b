"""How each library builds its own DenseNet and loads a file into it, and what its class cannot build.

A function that loads runs inside a worker process alone. It builds the net by the architecture and leaves the library's
own epsilon and padding as they are. Libraries are imported by name, since none need be there where this is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from denseport import formats

if TYPE_CHECKING:
    import keras
    import torch

    from denseport.net.config import DenseNetConfig
from denseport.net.names import timm_stem


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
    """timm's net of any stem that it has, given any checkpoint that its own loader reads.

    Source: timm/models/densenet.py: DenseNet; timm/models/_helpers.py: load_checkpoint.
    """
    import torch

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
    widths = "-".join(map(str, config.stem_widths))
    return "" if timm_stem(config) is not None else f"its class has no stem of {widths} at k={config.growth_rate}"


def load_keras_applications(file: Path, config: DenseNetConfig, dtype: str) -> keras.Model:
    """keras.applications' net without its softmax, given a legacy h5, a `.weights.h5` or a `.keras` file.

    Source: keras/src/applications/densenet.py: DenseNet, which the public DenseNet121, 169 and 201 call.
    """
    import keras
    from keras.src.applications.densenet import DenseNet

    with _computing_in(dtype):
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
    with _computing_in(dtype):
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
def _computing_in(dtype: str) -> Iterator[None]:
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
