"""The PyTorch twin: a reference DenseNet whose functions and names are those of `denseport.models.keras`.

Images come in as (N, C, *spatial) and logits go out as (N, num_classes). Every function returns the module that it
describes; a module's place in its parents spells its canonical name, `block1.layer3.norm1`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import cast

import ml_dtypes
import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from denseport.metadata import Record
from denseport.models import require_fit
from denseport.net.config import DenseNetConfig, HeadLayer, Inputs

CONV: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAX_POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOL = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
GLOBAL_AVERAGE_POOL = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
GLOBAL_MAX_POOL = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
REFLECTION = (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d)
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "gelu-tanh": partial(nn.GELU, "tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hard-swish": nn.Hardswish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


class DenseNet(nn.Sequential):
    """A DenseNet: (N, C, *spatial) images to (N, num_classes) logits, or to (N, features) where there is no classifier.

    The names and shapes of its state dict are `denseport.net.graph.shapes(config)`, and one
    `num_batches_tracked` a normalisation.

    Args:
        config: The architecture.
        layer_drop_rate: Share of each dense layer's new features that is dropped in training.
        head_drop_rate: Share of what the classifier sees that is dropped in training.
        memory_efficient: Whether the backward pass puts each dense layer's input together anew, and normalises it anew,
            so that neither is kept; gradients and running statistics stay the same.

    Source: Huang et al. 2017, table 1; dropout: section 4.2, and timm `densenet.py`, `DenseNet`, which calls the rates
    `proj_drop_rate` and `drop_rate`; recomputation: Pleiss et al. 2017.
    """

    def __init__(
        self,
        config: DenseNetConfig,
        *,
        layer_drop_rate: float = 0.0,
        head_drop_rate: float = 0.0,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        if config.inputs:
            self.add_module("inputs", ImageInputs(config.inputs, config.dimensions))
        self.add_module("stem", stem(config))
        width = config.stem_widths[-1]
        for b, count in enumerate(config.block_config, 1):
            self.add_module(f"block{b}", dense_block(config, width, count, layer_drop_rate, memory_efficient))
            width += count * config.growth_rate
            if b < len(config.block_config):
                outputs = config.transition_widths[b - 1]
                self.add_module(f"transition{b}", transition(config, width, outputs))
                width = outputs
        self.add_module("head", head(config, width, head_drop_rate))

    @property
    def metadata(self) -> dict[str, str]:
        """What a safetensors file of the state dict should carry, so that denseport knows the whole net again."""
        return Record("denseport", framework="torch", **self.config.unshown).strings()


def stem(config: DenseNetConfig) -> nn.Sequential:
    """One convolution, or three in a deep stem, each with its normalisation and ReLU; then the pool.

    Source: Huang et al. 2017, table 1; deep stems and blur pool: timm `densenet.py`, `DenseNet`.
    """
    modules = nn.Sequential()
    width, strides = config.in_channels, config.stem_strides
    for n, outputs in zip(config.stem_numbers, config.stem_widths, strict=True):
        before, padding = pad(config, config.stem_kernel, strides)
        modules.add_module(f"pad{n}", before)
        modules.add_module(f"conv{n}", conv(config, width, outputs, config.stem_kernel, strides, padding))
        if config.stem_norm:
            modules.add_module(f"norm{n}", norm(config, outputs))
            modules.add_module(f"relu{n}", body_activation(config))
        width, strides = outputs, (1,) * config.dimensions
    if config.traits.stem_pool == "max":
        modules.add_module("pool", max_pool(config, stride=2))
    if config.traits.stem_pool == "max-2":
        modules.add_module("pool", MAX_POOL[config.dimensions - 1](2))
    if config.traits.stem_pool == "max-blur":
        modules.add_module("max", max_pool(config, stride=1))
        modules.add_module("pool", blur_pool(config))
    return modules


def dense_block(
    config: DenseNetConfig, width: int, count: int, drop_rate: float = 0.0, memory_efficient: bool = False
) -> nn.Sequential:
    """`count` dense layers, each of which sees what all before it have made (section 3, Dense connectivity)."""
    block = RecomputedBlock() if memory_efficient else nn.Sequential()
    for l in range(count):  # noqa: E741 - the paper's letter for a layer
        block.add_module(f"layer{l + 1}", dense_layer(config, width + l * config.growth_rate, drop_rate))
    return block


def dense_layer(config: DenseNetConfig, width: int, drop_rate: float = 0.0) -> DenseConnection:
    """Adds k channels, by a 1x1 and a 3x3 convolution or by a 3x3 alone (section 3, Bottleneck layers)."""
    layer = DenseConnection(config)
    layer.add_module("norm1", norm(config, width))
    layer.add_module("relu1", body_activation(config))
    if config.bottleneck_width is None:
        layer.add_module("conv1", conv(config, width, config.growth_rate, 3))
    else:
        layer.add_module("conv1", conv(config, width, config.bottleneck_width, 1))
        if config.bottleneck_norm:
            layer.add_module("norm2", norm(config, config.bottleneck_width))
            layer.add_module("relu2", body_activation(config))
        layer.add_module("conv2", conv(config, config.bottleneck_width, config.growth_rate, 3))
    if drop_rate:
        layer.add_module("dropout", nn.Dropout(drop_rate))
    return layer


def transition(config: DenseNetConfig, width: int, outputs: int) -> nn.Sequential:
    """Halves every spatial size, and compresses the channels (section 3, Pooling layers and Compression)."""
    modules = nn.Sequential()
    modules.add_module("norm", norm(config, width))
    if config.traits.transition_activation == "same":
        modules.add_module("relu", body_activation(config))
    modules.add_module("conv", conv(config, width, outputs, 1))
    modules.add_module("pool", average_pool(config, stride=2))
    return modules


def head(config: DenseNetConfig, width: int, drop_rate: float = 0.0) -> nn.Sequential:
    """The last normalisation and activation, the global pool, and the classifier or several layers, to logits.

    Where the config has a `head_shape`, they see the whole map, flattened in the order (C, *spatial).
    """
    modules = nn.Sequential()
    if config.final_norm:
        modules.add_module("norm", norm(config, width))
    if config.traits.final_activation == "relu":
        # Not in place, since a parity check looks at what comes in.
        modules.add_module("relu", activation(config.traits.activation, config.traits.negative_slope))
    if config.head_shape:
        modules.add_module("flatten", nn.Flatten())
        width *= math.prod(config.head_shape)
    else:
        modules.add_module("pool", global_pool(config))
        width *= 2 if config.traits.head_pool in ("mean-max", "max-mean") else 1
    if drop_rate:
        modules.add_module("dropout", nn.Dropout(drop_rate))
    if config.num_classes is not None and not config.head_layers:
        modules.add_module("classifier", nn.Linear(width, config.num_classes, bias=config.classifier_bias))
    for n, layer in enumerate(config.head_layers):
        if layer.kind != "dropout":  # the rate is no part of a configuration
            modules.add_module(f"{layer.kind}{n}", head_layer(layer, width))
        width = layer.width or width
    return modules


def head_layer(layer: HeadLayer, width: int) -> nn.Module:
    """A layer behind the pool: (N, width) to (N, its width), or to the same shape where it has none."""
    if layer.kind == "dense":
        return nn.Linear(width, layer.width, bias=layer.bias)
    if layer.kind == "norm":
        return nn.BatchNorm1d(width, eps=layer.epsilon, momentum=0.1)
    return UnitNorm() if layer.kind == "unit-norm" else activation(layer.activation, layer.negative_slope)


def conv(
    config: DenseNetConfig,
    inputs: int,
    outputs: int,
    side: int,
    strides: tuple[int, ...] = (),
    padding: int | None = None,
) -> nn.Module:
    """A convolution, which keeps the spatial sizes where neither strides nor padding is given."""
    padding = side // 2 if padding is None else padding
    strides = strides or (1,) * config.dimensions
    return CONV[config.dimensions - 1](inputs, outputs, side, strides, padding, bias=config.conv_bias)


def norm(config: DenseNetConfig, width: int) -> nn.Module:
    """A batch normalisation; PyTorch's momentum 0.1 is Keras' 0.9."""
    return NORM[config.dimensions - 1](width, eps=config.traits.epsilon, momentum=0.1)


def body_activation(config: DenseNetConfig) -> nn.Module:
    """What follows a normalisation, in place where that is a ReLU."""
    traits = config.traits
    return (
        nn.ReLU(inplace=True) if traits.activation == "relu" else activation(traits.activation, traits.negative_slope)
    )


def activation(name: str, negative_slope: float) -> nn.Module:
    """An activation by its name in `denseport.net.config.Activation`."""
    return nn.LeakyReLU(negative_slope) if name == "leaky-relu" else ACTIVATIONS[name]()


def max_pool(config: DenseNetConfig, stride: int) -> nn.Sequential:
    """The maximum of 3 positions an axis; no maximum sees the padding."""
    before, padding = pad(config, 3, (stride,) * config.dimensions, value=float("-inf"))
    return nn.Sequential(before, MAX_POOL[config.dimensions - 1](3, stride, padding))


def average_pool(config: DenseNetConfig, stride: int) -> nn.Module:
    """The mean of 2 positions an axis; what is over at the end is left out."""
    return AVERAGE_POOL[config.dimensions - 1](2, stride=stride)


def blur_pool(config: DenseNetConfig) -> nn.Sequential:
    """[1, 2, 1] / 4 at stride 2 an axis, over reflected borders: the mean of 2 taken twice.

    Source: timm `blur_pool.py`, `BlurPool2d`.
    """
    return nn.Sequential(
        REFLECTION[config.dimensions - 1](1), average_pool(config, stride=1), average_pool(config, stride=2)
    )


def global_pool(config: DenseNetConfig) -> nn.Module:
    """The mean or the maximum over all spatial axes, or both, joined or averaged: (N, C, *spatial) to (N, C or 2 C)."""
    mean, greatest = (
        nn.Sequential(pool[config.dimensions - 1](1), nn.Flatten()) for pool in (GLOBAL_AVERAGE_POOL, GLOBAL_MAX_POOL)
    )
    pools = {
        "mean": mean,
        "max": greatest,
        "mean-max": JoinedPools(mean=mean, max=greatest),
        "max-mean": JoinedPools(max=greatest, mean=mean),
        "average-of-both": AveragedPools(mean=mean, max=greatest),
    }
    return pools[config.traits.head_pool]


def pad(config: DenseNetConfig, side: int, strides: tuple[int, ...], value: float = 0.0) -> tuple[nn.Module, int]:
    """Pads for windows of `side` positions, as the config's `padding` says: a module, and what is left for the next."""
    if config.traits.padding == "same":
        return SamePadding(side, strides, value), 0
    return nn.Identity(), side // 2


