"""What makes a DenseNet: the architecture that shapes show, and the traits that they cannot show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_type_hints

from denseport.errors import LayoutError, quoted

Activation = Literal[
    "none", "relu", "relu6", "leaky-relu", "elu", "selu", "gelu", "gelu-tanh", "silu", "mish", "hard-swish", "tanh",
    "sigmoid", "softplus",
]  # fmt: skip
HeadPool = Literal["mean", "max", "mean-max", "max-mean", "average-of-both"]


Stride = int | tuple[int, ...]
# What images are scaled and shifted by, beyond which float32 ends.
REASONABLE = 1e-30, 1e30


@cache
def _kinds_of_traits() -> Mapping[str, tuple[Any, tuple[str, ...]]]:
    """Each trait's type, and the values that it may have where it is one of a few."""
    every = {**get_type_hints(Traits), **get_type_hints(Hidden)}
    hints = {trait: int if hint == Stride else hint for trait, hint in every.items()}
    return {trait: (hint, get_args(hint)) for trait, hint in hints.items()}


@dataclass(frozen=True)
class Traits:
    """The facts of an architecture that no name or shape shows.

    Attributes:
        epsilon: Added to the variance in every batch normalisation.
        padding: Of the stem's convolution and pool. `symmetric` pads both sides alike; `same` pads as TensorFlow does,
            which at even sizes is one less at the start than at the end.
        stem_stride: Stride of the stem's first convolution; one for each axis where those differ.
        stem_pool: After the stem: `max` (3, stride 2), `max-2` (2, stride 2, without padding), `max-blur` (max 3
            stride 1, then [1, 2, 1] stride 2 over reflected borders) or `none`.
        concatenation: Where a dense layer's new features go: `old-first` appends them, `new-first` prepends them.
        final_activation: `relu` where `activation` stands before the global pool too, or `none`.
        activation: What follows each normalisation of the body.
        transition_activation: What follows the normalisation of a transition, or `same` as everywhere else.
        negative_slope: Of `leaky-relu`, whose default is 0.01 in PyTorch, 0.3 in Keras' layer and 0.2 in its function.
        head_pool: How the last map becomes features: its mean, its maximum, both joined in either order, or the average
            of both. A flattened map has none; see `DenseNetConfig.head_shape`.
        head_activation: What the source's own model applies to the logits. The twins always return logits; this is
            recorded, not computed. Any other activation at the end is one of `DenseNetConfig.head_layers`.
    """

    epsilon: float = 1e-5
    padding: Literal["symmetric", "same"] = "symmetric"
    stem_stride: Stride = 2
    stem_pool: Literal["max", "max-2", "max-blur", "none"] = "max"
    concatenation: Literal["old-first", "new-first"] = "old-first"
    final_activation: Literal["relu", "none"] = "relu"
    activation: Activation = "relu"
    transition_activation: Literal["same", "none"] = "same"
    negative_slope: float = 0.01
    head_pool: HeadPool = "mean"
    head_activation: Literal["none", "softmax", "sigmoid", "log-softmax"] = "none"

    def __post_init__(self) -> None:
        if isinstance(self.stem_stride, list | tuple):  # a list where it comes from JSON
            strides = tuple(self.stem_stride)
            object.__setattr__(self, "stem_stride", strides[0] if len(set(strides)) == 1 else strides)
        for trait, value in vars(self).items():
            _check(trait, value)


@dataclass(frozen=True)
class Hidden:
    """What weights do not show of the layers of a head before its last dense one, and `--trait` may state.

    Attributes:
        hidden_activation: What follows each dense layer but the last.
        hidden_epsilon: Added to the variance in each normalisation.
    """

    hidden_activation: Activation = "relu"
    hidden_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for trait, value in vars(self).items():
            _check(trait, value)


def _check(trait: str, value: Any) -> None:
    """Raises LayoutError where a trait does not have such a value."""
    type_, choices = _kinds_of_traits()[trait]
    if choices:
        if value not in choices:
            raise LayoutError(f"trait {trait} must be one of {', '.join(choices)}, not {quoted(value)}")
        return
    numbers = value if isinstance(value, tuple) and trait == "stem_stride" and value else (value,)
    of_type = all(isinstance(each, type_) and not isinstance(each, bool) for each in numbers)
    if not (of_type and all(0 < each < 100 for each in numbers)):
        raise LayoutError(f"trait {trait} must be a positive {type_.__name__}, not {quoted(value)}")


