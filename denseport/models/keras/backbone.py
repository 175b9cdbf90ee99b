"""keras_cv's DenseNet backbones, whose layers are called as keras_cv calls them, so that its files load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import keras
from keras import layers

from denseport import formats, layouts, presets
from denseport.errors import UsageError, quoted
from denseport.layouts.frameworks import KERAS
from denseport.layouts.template import Spelling, Template
from denseport.models import architectures
from denseport.models.keras.twin import Style, computing_in, features, fill, last_norm
from denseport.net import graph
from denseport.net.config import VARIANTS, DenseNetConfig

Presets = Mapping[str, Mapping[str, Any]]

# What keras_cv calls the layers that have no weights; those that have are in its layout.
WITHOUT_WEIGHTS = {
    "stem.relu": "conv1_relu",
    "stem.pool": "pool1",
    "block{b}.layer{l}.relu1": "conv{b+1}_block_{l-1}_0_relu",
    "block{b}.layer{l}.relu2": "conv{b+1}_block_{l-1}_1_relu",
    "block{b}.layer{l}": "conv{b+1}_block_{l-1}_concat",
    "transition{t}.relu": "pool{t+1}_relu",
    "transition{t}.pool": "pool{t+1}_pool",
    "head.relu": "relu",
}
DEPTHS = (121, 169, 201)
WEIGHTS = "_imagenet"


def _presets(*suffixes: str, depths: Sequence[int] = DEPTHS) -> Presets:
    """Names and descriptions of the presets of these depths: those with `WEIGHTS` behind the name have weights."""
    told = {suffix: " Trained on ImageNet 2012." if suffix == WEIGHTS else "" for suffix in suffixes}
    names = {f"densenet{depth}{each}": f"DenseNet of {depth} layers.{told[each]}" for each in told for depth in depths}
    return MappingProxyType({name: {"metadata": {"description": text}} for name, text in names.items()})


@keras.saving.register_keras_serializable("denseport")
class DenseNetBackbone(keras.Model):  # type: ignore[misc]
    """A DenseNet-BC without pool and classifier: (N, H, W, C) images to (N, H / 32, W / 32, features) for four blocks.

    Keras opens a whole model in `.keras` by itself, and one in `.h5` where `custom_objects` names this class.

    Args:
        stackwise_num_repeats: Number of dense layers in each dense block.
        include_rescaling: Whether images are divided by 255 first.
        input_shape: Shape of an image, (H, W, C).
        input_tensor: A Keras tensor that takes the images' place.
        compression_ratio: The share of channels that transitions leave.
        growth_rate: Channels that each dense layer adds.
        kwargs: `name` and `trainable`, and `dtype`: the policy of the layers, in place of Keras' global one.

    Attributes:
        presets: What `from_preset` takes, with what each is.
        presets_with_weights, presets_without_weights: The same divided.

    Raises:
        UsageError: `input_tensor` is no Keras tensor.

    Source: keras_cv/src/models/backbones/densenet/densenet_backbone.py, `DenseNetBackbone`.
    """

    presets: ClassVar[Presets] = _presets("", WEIGHTS)
    presets_with_weights: ClassVar[Presets] = _presets(WEIGHTS)
    presets_without_weights: ClassVar[Presets] = _presets("")

    def __init__(
        self,
        *,
        stackwise_num_repeats: Sequence[int],
        include_rescaling: bool,
        input_shape: tuple[int | None, ...] = (None, None, 3),
        input_tensor: Any = None,
        compression_ratio: float = 0.5,
        growth_rate: int = 32,
        **kwargs: Any,
    ) -> None:
        if input_tensor is not None and not keras.utils.is_keras_tensor(input_tensor):
            raise UsageError("input_tensor must be a Keras tensor, such as keras.Input gives")
        policy = keras.dtype_policies.get(kwargs.pop("dtype", None) or keras.config.dtype_policy())
        with computing_in(policy):
            images = keras.Input(input_shape) if input_tensor is None else input_tensor
            config = architectures.keras_cv(stackwise_num_repeats, compression_ratio, growth_rate, images.shape[-1])
            style = Style(spelled=spelling(), normalization=layers.BatchNormalization, momentum=0.99)
            x = layers.Rescaling(1 / 255.0)(images) if include_rescaling else images
            x = last_norm(config, features(config, x, style), "head", style)
            super().__init__(inputs=images, outputs=x, **kwargs)
        self.dtype_policy = policy
        self.stackwise_num_repeats = list(stackwise_num_repeats)
        self.include_rescaling = include_rescaling
        self.compression_ratio = compression_ratio
        self.growth_rate = growth_rate

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool | None = None, **kwargs: Any) -> DenseNetBackbone:
        """A backbone by its preset's name.

        Args:
            preset: One of `presets`.
            load_weights: Whether the published weights are loaded; None where there are some.
            kwargs: Arguments of the constructor, in place of the preset's.

        Raises:
            UsageError: There is no such preset, or it has no weights.
            DenseportError: The weights cannot be had, or do not fit other arguments.
        """
        _require_preset(preset, cls.presets, cls.__name__)
        published = preset in DenseNetBackbone.presets_with_weights
        if load_weights and not published:
            raise UsageError(f"{preset} has no weights; take {preset}{WEIGHTS}, or leave load_weights out")
        repeats = VARIANTS[preset.removesuffix(WEIGHTS)].block_config
        model = DenseNetBackbone(**{"stackwise_num_repeats": repeats, "include_rescaling": True, **kwargs})
        if published and load_weights is not False:
            fill_from_preset(model, model.architecture, f"keras-cv/{preset}")
        return model

    @property
    def architecture(self) -> DenseNetConfig:
        """The configuration, with keras_cv's traits; whether images are rescaled first is no part of it."""
        return architectures.keras_cv(
            self.stackwise_num_repeats, self.compression_ratio, self.growth_rate, self.input_shape[-1]
        )

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """The name of the layer that ends each block, by level: the map of `P3` is 2 ** 3 times smaller than images."""
        spelled = spelling()
        blocks = enumerate(self.stackwise_num_repeats, 1)
        return {f"P{b + 1}": spelled(f"block{b}.layer{count}") for b, count in blocks}

    @property
    def pyramid_outputs(self) -> dict[str, Any]:
        """The Keras tensor that each of these layers gives, by level."""
        return {level: self.get_layer(name).output for level, name in self.pyramid_level_inputs.items()}

    def get_config(self) -> dict[str, Any]:
        """What `from_config` builds the same net from; its weights are not in it, and its input is a new one."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "stackwise_num_repeats": list(self.stackwise_num_repeats),
            "include_rescaling": self.include_rescaling,
            "input_shape": self.input_shape[1:],
            "input_tensor": None,
            "compression_ratio": self.compression_ratio,
            "growth_rate": self.growth_rate,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DenseNetBackbone:  # noqa: ARG003
        """The net that a `get_config` describes, keras_cv's too."""
        return cls(**config)


