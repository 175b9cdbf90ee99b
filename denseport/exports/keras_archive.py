"""A `.keras` archive of Keras' own layers alone, which `keras.saving.load_model` opens without denseport.

The graph is written as Keras serialises a functional model, from the configuration; the net gives logits.
Source: keras/src/models/functional.py: Functional.get_config, functional_from_config; keras/src/saving/saving_lib.py:
_save_model_to_fileobj.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denseport import layouts
from denseport.formats.keras import weights as keras3
from denseport.formats.keras.archive import CONFIG, METADATA, WEIGHTS
from denseport.layouts.frameworks import KERAS
from denseport.net.config import DenseNetConfig
from denseport.preprocessing import Preprocessing

KERAS_VERSION = "3.6.0"
IMAGES = "images"


def layout_of(config: DenseNetConfig) -> str:
    """keras.applications' names where it has such nets, else this project's own."""
    layout = layouts.find_layout("keras-applications")
    return layout.name if not layout.cannot_build(config) and not layout.mismatches(config) else "denseport"


def cannot_hold(config: DenseNetConfig) -> str:
    """Why Keras' own layers cannot compute such a net, or "" where they can."""
    if config.traits.stem_pool == "max-blur":
        return "Keras has no layer that reflects borders, which a blur pool needs"
    if config.traits.stem_pool == "max" and config.traits.padding == "symmetric" and not config.stem_norm:
        return "Keras has no layer that pads a maximum of negative values on both sides"
    return ""