def trait_values(given: Mapping[str, object]) -> dict[str, Any]:
    """Traits by name, those of `Hidden` too, checked; a text is read as what the trait's value is, a number or another.

    Raises:
        LayoutError: There is no such trait, or it has no such value.
    """
    values = {}
    for trait, value in given.items():
        if trait not in TRAIT_NAMES | HIDDEN_NAMES:
            raise LayoutError(f"{quoted(trait)} is no trait; known: {', '.join(sorted(TRAIT_NAMES | HIDDEN_NAMES))}")
        values[trait] = _trait_value(trait, value)
    traits = vars(Traits(**{trait: value for trait, value in values.items() if trait in TRAIT_NAMES}))
    hidden = vars(Hidden(**{trait: value for trait, value in values.items() if trait in HIDDEN_NAMES}))
    return {trait: {**traits, **hidden}[trait] for trait in values}


def _trait_value(trait: str, value: Any) -> Any:
    """What a text says; the text itself where it says nothing of the trait's kind."""
    type_, choices = _kinds_of_traits()[trait]
    if choices or isinstance(value, bool):
        return value
    try:
        if type_ is int and isinstance(value, str) and "," in value:
            return tuple(map(int, value.split(",")))
        return type_(value) if type_ is float or isinstance(value, str) else value
    except (ValueError, TypeError, OverflowError):
        return value


@dataclass(frozen=True)
class Inputs:
    """What a net makes of what it is fed, before the stem: channel c is x[order[c]] * scale[c] + offset[c].

    Any chain of rescaling, normalisation, reversal of channels and copies of a grey channel is one of these.

    Attributes:
        channels: How many channels it is fed.
        order: Which of those each channel of the stem is made of.
        scale: What each is multiplied by.
        offset: What is then added to each.
    """

    channels: int
    order: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.order or not len(self.order) == len(self.scale) == len(self.offset):
            raise LayoutError("inputs have an order, a scale and an offset for each channel of the stem")
        if not all(type(channel) is int and 0 <= channel < self.channels for channel in self.order):
            raise LayoutError(f"inputs are made of channels 0 to {self.channels - 1}, not {quoted(list(self.order))}")
        least, most = REASONABLE
        if not all(least <= abs(each) <= most for each in self.scale) or not all(abs(o) <= most for o in self.offset):
            raise LayoutError(
                f"inputs are scaled by numbers from {least:g} to {most:g}, and shifted by none beyond that"
            )

    @classmethod
    def unchanged(cls, channels: int) -> Inputs:
        """Every channel as it comes."""
        return cls(channels, tuple(range(channels)), (1.0,) * channels, (0.0,) * channels)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Inputs:
        """The inputs whose fields these are, by way of JSON or not."""
        scale, offset = (tuple(map(float, plain[name])) for name in ("scale", "offset"))
        return cls(plain["channels"], tuple(plain["order"]), scale, offset)

    @property
    def formula(self) -> str:
        """What is done to an image x, as people write it: `(x - 127.5) / 127.5`, `x[2, 1, 0] - (103.939, ...)`."""
        chosen = "" if self.order == tuple(range(self.channels)) else str(list(self.order))
        mean = [-offset / scale for offset, scale in zip(self.offset, self.scale, strict=True)]
        divisor = [1 / scale for scale in self.scale]
        shifted = f"x{chosen} - {_figures(mean)}" if any(mean) else f"x{chosen}"
        if set(divisor) == {1.0}:
            return shifted
        return f"{f'({shifted})' if any(mean) else shifted} / {_figures(divisor)}"


def _figures(numbers: list[float]) -> str:
    """Numbers to six digits; one where all are alike."""
    shown = [f"{number:.6g}" for number in numbers]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"


@dataclass(frozen=True)
class HeadLayer:
    """A layer behind the global pool.

    Attributes:
        kind: `dense`, `norm` (batch normalisation), `activation`, `unit-norm` (features divided by their Euclidean
            norm), or `dropout`, which computes nothing and keeps its place, so that those behind it keep their numbers.
        width: Outputs of a dense layer, else 0.
        bias: Whether a dense layer has one.
        activation: Of an activation.
        negative_slope: Of `leaky-relu`.
        epsilon: Of a normalisation.
    """

    kind: Literal["dense", "norm", "activation", "unit-norm", "dropout"]
    width: int = 0
    bias: bool = True
    activation: Activation = "none"
    negative_slope: float = 0.01
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if (self.kind == "dense") is not (self.width > 0) or not 0 < self.epsilon < 100:
            raise LayoutError(f"a head has no {self.kind} of width {self.width} and epsilon {self.epsilon}")


