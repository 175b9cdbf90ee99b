"""DenseNets for PyTorch by the names that timm gives them, new or with the weights of any file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from denseport import formats, layouts
from denseport.errors import LayoutError, UsageError
from denseport.models.pytorch.densenet import DenseNet, as_tensor
from denseport.models.pytorch.features import FeatureNet
from denseport.net.config import DenseNetConfig
from denseport.net.names import find_config

HEAD = ("head_shape", "classifier_bias", "head_layers")


def create(
    name_or_config: str | DenseNetConfig,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    drop_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
    memory_efficient: bool = False,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    pretrained: str | Path | None = None,
) -> DenseNet:
    """A DenseNet in training mode, on the default device: (N, C, *spatial) images to (N, num_classes) logits.

    Args:
        name_or_config: A name of timm's (`densenet121`, `densenet264d`, `tv_densenet121`, `densenet121.ra_in1k`) or of
            `denseport.net.config.VARIANTS`; or a configuration.
        num_classes: Outputs of the classifier; 0 for none, then the net returns pooled features. None leaves what the
            file or the configuration has, 1000 for a name.
        in_channels: Channels of the images; None likewise, 3 for a name.
        drop_rate: Share of what the classifier sees that is dropped in training, as in timm.
        proj_drop_rate: Share of each dense layer's new features that is dropped in training: the paper's dropout, and
            torchvision's `drop_rate`.
        memory_efficient: Whether the backward pass computes much of each dense layer anew, as torchvision's and timm's
            do, which saves half of the memory for some time.
        features_only: Whether to return a `FeatureNet`, which gives a list of maps, one a resolution.
        out_indices: Which of these maps, from 0, the stem's, on; None for all.
        pretrained: A file of any format and layout that denseport reads. The net then takes its traits from the file;
            a classifier of another size than `num_classes` is left out, and the net's own starts anew.

    Raises:
        UsageError: A name or an option is unknown, or contradicts the file.
        FormatError, LayoutError: The file cannot be read, or holds another architecture.

    Source: timm `densenet.py`, `_create_densenet`; initial values: torchvision `densenet.py`, `DenseNet`.
    """
    config = find_config(name_or_config) if isinstance(name_or_config, str) else name_or_config
    for option, rate in (("drop_rate", drop_rate), ("proj_drop_rate", proj_drop_rate)):
        if not 0 <= rate < 1:
            raise UsageError(f"{option} must be at least 0 and less than 1, not {rate}")
    if out_indices is not None and not features_only:
        raise UsageError("out_indices says which feature maps to return; give features_only=True as well")
    tensors: dict[str, torch.Tensor] = {}
    if pretrained is not None:
        config, tensors = _pretrained(Path(pretrained), config)
    if num_classes is not None and (num_classes or None) != config.num_classes:
        config = config.without_head().replace(num_classes=num_classes or None)
    if in_channels is not None and in_channels != config.image_channels:
        if pretrained is not None:
            raise UsageError(
                f"{pretrained}: is for {config.image_channels} channels, not {in_channels}; leave in_channels out"
            )
        config = config.replace(in_channels=in_channels, inputs=None)
    if features_only:
        net: DenseNet = FeatureNet(
            config, out_indices, layer_drop_rate=proj_drop_rate, memory_efficient=memory_efficient
        )
    else:
        net = DenseNet(
            config, layer_drop_rate=proj_drop_rate, head_drop_rate=drop_rate, memory_efficient=memory_efficient
        )
    _initialise(net)
    own = net.state_dict()
    # What may not fit, of an architecture that does, are a classifier of another size and parts that the net lacks.
    fitting = {name: values for name, values in tensors.items() if name in own and values.shape == own[name].shape}
    net.load_state_dict(fitting, strict=False)
    return net


def _pretrained(file: Path, config: DenseNetConfig) -> tuple[DenseNetConfig, dict[str, torch.Tensor]]:
    """What a file holds that has the architecture of `config`: its configuration, and its tensors by canonical name.

    Traits, head, channels and inputs may differ.

    Raises:
        LayoutError: It holds another one.
    """
    with formats.read(file) as checkpoint:
        weights = layouts.to_canonical(checkpoint, layouts.detect(checkpoint))
        own = weights.config
        like = config.replace(
            **{name: getattr(own, name) for name in ("num_classes", "in_channels", "inputs", "traits", *HEAD)}
        )
        if own != like:
            raise LayoutError(f"{file}: holds {own.variant}, not {config.variant}; create a net of that architecture")
        # torch's own default is the dtype that nets are made of
        dtype = str(torch.get_default_dtype()).removeprefix("torch.")
        tensors = {name: as_tensor(stored.read(), dtype) for name, stored in weights.tensors.items()}
        counters = {
            f"{norm}.num_batches_tracked": torch.tensor(int(stored.read())) for norm, stored in weights.counters.items()
        }
        return own, tensors | counters


def _initialise(net: DenseNet) -> None:
    """The initial values of the original net: He et al.'s for kernels, zeros for the biases of dense layers."""
    for module in net.modules():
        if isinstance(module, _ConvNd):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
