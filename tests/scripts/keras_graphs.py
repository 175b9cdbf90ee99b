"""`FOLDER`: saves whole models as people build them in Keras 2 or 3, with `NAME.npz` of images `x` and outputs `y`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

keras = tf.keras
layers = keras.layers
FOLDER = Path(sys.argv[1])
KERAS_3 = hasattr(keras, "ops")
SUFFIXES = (".keras", ".h5") if KERAS_3 else (".h5",)
SIDE = 32
random = np.random.default_rng(0)
PIXELS = random.uniform(0, 255, (2, SIDE, SIDE, 3)).astype("float32")
GREY = PIXELS[..., :1]
NORMAL = random.normal(0, 1, (2, SIDE, SIDE, 3)).astype("float32")


def activated(x, activation):
    x = layers.BatchNormalization(epsilon=1e-4)(x)
    return layers.Activation(activation)(x) if isinstance(activation, str) else activation()(x)


def body(x, activation="relu", *, small=False, new_first=False, transition_activation=True, pool=True):
    if small:
        x = layers.Conv2D(12, 3, padding="same", use_bias=False)(x)
    else:
        x = layers.Conv2D(12, 5, strides=2, padding="same", use_bias=False)(x)
        x = activated(x, activation)
        x = layers.MaxPooling2D(3, 2, padding="same")(x) if pool else layers.MaxPooling2D(2)(x)
    for block in range(2):
        for _ in range(2):
            new = layers.Conv2D(16, 1, use_bias=False)(activated(x, activation))
            new = layers.Conv2D(4, 3, padding="same", use_bias=False)(activated(new, activation))
            x = layers.Concatenate()([new, x] if new_first else [x, new])
        if block == 0:
            x = activated(x, activation) if transition_activation else layers.BatchNormalization(epsilon=1e-4)(x)
            x = layers.AveragePooling2D(2)(layers.Conv2D(10, 1, use_bias=False)(x))
    return activated(x, activation)


def joining_lists(x):
    """A body that keeps a list of its features, and joins all of them for each layer."""
    features = [layers.Conv2D(12, 3, padding="same", use_bias=False)(x)]
    for _ in range(3):
        joined = layers.Concatenate()(features) if len(features) > 1 else features[0]
        features.append(layers.Conv2D(4, 3, padding="same", use_bias=False)(activated(joined, "relu")))
    return activated(layers.Concatenate()(features), "relu")


def pooled(x):
    return layers.GlobalAveragePooling2D()(x)


def classified(x):
    return layers.Dense(5)(pooled(x))


def both(x):
    return [layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)]


def model(before=lambda x: x, head=classified, channels=3, maps=body, **arguments):
    images = keras.Input((SIDE, SIDE, channels))
    return keras.Model(images, head(maps(before(images), **arguments)))


def nested(before=lambda x: x, head=classified, training=False):
    inner, images = keras.Input((SIDE, SIDE, 3)), keras.Input((SIDE, SIDE, 3))
    base = keras.Model(inner, body(inner), name="base")
    return keras.Model(images, head(base(before(images), training=training)))


def sequential():
    inner = keras.Input((SIDE, SIDE, 3))
    augmentation = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            augmentation,
            keras.Sequential([layers.Rescaling(1 / 255)]),
            keras.Model(inner, body(inner)),
            keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(4, "softmax")]),
        ]
    )


def adapted(x):
    layer = layers.Normalization()
    layer.adapt(PIXELS)
    return layer(x)


def cast(x):
    return (keras.ops if KERAS_3 else tf).cast(x, "float32")


def excited(x):
    weights = layers.Dense(x.shape[-1], activation="sigmoid")(pooled(x))
    return classified(layers.Multiply()([x, layers.Reshape((1, 1, x.shape[-1]))(weights)]))


def several_outputs(x):
    return [layers.Dense(5)(pooled(x)), layers.Dense(2)(pooled(x))]


def save(name, built, images=NORMAL):
    for layer in built.submodules if not KERAS_3 else built._flatten_layers():
        if isinstance(layer, layers.BatchNormalization) and len(layer.weights) == 4:
            count = layer.moving_mean.shape[0]
            values = [random.uniform(0.5, 1.5, count) for _ in range(4)]
            layer.set_weights([values[0], values[1] - 1, values[2] - 1, values[3]])
    outputs = built(images, training=False)
    if not isinstance(outputs, list):
        np.savez(FOLDER / f"{name}.npz", x=images, y=np.asarray(outputs))
    for suffix in SUFFIXES:
        built.save(FOLDER / f"{name}{suffix}")
    keras.backend.clear_session()


def rows():
    applications = keras.applications
    yield "plain", model(), NORMAL
    yield "small", model(small=True), NORMAL
    yield "new-first", model(new_first=True), NORMAL
    yield "pool-of-2", model(pool=False), NORMAL
    yield "bare-transitions", model(transition_activation=False), NORMAL
    yield "lists", model(maps=joining_lists), NORMAL
    yield "leaky", model(activation=layers.LeakyReLU), NORMAL
    for name in ("elu", "gelu", "swish"):
        yield name, model(activation=name), NORMAL
    yield "rescaling", model(layers.Rescaling(1 / 127.5, offset=-1)), PIXELS
    yield "normalization", nested(lambda x: layers.Normalization(mean=[9, 99, 60], variance=[400, 500, 600])(x)), PIXELS
    yield "adapted", model(adapted), PIXELS
    yield "adapted-nested", nested(adapted), PIXELS
    yield "torch-mode", model(applications.densenet.preprocess_input), PIXELS
    yield "caffe-mode", nested(applications.resnet.preprocess_input), PIXELS
    yield "tf-mode", model(applications.mobilenet_v2.preprocess_input), PIXELS
    yield "arithmetic", model(lambda x: 1 - cast(x)[..., ::-1] / np.array([255, 200, 250], "float32")), PIXELS
    yield "image-norm", model(lambda x: layers.BatchNormalization()(x)), NORMAL
    yield "grey", model(lambda x: layers.Rescaling(1 / 255)(layers.Concatenate()([x, x, x])), channels=1), GREY
    yield "sequential", sequential(), PIXELS
    yield "max-pool", model(head=lambda x: layers.Dense(5)(layers.GlobalMaxPooling2D()(x))), NORMAL
    yield "both-pools", model(head=lambda x: layers.Dense(5)(layers.Concatenate()(both(x)[::-1]))), NORMAL
    yield "mean-of-pools", model(head=lambda x: layers.Dense(5)(layers.Average()(both(x)))), NORMAL
    yield "flat", model(head=lambda x: layers.Dense(5)(layers.Flatten()(x))), NORMAL
    yield "flat-two", model(head=lambda x: layers.Dense(5)(layers.Dense(6, "relu")(layers.Flatten()(x)))), NORMAL
    yield (
        "two",
        nested(head=lambda x: layers.Dense(5, "softmax")(layers.Dropout(0.5)(layers.Dense(8, "tanh")(pooled(x))))),
        NORMAL,
    )
    yield "normalised", model(head=lambda x: layers.Dense(5, "sigmoid")(layers.BatchNormalization()(pooled(x)))), NORMAL
    yield "no-bias", model(head=lambda x: layers.Dense(5, use_bias=False)(pooled(x))), NORMAL
    yield "relu-at-the-end", model(head=lambda x: layers.Dense(5, "relu")(pooled(x))), NORMAL
    yield "no-lambda", model(lambda x: layers.Lambda(lambda y: y / 255)(x)), PIXELS
    yield "no-convolution-before", model(lambda x: layers.Conv2D(3, 1, name="mixing")(x)), NORMAL
    yield "no-excitation", model(head=excited), NORMAL
    yield "no-batch-statistics", nested(training=True), NORMAL
    yield "no-power", model(lambda x: x**2), NORMAL
    yield (
        "no-softmax-within",
        model(head=lambda x: layers.Dense(5)(layers.Dense(6, "softmax", name="gate")(pooled(x)))),
        NORMAL,
    )
    yield "no-two-outputs", model(head=several_outputs), NORMAL
    yield (
        "no-offset-on-zeros",
        model(lambda x: layers.Rescaling(1, offset=1, name="late")(layers.ZeroPadding2D()(x))),
        NORMAL,
    )


for name, built, images in rows():
    save(name, built, images)
print("{}")