@dataclass(frozen=True)
class DenseNetConfig:
    """Everything that a twin needs in order to be built (Huang et al. 2017, section 3 and table 1).

    Attributes:
        growth_rate: k, the channels that each dense layer adds.
        block_config: Number of dense layers in each dense block.
        stem_widths: Output channels of each stem convolution; one for the paper's stem, three for timm's deep stems.
        bottleneck_width: Channels between a layer's 1x1 and 3x3 convolution (4k in DenseNet-B), or None where a layer
            is a single 3x3 convolution.
        transition_widths: Output channels of each transition, one fewer than there are blocks.
        in_channels: Channels of the image.
        num_classes: Outputs of the classifier, or None where there is none; then a twin returns pooled features.
        dimensions: Spatial dimensions, 1 to 3.
        stem_kernel: Side of the first stem convolution's kernel.
        stem_norm: Whether a normalisation and ReLU follow each stem convolution.
        bottleneck_norm: Whether a normalisation and ReLU stand between a layer's 1x1 and 3x3 convolution.
        final_norm: Whether a normalisation follows the last block.
        conv_bias: Whether convolutions have a bias.
        head_shape: The map's spatial shape where the classifier sees it flattened, or () where it is pooled.
        classifier_bias: Whether a classifier that is one dense layer has a bias.
        head_layers: The layers of a head that is more than one dense layer with or without a bias, else (); the last
            dense one has `num_classes` outputs.
        inputs: What the net makes of what it is fed before the stem, or None for nothing.
        traits: What shapes cannot show.
    """

    growth_rate: int = 32
    block_config: tuple[int, ...] = (6, 12, 24, 16)
    stem_widths: tuple[int, ...] = (64,)
    bottleneck_width: int | None = 128
    transition_widths: tuple[int, ...] = (128, 256, 512)
    in_channels: int = 3
    num_classes: int | None = 1000
    dimensions: int = 2
    stem_kernel: int = 7
    stem_norm: bool = True
    bottleneck_norm: bool = True
    final_norm: bool = True
    conv_bias: bool = False
    head_shape: tuple[int, ...] = ()
    classifier_bias: bool = True
    head_layers: tuple[HeadLayer, ...] = ()
    inputs: Inputs | None = None
    traits: Traits = Traits()

    def __post_init__(self) -> None:
        counts = [self.growth_rate, self.in_channels, self.dimensions, self.stem_kernel, *self.block_config]
        counts += [*self.stem_widths, *self.transition_widths, *self.head_shape]
        counts += [count for count in (self.bottleneck_width, self.num_classes) if count is not None]
        if not self.stem_widths or min(counts) < 1 or self.dimensions > 3:
            raise LayoutError("a DenseNet has at least one of each of its layers and channels, and 1 to 3 dimensions")
        stride = self.traits.stem_stride
        if isinstance(stride, tuple) and len(stride) != self.dimensions:
            raise LayoutError(f"trait stem_stride must be one int, or {self.dimensions}, not {quoted(list(stride))}")
        if not self.block_config or len(self.transition_widths) != len(self.block_config) - 1:
            raise LayoutError(
                f"a DenseNet of {len(self.block_config)} blocks has {max(len(self.block_config) - 1, 0)} transitions, "
                f"not {len(self.transition_widths)}"
            )
        if self.inputs is not None and len(self.inputs.order) != self.in_channels:
            raise LayoutError(f"inputs make {len(self.inputs.order)} channels, and the stem takes {self.in_channels}")
        widths = [layer.width for layer in self.head_layers if layer.width]
        if self.head_layers and (not widths or widths[-1] != self.num_classes):
            raise LayoutError(f"the last dense layer of a head has {self.num_classes} outputs, not {widths[-1:]}")

    @classmethod
    def bc(
        cls,
        growth_rate: int = 32,
        block_config: tuple[int, ...] = (6, 12, 24, 16),
        num_init_features: int = 64,
        bn_size: int = 4,
        num_classes: int | None = 1000,
        *,
        in_channels: int = 3,
        compression: float = 0.5,
        **rest: Any,
    ) -> DenseNetConfig:
        """A DenseNet-BC by the parameters of `torchvision.models.DenseNet`; `rest` are fields or traits."""
        width, transition_widths = num_init_features, []
        for layers in block_config[:-1]:
            width = int((width + layers * growth_rate) * compression)
            transition_widths.append(width)
        return cls(
            growth_rate=growth_rate,
            block_config=tuple(block_config),
            stem_widths=(num_init_features,),
            bottleneck_width=bn_size * growth_rate,
            transition_widths=tuple(transition_widths),
            in_channels=in_channels,
            num_classes=num_classes,
        ).replace(**rest)

    @property
    def features(self) -> int:
        """Channels after the last block, which the classifier sees."""
        entered = self.transition_widths[-1] if self.transition_widths else self.stem_widths[-1]
        return entered + self.block_config[-1] * self.growth_rate

    @property
    def image_channels(self) -> int:
        """Channels of what the net is fed."""
        return self.inputs.channels if self.inputs else self.in_channels

    @property
    def stem_strides(self) -> tuple[int, ...]:
        """The stride of the stem's first convolution on each axis."""
        stride = self.traits.stem_stride
        return stride if isinstance(stride, tuple) else (stride,) * self.dimensions

    @property
    def blocks(self) -> int:
        """The number of dense blocks."""
        return len(self.block_config)

    @property
    def stem_numbers(self) -> tuple[str, ...]:
        """What follows `stem.conv` and `stem.norm`: nothing for the paper's stem, 1, 2, 3 for a deep one."""
        count = len(self.stem_widths)
        return ("",) if count == 1 else tuple(map(str, range(1, count + 1)))

    @property
    def bn_size(self) -> int | None:
        """The bottleneck's width in growth rates, or None where it is no whole number of them."""
        if self.bottleneck_width is None or self.bottleneck_width % self.growth_rate:
            return None
        return self.bottleneck_width // self.growth_rate

    @property
    def compression(self) -> float | None:
        """The share that every transition leaves of its input's channels, rounded down; None where there is none.

        Where several shares give the same widths, it is 0.5, else 1.0, else one of few digits.
        """
        entered = [
            width + layers * self.growth_rate
            for width, layers in zip((self.stem_widths[-1], *self.transition_widths), self.block_config, strict=True)
        ]
        pairs = list(zip(entered, self.transition_widths, strict=False))
        least = max((left / width for width, left in pairs), default=0.5)
        most = min(((left + 1) / width for width, left in pairs), default=0.5)
        for share in (0.5, 1.0, *(round((least + most) / 2, digits) for digits in range(1, 18))):
            if all(int(width * share) == left for width, left in pairs):
                return share
        return None

    @property
    def variant(self) -> str:
        """The architecture's name where it has one (`densenet121`), else its parameters in words."""
        for name, known in VARIANTS.items():
            if self == dataclasses.replace(
                known,
                in_channels=self.in_channels,
                num_classes=self.num_classes,
                classifier_bias=self.classifier_bias,
                head_layers=self.head_layers,
                inputs=self.inputs,
                traits=self.traits,
            ):
                return name
        blocks = "-".join(map(str, self.block_config))
        kind = "densenet" if self.bottleneck_width is None else "densenet-b"
        return f"{kind} k={self.growth_rate} blocks={blocks} stem={'-'.join(map(str, self.stem_widths))}"

    def without_head(self) -> DenseNetConfig:
        """The same net without a classifier."""
        return self.replace(num_classes=None, head_shape=(), classifier_bias=True, head_layers=())

    def replace(self, **changes: Any) -> DenseNetConfig:
        """A copy with other values; names of traits are understood as well."""
        traits = {name: changes.pop(name) for name in list(changes) if name in TRAIT_NAMES}
        changes.setdefault("traits", dataclasses.replace(self.traits, **traits))
        return dataclasses.replace(self, **changes)

    @property
    def unshown(self) -> dict[str, Any]:
        """What no name or shape shows of the net, as metadata record it: its traits, inputs, and layers of a head."""
        plain = self.to_dict()
        return {"traits": plain["traits"], "inputs": plain["inputs"] or {}, "head": plain["head_layers"]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, traits nested, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DenseNetConfig:
        """The configuration that `to_dict` gave the values of, by way of JSON or not."""
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in plain.items()}
        values["traits"] = Traits(**plain["traits"])
        values["head_layers"] = tuple(HeadLayer(**layer) for layer in plain["head_layers"])
        if inputs := plain["inputs"]:
            values["inputs"] = Inputs.from_dict(inputs)
        return cls(**values)


TRAIT_NAMES = frozenset(field.name for field in dataclasses.fields(Traits))
HIDDEN_NAMES = frozenset(field.name for field in dataclasses.fields(Hidden))

VARIANTS: Mapping[str, DenseNetConfig] = MappingProxyType(
    {
        "densenet121": DenseNetConfig.bc(32, (6, 12, 24, 16), 64),
        "densenet161": DenseNetConfig.bc(48, (6, 12, 36, 24), 96),
        "densenet169": DenseNetConfig.bc(32, (6, 12, 32, 32), 64),
        "densenet201": DenseNetConfig.bc(32, (6, 12, 48, 32), 64),
        "densenet264": DenseNetConfig.bc(32, (6, 12, 64, 48), 64),
    }
)