class ImageInputs(nn.Module):
    """What the net makes of what it is fed: channel c is x[order[c]] * scale[c] + offset[c].

    The figures are buffers, so that they follow the net's device and dtype, and are in no state dict.

    Args:
        inputs: The figures.
        dimensions: Spatial dimensions.
        dtype: In which the figures are held; None for torch's default.
    """

    order: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, inputs: Inputs, dimensions: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        shape = (-1, *(1,) * dimensions)
        self.register_buffer("order", torch.tensor(inputs.order), persistent=False)
        self.register_buffer("scale", torch.tensor(inputs.scale, dtype=dtype).reshape(shape), persistent=False)
        self.register_buffer("offset", torch.tensor(inputs.offset, dtype=dtype).reshape(shape), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, image channels, *spatial) to (N, C, *spatial)."""
        return x[:, self.order] * self.scale + self.offset


class JoinedPools(nn.ModuleDict):
    """Several pools of one map, their channels behind each other."""

    def __init__(self, **pools: nn.Module) -> None:
        super().__init__(pools)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) to (N, pools x C)."""
        return torch.cat([pool(x) for pool in self.values()], dim=1)


class AveragedPools(JoinedPools):
    """The mean of several pools of one map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) to (N, C)."""
        return torch.stack([pool(x) for pool in self.values()]).mean(dim=0)


