"""keras_cv's own backbone beside denseport's (keras-cv 0.9, TensorFlow 2.15): loads FOLDER/backbone.h5 by name.

Writes its pooled features for FOLDER/images.npy to FOLDER/backbone.cv.npy, and other weights of its own and their
features to FOLDER/cv.h5 and cv.npy; prints its layers, levels, configuration and presets.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras_cv
import numpy as np
from keras_checkpoints import logits, randomise

folder = Path(sys.argv[1])
images = np.load(folder / "images.npy")
model = keras_cv.models.DenseNetBackbone(
    stackwise_num_repeats=[2, 3, 1], include_rescaling=False, compression_ratio=0.4, growth_rate=8
)
model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
model.load_weights(folder / "backbone.h5", by_name=True)
np.save(folder / "backbone.cv.npy", logits(model, images))
randomise(model)
model.set_weights([weight * 0.9 for weight in model.get_weights()])
model.save_weights(folder / "cv.h5")
np.save(folder / "cv.npy", logits(model, images))
print(
    json.dumps(
        {
            "layers": [layer.name for layer in model.layers[1:]],
            "pyramid": dict(model.pyramid_level_inputs),
            "config": model.get_config(),
            "presets": sorted(keras_cv.models.DenseNetBackbone.presets),
            "momentum": model.get_layer("bn").momentum,
            "epsilon": model.get_layer("bn").epsilon,
        }
    )
)