def write(
    weights: layouts.Weights,
    layout: layouts.Layout,
    metadata: Mapping[str, str],
    _: Preprocessing | None,
    path: Path,
) -> list[str]:
    """Writes the archive; the config must be one that plain layers can compute.

    Layers are called as in the layout, with `_` for a dot, which Keras on torch does not allow in a name.
    """
    weights = weights.concatenated(layout.traits.get("concatenation", weights.config.traits.concatenation))
    tensors = layouts.from_canonical(weights, layout, KERAS)
    model = {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": Graph(weights.config, layout).config(),
        "registered_name": "Functional",
        "build_config": {"input_shape": None},
    }
    # No date, so that the same weights give the same bytes.
    with (
        tempfile.TemporaryDirectory(dir=path.parent) as folder,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.writestr(zipfile.ZipInfo(METADATA), json.dumps({"keras_version": KERAS_VERSION}))
        archive.writestr(zipfile.ZipInfo(CONFIG), json.dumps(model))
        inner = Path(folder) / WEIGHTS
        keras3.write(tensors, metadata, inner)
        with archive.open(zipfile.ZipInfo(WEIGHTS), "w", force_zip64=True) as entry, inner.open("rb") as file:
            shutil.copyfileobj(file, entry)
    return []


class Graph:
    """The serialised graph of a DenseNet, function by function as `denseport.models.keras` has it.

    A node is the name of a layer whose output it is, and its channels.
    """

    def __init__(self, config: DenseNetConfig, layout: layouts.Layout) -> None:
        self._config = config
        self._spelling = layout.spelling(config)
        self._layers: list[dict[str, Any]] = []
        self._widths: dict[str, int] = {}

    def config(self) -> dict[str, Any]:
        """What Keras builds the model from."""
        config = self._config
        x = self._stem()
        for b, count in enumerate(config.block_config, 1):
            for l in range(1, count + 1):  # noqa: E741 - the paper's letter for a layer
                x = self._dense_layer(x, f"block{b}.layer{l}")
            if b < config.blocks:
                x = self._transition(x, f"transition{b}", config.transition_widths[b - 1])
        x = self._head(x)
        return {
            "name": "densenet",
            "trainable": True,
            "layers": self._layers,
            "input_layers": [IMAGES, 0, 0],
            "output_layers": [x, 0, 0],
        }

    def _stem(self) -> str:
        config = self._config
        shape = [None, *self._spatial_shape(), config.in_channels]
        x = self._add("InputLayer", IMAGES, config.in_channels, {"batch_shape": shape, "dtype": "float32"})
        stride = config.traits.stem_stride
        for n, width in zip(config.stem_numbers, config.stem_widths, strict=True):
            x, padding = self._pad(x, f"stem.pad{n}", config.stem_kernel)
            x = self._conv(x, f"stem.conv{n}", width, config.stem_kernel, stride, padding)
            if config.stem_norm:
                x = self._relu(self._norm(x, f"stem.norm{n}"), f"stem.relu{n}")
            stride = 1
        if config.traits.stem_pool == "max":
            # Behind a ReLU, a zero wins no maximum that it should not.
            x, padding = self._pad(x, "stem.pool.pad", 3)
            x = self._spatial("MaxPooling", x, "stem.pool", {"pool_size": 3, "strides": 2, "padding": padding})
        return x

    def _dense_layer(self, old: str, name: str) -> str:
        config = self._config
        x = self._relu(self._norm(old, f"{name}.norm1"), f"{name}.relu1")
        if config.bottleneck_width is None:
            x = self._conv(x, f"{name}.conv1", config.growth_rate, 3)
        else:
            x = self._conv(x, f"{name}.conv1", config.bottleneck_width, 1)
            if config.bottleneck_norm:
                x = self._relu(self._norm(x, f"{name}.norm2"), f"{name}.relu2")
            x = self._conv(x, f"{name}.conv2", config.growth_rate, 3)
        both = [x, old] if config.traits.concatenation == "new-first" else [old, x]
        width = self._widths[old] + config.growth_rate
        return self._add("Concatenate", name, width, {"axis": -1}, [self._tensor(each) for each in both])

    def _transition(self, x: str, name: str, width: int) -> str:
        x = self._relu(self._norm(x, f"{name}.norm"), f"{name}.relu")
        x = self._conv(x, f"{name}.conv", width, 1)
        return self._spatial("AveragePooling", x, f"{name}.pool", {"pool_size": 2, "strides": 2})

    def _head(self, x: str) -> str:
        config = self._config
        if config.final_norm:
            x = self._norm(x, "head.norm")
        if config.traits.final_activation == "relu":
            x = self._relu(x, "head.relu")
        if config.head_shape:
            width = self._widths[x] * math.prod(config.head_shape)
            x = self._add("Flatten", "head.flatten", width, {"data_format": "channels_last"}, self._tensor(x))
        else:
            x = self._spatial("GlobalAveragePooling", x, "head.pool", {})
        if config.num_classes is not None:
            name = self._spelling.layer("head.classifier")
            x = self._add("Dense", name, config.num_classes, {"units": config.num_classes}, self._tensor(x))
        return x

    def _conv(self, x: str, name: str, width: int, side: int, stride: int = 1, padding: str = "same") -> str:
        arguments = {
            "filters": width,
            "kernel_size": side,
            "strides": [stride] * self._config.dimensions,
            "padding": padding,
            "use_bias": self._config.conv_bias,
        }
        return self._spatial("Conv", x, self._spelling.layer(name), arguments, width)

    def _norm(self, x: str, name: str) -> str:
        arguments = {"axis": -1, "epsilon": self._config.traits.epsilon, "momentum": 0.9}
        return self._add("BatchNormalization", self._spelling.layer(name), self._widths[x], arguments, self._tensor(x))

    def _relu(self, x: str, name: str) -> str:
        return self._add("Activation", name, self._widths[x], {"activation": "relu"}, self._tensor(x))

    def _pad(self, x: str, name: str, side: int) -> tuple[str, str]:
        if self._config.traits.padding == "same":
            return x, "same"
        return self._spatial("ZeroPadding", x, name, {"padding": side // 2}), "valid"

    def _spatial(self, kind: str, x: str, name: str, arguments: dict[str, Any], width: int | None = None) -> str:
        """Adds a layer that comes in one to three dimensions."""
        arguments = {**arguments, "data_format": "channels_last"}
        return self._add(
            f"{kind}{self._config.dimensions}D", name, width or self._widths[x], arguments, self._tensor(x)
        )

    def _add(self, kind: str, name: str, width: int, arguments: dict[str, Any], inputs: Any = None) -> str:
        """Adds a layer, and gives the name by which the graph knows it."""
        own = name.replace(".", "_")
        self._widths[own] = width
        self._layers.append(
            {
                "module": "keras.layers",
                "class_name": kind,
                "config": {"name": own, **arguments},
                "registered_name": None,
                "name": own,
                "inbound_nodes": [] if inputs is None else [{"args": [inputs], "kwargs": {}}],
            }
        )
        return own

    def _tensor(self, node: str) -> dict[str, Any]:
        shape = [None] * (self._config.dimensions + 1) + [self._widths[node]]
        return {
            "class_name": "__keras_tensor__",
            "config": {"shape": shape, "dtype": "float32", "keras_history": [node, 0, 0]},
        }

    def _spatial_shape(self) -> list[int | None]:
        """Free, but where the classifier sees a flattened map, which an image of one size alone gives."""
        config = self._config
        if not config.head_shape:
            return [None] * config.dimensions
        reduction = config.traits.stem_stride * (1 if config.traits.stem_pool == "none" else 2)
        reduction *= 2 ** (config.blocks - 1)
        return [side * reduction for side in config.head_shape]
