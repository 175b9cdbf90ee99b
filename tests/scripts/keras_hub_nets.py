"""keras-hub's own DenseNets; see keras_checkpoints.py for the command line.

NAME is a classifier, NAME-backbone the net without its head.
Source: keras_hub/src/models/densenet/densenet_backbone.py: DenseNetBackbone; image_classifier.py: ImageClassifier.
"""

from __future__ import annotations

import keras_hub
from keras_checkpoints import run

NETS = {
    "small": {"stackwise_num_repeats": [2, 1, 1, 2]},
    "free": {"stackwise_num_repeats": [2, 3, 1], "growth_rate": 8, "compression_ratio": 0.4},
    "densenet121": {"stackwise_num_repeats": [6, 12, 24, 16]},
}


def net(name: str, shape: tuple[int, ...]):
    kind, _, part = name.partition("-")
    backbone = keras_hub.models.DenseNetBackbone(image_shape=shape, **NETS[kind])
    if part == "backbone":
        return backbone
    return keras_hub.models.DenseNetImageClassifier(backbone=backbone, num_classes=5, dropout=0.1)


if __name__ == "__main__":
    run(net, {"keras_hub": keras_hub.__version__})
