"""Saves a small DenseNet's weights by Keras in one file and in shards: `keras_shards.py FOLDER`."""

import sys
from pathlib import Path

import keras
import numpy as np

folder = Path(sys.argv[1])
keras.utils.set_random_seed(1)
image = keras.Input((32, 32, 3))
x = keras.layers.Conv2D(8, 7, 2, "same", use_bias=False, name="conv1_conv")(image)
x = keras.layers.BatchNormalization(name="conv1_bn")(x)
for block in (2, 3):
    for layer in (1, 2):
        y = keras.layers.BatchNormalization(name=f"conv{block}_block{layer}_0_bn")(x)
        y = keras.layers.Conv2D(16, 1, use_bias=False, name=f"conv{block}_block{layer}_1_conv")(y)
        y = keras.layers.BatchNormalization(name=f"conv{block}_block{layer}_1_bn")(y)
        y = keras.layers.Conv2D(4, 3, 1, "same", use_bias=False, name=f"conv{block}_block{layer}_2_conv")(y)
        x = keras.layers.Concatenate()([x, y])
    if block == 2:
        x = keras.layers.BatchNormalization(name="pool2_bn")(x)
        x = keras.layers.Conv2D(8, 1, use_bias=False, name="pool2_conv")(x)
x = keras.layers.BatchNormalization(name="bn")(x)
model = keras.Model(image, keras.layers.Dense(5, name="predictions")(keras.layers.GlobalAveragePooling2D()(x)))
draw = np.random.default_rng(1)
model.set_weights([draw.random(weight.shape) for weight in model.get_weights()])
model.save_weights(folder / "one.weights.h5")
(folder / "shards").mkdir()
model.save_weights(folder / "shards" / "net.weights.json", max_shard_size=6000 / 2**30)
