"""Presets of denseport.models.keras' constructors, out of a cache that is filled with random nets first.

Needs DENSEPORT_CACHE to name an empty folder, and DENSEPORT_OFFLINE. Random weights have no published hash, so the
presets stand in a file of their own, without one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import keras
import numpy as np
from keras_checkpoints import randomise

from denseport.models import keras as nets
from denseport.presets import find
from denseport.presets.download import cached_file

own = Path(os.environ["DENSEPORT_CACHE"]).with_suffix(".toml")
own.write_text("""[presets."titu1994/densenet121-no-top"]
variant = "densenet121"
top = false
layout = "titu1994"
preprocessing = "densenet-caffe"
crop = 224
url = "https://example.org/DenseNet-BC-121-32-no-top.h5"
hash = "none"
licence = "none"
source = "this test"
""")
os.environ["DENSEPORT_PRESETS"] = str(own)


def published(preset: str, model: keras.Model) -> list[np.ndarray]:
    """Puts a net's random weights where a preset's would be."""
    randomise(model)
    file = cached_file(find(preset))
    file.parent.mkdir(parents=True)
    model.save_weights(file) if file.name.endswith(".weights.h5") else model.save(file)
    return model.get_weights()


def same(model: keras.Model, weights: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights, strict=True))


backbone = published("keras-cv/densenet121_imagenet", nets.DenseNet121Backbone())
numbered = published("titu1994/densenet121-no-top", nets.DenseNetImageNet121(weights=None, include_top=False))
loaded = nets.DenseNetBackbone.from_preset("densenet121_imagenet", input_shape=(32, 32, 3))
before = keras.layers.Conv2D(3, 1, name="before")(keras.Input((32, 32, 1)))
behind = nets.DenseNetImageNet121(include_top=False, input_tensor=before)
print(
    json.dumps(
        {
            "loaded": same(loaded, backbone),
            "rescales": isinstance(loaded.layers[1], keras.layers.Rescaling),
            "input_shape": loaded.input_shape,
            "of its class": same(nets.DenseNet121Backbone.from_preset("densenet121_imagenet", True), backbone),
            "not loaded": same(nets.DenseNetBackbone.from_preset("densenet121_imagenet", False), backbone),
            "titu1994": same(nets.DenseNetImageNet121((3, 32, 32), include_top=False), numbered),
            "titu1994 behind a layer": all(
                np.array_equal(a, b) for a, b in zip(behind.get_weights()[2:], numbered, strict=True)
            ),
            "first layer": behind.layers[1].name,
        }
    )
)