def spelling() -> Callable[[str], str]:
    """What keras_cv calls a layer, from its canonical name."""
    without_weights = {canonical: (Template(name),) for canonical, name in WITHOUT_WEIGHTS.items()}
    return Spelling("keras-cv", {**layouts.find_layout("keras-cv").names, **without_weights}).layer


class NamedBackbone:
    """What builds a `DenseNetBackbone` of one depth, as keras_cv's classes of these names do.

    Attributes:
        presets, presets_with_weights, presets_without_weights: Those of this depth, as for `DenseNetBackbone`.

    Source: keras_cv/src/models/backbones/densenet/densenet_aliases.py.
    """

    def __init__(self, depth: int) -> None:
        self.__name__ = f"DenseNet{depth}Backbone"
        self.__doc__ = f"`DenseNetBackbone` of {depth} layers."
        self.presets = _presets("", WEIGHTS, depths=(depth,))
        self.presets_with_weights = _presets(WEIGHTS, depths=(depth,))
        self.presets_without_weights = _presets("", depths=(depth,))

    def __call__(
        self,
        include_rescaling: bool = True,
        input_shape: tuple[int | None, ...] = (None, None, 3),
        input_tensor: Any = None,
        **kwargs: Any,
    ) -> DenseNetBackbone:
        """The backbone; arguments as for `DenseNetBackbone`."""
        (untrained,) = self.presets_without_weights
        given = {"include_rescaling": include_rescaling, "input_shape": input_shape, "input_tensor": input_tensor}
        return self.from_preset(untrained, **given, **kwargs)

    def from_preset(self, preset: str, load_weights: bool | None = None, **kwargs: Any) -> DenseNetBackbone:
        """As `DenseNetBackbone.from_preset`, for a preset of this depth."""
        _require_preset(preset, self.presets, self.__name__)
        return DenseNetBackbone.from_preset(preset, load_weights, **kwargs)


DenseNet121Backbone, DenseNet169Backbone, DenseNet201Backbone = (NamedBackbone(depth) for depth in DEPTHS)


def _require_preset(preset: str, known: Presets, owner: str) -> None:
    if preset not in known:
        raise UsageError(f"{quoted(preset)} is no preset of {owner}; there are {', '.join(known)}")


def fill_from_preset(model: keras.Model, config: DenseNetConfig, preset: str) -> None:
    """Gives a net the weights of a preset, which are downloaded where they are not in the cache.

    Args:
        model: A net of the configuration, in any style; layers that stand before it are left alone.
        config: Its architecture.
        preset: The preset's full name, `keras-cv/densenet121_imagenet`.

    Raises:
        DenseportError: The preset cannot be had, or its weights are those of another architecture.
    """
    with formats.read(presets.pull(preset)) as checkpoint:
        weights = layouts.to_canonical(checkpoint, layouts.detect(checkpoint, presets.find(preset).layout))
        tensors = layouts.from_canonical(weights, layouts.find_layout("denseport"), KERAS)
        # In any style the layers stand in graph order, behind those that lead to the net's input.
        names = [layer.name for layer in graph.layers(config)]
        own = [layer for layer in model.layers if layer.weights][-len(names) :]
        fill(dict(zip(names, own, strict=True)), {name: tensor.read() for name, tensor in tensors.items()})
