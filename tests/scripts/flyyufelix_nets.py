"""flyyufelix' nets, where a layer of scales follows each normalisation; see keras_checkpoints.py for the command line.

Source: flyyufelix/DenseNet-Keras densenet121.py: DenseNet, conv_block, transition_block; custom_layers.py: Scale.
"""

from __future__ import annotations

from keras_checkpoints import keras, layers, run

EPSILON = 1.1e-5
NETS = {"small": ((2, 1, 1, 2), 8), "densenet121": ((6, 12, 24, 16), 32)}


@keras.saving.register_keras_serializable("flyyufelix")
class Scale(layers.Layer):
    """Multiplies each channel and adds to it; its variables repeat the layer's name."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones", name=f"{self.name}_gamma")
        self.beta = self.add_weight(shape=(shape[-1],), initializer="zeros", name=f"{self.name}_beta")
        super().build(shape)

    def call(self, x):
        return self.gamma * x + self.beta


def net(name: str, shape: tuple[int, ...]):
    blocks, growth = NETS[name]
    inputs = layers.Input(shape, name="data")
    x = layers.ZeroPadding2D(3, name="conv1_zeropadding")(inputs)
    x = layers.Conv2D(64, 7, strides=2, use_bias=False, name="conv1")(x)
    x = norm_relu(x, "conv1", "relu1")
    x = layers.ZeroPadding2D(1, name="pool1_zeropadding")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    for stage, count in enumerate(blocks, 2):
        for branch in range(1, count + 1):
            new = conv_block(x, f"{stage}_{branch}", growth)
            x = layers.Concatenate(name=f"concat_{stage}_{branch}")([x, new])
        x = norm_relu(x, f"conv{stage}_blk", f"relu{stage}_blk")
        if stage <= len(blocks):
            x = layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False, name=f"conv{stage}_blk")(x)
            x = layers.AveragePooling2D(2, 2, name=f"pool{stage}")(x)
    x = layers.GlobalAveragePooling2D(name=f"pool{stage}")(x)
    x = layers.Dense(5, name="fc6")(x)
    return keras.Model(inputs, layers.Activation("softmax", name="prob")(x), name="densenet")


def norm_relu(x, name: str, relu: str):
    x = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=relu)(Scale(name=f"{name}_scale")(x))


def conv_block(x, branch: str, growth: int):
    x = norm_relu(x, f"conv{branch}_x1", f"relu{branch}_x1")
    x = layers.Conv2D(4 * growth, 1, use_bias=False, name=f"conv{branch}_x1")(x)
    x = norm_relu(x, f"conv{branch}_x2", f"relu{branch}_x2")
    x = layers.ZeroPadding2D(1, name=f"conv{branch}_x2_zeropadding")(x)
    return layers.Conv2D(growth, 3, use_bias=False, name=f"conv{branch}_x2")(x)


if __name__ == "__main__":
    run(net)
