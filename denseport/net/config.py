"""What makes a DenseNet: the architecture that shapes show, and the traits that they cannot show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_type_hints

from denseport.errors import LayoutError, quoted


@cache
def _kinds_of_traits() -> Mapping[str, tuple[Any, tuple[str, ...]]]:
    """Each trait's type, and the values that it may have where it is one of a few."""
    return {trait: (type_, get_args(type_)) for trait, type_ in get_type_hints(Traits).items()}


@dataclass(frozen=True)
class Traits:
    """The facts of an architecture that no name or shape shows.

    Attributes:
        epsilon: Added to the variance in every batch normalisation.
        padding: Of the stem's convolution and pool. `symmetric` pads both sides alike; `same` pads as TensorFlow does,
            which at even sizes is one less at the start than at the end.
        stem_stride: Stride of the stem's first convolution.
        stem_pool: After the stem: `max` (3, stride 2), `max-blur` (max 3 stride 1, then [1, 2, 1] stride 2 over
            reflected borders) or `none`.
        concatenation: Where a dense layer's new features go: `old-first` appends them, `new-first` prepends them.
        final_activation: `relu` before the global pool, or `none`.
        head_activation: What the layout's own model applies to the logits (`none`, `softmax`, `sigmoid`). The twins
            always return logits; this is recorded, not computed.
    """

    epsilon: float = 1e-5
    padding: Literal["symmetric", "same"] = "symmetric"
    stem_stride: int = 2
    stem_pool: Literal["max", "max-blur", "none"] = "max"
    concatenation: Literal["old-first", "new-first"] = "old-first"
    final_activation: Literal["relu", "none"] = "relu"
    head_activation: Literal["none", "softmax", "sigmoid"] = "none"

    def __post_init__(self) -> None:
        for trait, (type_, choices) in _kinds_of_traits().items():
            value = getattr(self, trait)
            if choices and value not in choices:
                raise LayoutError(f"trait {trait} must be one of {', '.join(choices)}, not {quoted(value)}")
            if not choices and (isinstance(value, bool) or not isinstance(value, type_) or not 0 < value < 100):
                raise LayoutError(f"trait {trait} must be a positive {type_.__name__}, not {quoted(value)}")


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
        head_shape: The map's spatial shape where the classifier sees it flattened, or () where it sees the average.
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
    traits: Traits = Traits()

    def __post_init__(self) -> None:
        counts = [self.growth_rate, self.in_channels, self.dimensions, self.stem_kernel, *self.block_config]
        counts += [*self.stem_widths, *self.transition_widths, *self.head_shape]
        counts += [count for count in (self.bottleneck_width, self.num_classes) if count is not None]
        if not self.stem_widths or min(counts) < 1 or self.dimensions > 3:
            raise LayoutError("a DenseNet has at least one of each of its layers and channels, and 1 to 3 dimensions")
        if not self.block_config or len(self.transition_widths) != len(self.block_config) - 1:
            raise LayoutError(
                f"a DenseNet of {len(self.block_config)} blocks has {max(len(self.block_config) - 1, 0)} transitions, "
                f"not {len(self.transition_widths)}"
            )

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
                known, in_channels=self.in_channels, num_classes=self.num_classes, traits=self.traits
            ):
                return name
        blocks = "-".join(map(str, self.block_config))
        kind = "densenet" if self.bottleneck_width is None else "densenet-b"
        return f"{kind} k={self.growth_rate} blocks={blocks} stem={'-'.join(map(str, self.stem_widths))}"

    def without_head(self) -> DenseNetConfig:
        """The same net without a classifier."""
        return self.replace(num_classes=None, head_shape=())

    def replace(self, **changes: Any) -> DenseNetConfig:
        """A copy with other values; names of traits are understood as well."""
        traits = {name: changes.pop(name) for name in list(changes) if name in TRAIT_NAMES}
        changes.setdefault("traits", dataclasses.replace(self.traits, **traits))
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, traits nested, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DenseNetConfig:
        """The configuration that `to_dict` gave the values of, by way of JSON or not."""
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in plain.items()}
        return cls(**{**values, "traits": Traits(**plain["traits"])})


TRAIT_NAMES = frozenset(field.name for field in dataclasses.fields(Traits))

VARIANTS: Mapping[str, DenseNetConfig] = MappingProxyType(
    {
        "densenet121": DenseNetConfig.bc(32, (6, 12, 24, 16), 64),
        "densenet161": DenseNetConfig.bc(48, (6, 12, 36, 24), 96),
        "densenet169": DenseNetConfig.bc(32, (6, 12, 32, 32), 64),
        "densenet201": DenseNetConfig.bc(32, (6, 12, 48, 32), 64),
        "densenet264": DenseNetConfig.bc(32, (6, 12, 64, 48), 64),
    }
)
