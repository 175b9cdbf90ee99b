"""The teaching net of two blocks, whose layers Keras numbers; see keras_checkpoints.py for the command line.

Its convolutions have biases, nothing stands between a layer's two convolutions, and nothing between the second block
and the global average. NAME-later is built when Keras has already numbered the layers of another net.
"""

from __future__ import annotations

from keras_checkpoints import keras, layers, run

NETS = {"small": ((2, 3), 4, 8, 12), "full": ((4, 4), 32, 64, 128)}


def net(name: str, shape: tuple[int, ...]):
    kind, _, form = name.partition("-")
    if form == "later":
        build(shape, *NETS["small"])
    return build(shape, *NETS[kind])


def build(shape: tuple[int, ...], blocks: tuple[int, int], growth: int, width: int, between: int):
    inputs = layers.Input(shape)
    x = norm_relu(layers.Conv2D(width, 7, strides=2, padding="same")(inputs))
    x = dense_block(x, blocks[0], growth)
    x = layers.Conv2D(between, 1)(norm_relu(x))
    x = layers.AveragePooling2D(2, 2)(x)
    x = dense_block(x, blocks[1], growth)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


def dense_block(x, count: int, growth: int):
    for _ in range(count):
        new = layers.Conv2D(growth, 1)(norm_relu(x))
        new = layers.Conv2D(growth, 3, padding="same")(new)
        x = layers.Concatenate()([x, new])
    return x


def norm_relu(x):
    return layers.Activation("relu")(layers.BatchNormalization()(x))


if __name__ == "__main__":
    run(net, numbered=True)
