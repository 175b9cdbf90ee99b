"""The architectures that Keras code bases build, from the arguments that their constructors take."""

from __future__ import annotations

from collections.abc import Sequence

from denseport.errors import UsageError
from denseport.layouts import find_layout
from denseport.net.config import DenseNetConfig


def keras_cv(
    stackwise_num_repeats: Sequence[int], compression_ratio: float = 0.5, growth_rate: int = 32, in_channels: int = 3
) -> DenseNetConfig:
    """What keras_cv's `DenseNetBackbone` builds: a DenseNet-BC without classifier, with a stem of 64 channels.

    Source: keras_cv/src/models/backbones/densenet/densenet_backbone.py, `DenseNetBackbone`.
    """
    config = DenseNetConfig.bc(
        growth_rate,
        tuple(stackwise_num_repeats),
        num_classes=None,
        in_channels=in_channels,
        compression=compression_ratio,
    )
    return _with_traits_of("keras-cv", config)


def titu1994(
    depth: int = 40,
    nb_dense_block: int = 3,
    growth_rate: int = 12,
    nb_filter: int = -1,
    nb_layers_per_block: int | Sequence[int] = -1,
    bottleneck: bool = False,
    reduction: float = 0.0,
    subsample_initial_block: bool = False,
    classes: int | None = 10,
    in_channels: int = 3,
) -> DenseNetConfig:
    """What titu1994's `DenseNet` builds.

    Args:
        depth: The paper's L. It counts where `nb_layers_per_block` is -1, and there means three blocks, however many
            there are: each gets (L - 4) / 3 dense layers, half as many with a bottleneck.
        nb_dense_block: Number of dense blocks.
        growth_rate: The paper's k.
        nb_filter: Channels of the stem; -1 for 2k.
        nb_layers_per_block: Dense layers of every block, or of each.
        bottleneck: Whether each dense layer has a 1x1 convolution to 4k channels.
        reduction: The share of channels that transitions take away.
        subsample_initial_block: Whether the stem is the one for large images.
        classes: Outputs of the classifier, or None where there is none.
        in_channels: Channels of the image.

    Raises:
        UsageError: The depth, the blocks or the reduction are none that make a net.

    Source: titu1994/DenseNet densenet.py at 60b1858, `__create_dense_net`.
    """
    if not isinstance(nb_layers_per_block, int):
        blocks = tuple(nb_layers_per_block)
        if len(blocks) != nb_dense_block:
            raise UsageError(
                f"nb_layers_per_block has {len(blocks)} numbers for {nb_dense_block} blocks; give one for each"
            )
    elif nb_layers_per_block == -1:
        if depth < 7 or (depth - 4) % 3:
            raise UsageError(f"depth must be 3 n + 4 where nb_layers_per_block is -1, not {depth}; give either")
        blocks = ((depth - 4) // 3 // (2 if bottleneck else 1),) * nb_dense_block
    else:
        blocks = (nb_layers_per_block,) * nb_dense_block
    if not 0 <= reduction < 1:
        raise UsageError(f"reduction must be at least 0 and less than 1, not {reduction}")
    config = DenseNetConfig.bc(
        growth_rate,
        blocks,
        nb_filter if nb_filter > 0 else 2 * growth_rate,
        num_classes=classes,
        in_channels=in_channels,
        compression=1.0 - reduction,
        stem_kernel=7 if subsample_initial_block else 3,
        stem_norm=subsample_initial_block,
    )
    return _with_traits_of("titu1994", config if bottleneck else config.replace(bottleneck_width=None))


def tutorial(num_classes: int | None = 10, in_channels: int = 3) -> DenseNetConfig:
    """The teaching net of two blocks of four layers, k = 32; 1x1 convolutions are as narrow as the 3x3 ones.

    Source: layout `tutorial`; Martins 2023, "DenseNet Architecture Explained with Code Examples", for its dense layers.
    """
    config = DenseNetConfig(
        growth_rate=32,
        block_config=(4, 4),
        bottleneck_width=32,
        transition_widths=(128,),
        in_channels=in_channels,
        num_classes=num_classes,
        bottleneck_norm=False,
        final_norm=False,
        conv_bias=True,
    )
    return _with_traits_of("tutorial", config)


def _with_traits_of(layout: str, config: DenseNetConfig) -> DenseNetConfig:
    return config.replace(**find_layout(layout).traits_of(config))