class UnitNorm(nn.Module):
    """Features divided by their Euclidean norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C) to the same shape."""
        return nn.functional.normalize(x, dim=1)


class DenseConnection(nn.Sequential):
    """Concatenates what comes in and what its modules make of it along the channels, in the config's order."""

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__()
        self.new_first = config.traits.concatenation == "new-first"

    def forward(self, old: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) to (N, C + k, *spatial)."""
        return torch.cat(self.joined([old], self.after_first_conv(self.first_conv(old))), dim=1)

    def first_conv(self, *old: torch.Tensor) -> torch.Tensor:
        """What the first normalisation, ReLU and convolution make of maps that belong together: (N, C, *spatial)."""
        new = torch.cat(old, dim=1) if len(old) > 1 else old[0]
        for module in list(self)[:3]:
            new = module(new)
        return new

    def after_first_conv(self, new: torch.Tensor) -> torch.Tensor:
        """What the modules behind the first convolution make of that: (N, k, *spatial)."""
        for module in list(self)[3:]:
            new = module(new)
        return new

    def joined(self, old: list[torch.Tensor], new: torch.Tensor) -> list[torch.Tensor]:
        """The maps that the next layer sees, in the config's order."""
        return [new, *old] if self.new_first else [*old, new]


class RecomputedBlock(nn.Sequential):
    """Dense layers whose inputs the backward pass puts together anew, and their first normalisation with its ReLU.

    Without it each layer keeps all that those before it have made, twice, which grows with the square of their number.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) to (N, C + k x layers, *spatial)."""
        if not torch.is_grad_enabled():
            for layer in self:
                x = layer(x)
            return x
        maps = [x]
        for layer in cast("Iterable[DenseConnection]", self):
            # What is run again ends before the convolution, of which the backward pass needs no more than its input.
            if torch.compiler.is_compiling():
                # A compiler traces the layer once, and knows itself what a second run may not change.
                new = checkpoint(layer.first_conv, *maps, use_reentrant=False)
            else:
                contexts = partial(_contexts, layer.get_submodule("norm1"))
                new = checkpoint(layer.first_conv, *maps, use_reentrant=False, context_fn=contexts)
            maps = layer.joined(maps, layer.after_first_conv(new))
        return torch.cat(maps, dim=1)


