"""keras-cv's own DenseNets (keras-cv 0.9, TensorFlow 2.15); see keras_checkpoints.py for the command line.

NAME is a classifier, NAME-backbone the net without its head.
Source: keras_cv/src/models/backbones/densenet/densenet_backbone.py: DenseNetBackbone;
keras_cv/src/models/classification/image_classifier.py: ImageClassifier.
"""

from __future__ import annotations

import keras_cv
from keras_checkpoints import run

NETS = {
    "small": {"stackwise_num_repeats": [2, 1, 1, 2]},
    "free": {"stackwise_num_repeats": [2, 3, 1], "growth_rate": 8, "compression_ratio": 0.4},
    "densenet121": {"stackwise_num_repeats": [6, 12, 24, 16]},
}


def net(name: str, shape: tuple[int, ...]):
    kind, _, part = name.partition("-")
    backbone = keras_cv.models.DenseNetBackbone(include_rescaling=False, input_shape=shape, **NETS[kind])
    return backbone if part == "backbone" else keras_cv.models.ImageClassifier(backbone=backbone, num_classes=5)


if __name__ == "__main__":
    run(net, {"keras_cv": keras_cv.__version__})
