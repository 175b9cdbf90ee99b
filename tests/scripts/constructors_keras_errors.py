"""What denseport.models.keras' constructors say to arguments that make no sense: a JSON list of messages."""

from __future__ import annotations

import json

import numpy as np

from denseport.errors import DenseportError
from denseport.models import keras as nets

CALLS = [
    lambda: nets.DenseNetBackbone.from_preset("densenet264"),
    lambda: nets.DenseNet169Backbone.from_preset("densenet121"),
    lambda: nets.DenseNetBackbone.from_preset("densenet121", load_weights=True),
    lambda: nets.DenseNetBackbone(
        stackwise_num_repeats=[1, 1], include_rescaling=True, input_tensor=np.zeros((1, 32, 32, 3))
    ),
    lambda: nets.DenseNet(depth=41),
    lambda: nets.DenseNet(nb_layers_per_block=[1, 2]),
    lambda: nets.DenseNet(reduction=1.0),
    lambda: nets.DenseNet(activation="relu"),
    lambda: nets.DenseNet(activation="sigmoid"),
    lambda: nets.DenseNet(input_tensor=np.zeros((1, 32, 32, 3))),
    lambda: nets.DenseNet((32, 32)),
    lambda: nets.DenseNet((3, 7, 32)),
    lambda: nets.DenseNet(weights="cifar10"),
    lambda: nets.DenseNet(weights="imagenet"),
    lambda: nets.DenseNetImageNet121(classes=10),
]


def message(call) -> str:
    try:
        call()
    except DenseportError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print(json.dumps([message(call) for call in CALLS]))