class SamePadding(nn.Module):
    """Pads every spatial axis for windows of `side` positions at its stride as TensorFlow does.

    Source: TensorFlow, `tf.nn.convolution`, `SAME`: as many windows as strides begin, the odd one out at the end.
    """

    def __init__(self, side: int, strides: tuple[int, ...], value: float) -> None:
        super().__init__()
        self.side, self.strides, self.value = side, strides, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) to (N, C, *padded)."""
        widths: list[int] = []
        for size, stride in zip(reversed(x.shape[2:]), reversed(self.strides), strict=True):
            windows = -(-size // stride)
            total = max((windows - 1) * stride + self.side - size, 0)
            widths += [total // 2, total - total // 2]
        return nn.functional.pad(x, widths, value=self.value)


def load(config: DenseNetConfig, tensors: Mapping[str, np.ndarray], dtype: str = "float32") -> DenseNet:
    """The twin with these weights, in eval mode on the CPU.

    Args:
        config: The architecture.
        tensors: Arrays by canonical name in canonical axes, kernels (O, I, *spatial); any may be read-only and of any
            floating dtype, bfloat16 too. `num_batches_tracked` of any normalisation may be there.
        dtype: Name of the dtype in which the twin holds its weights and computes; the arrays are cast to it.

    Raises:
        LayoutError: Names are missing or unexpected, or shapes are not those of the configuration.
    """
    with torch.device("meta"):
        model = DenseNet(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    counters = {name: np.zeros((), np.int64) for name in expected if name.endswith(".num_batches_tracked")}
    tensors = counters | dict(tensors)
    require_fit({name: array.shape for name, array in tensors.items()}, expected)
    state = {
        name: torch.tensor(int(array)) if name in counters else as_tensor(array, dtype)
        for name, array in tensors.items()
    }
    model.load_state_dict(state, assign=True)
    if config.inputs:  # in no state dict
        model.inputs = ImageInputs(config.inputs, config.dimensions, getattr(torch, dtype))
    return model.eval()


def as_tensor(array: np.ndarray, dtype: str) -> torch.Tensor:
    """A copy of an array of any floating dtype, rounded to the dtype of this name."""
    # A copy, since torch warns of memory that may not be written; and torch does not know numpy's bfloat16.
    copy = np.array(array, dtype=ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype, order="C")
    return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16) if dtype == "bfloat16" else torch.from_numpy(copy)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds a first run of a normalisation and a second one."""
    return nullcontext(), _with_copied_statistics(module)


@contextmanager
def _with_copied_statistics(module: nn.Module) -> Iterator[None]:
    """Lets copies of the running statistics take up what would else be the same batch for a second time."""
    kept = dict(module.named_buffers())
    for name, values in kept.items():
        setattr(module, name, values.clone())
    try:
        yield
    finally:
        for name, values in kept.items():
            setattr(module, name, values)
