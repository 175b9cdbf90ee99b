"""What keras_cv says of its DenseNets' weights and counts in its nets: one JSON object by name.

Source: keras_cv/src/models/backbones/densenet/densenet_backbone_presets.py.
"""

from __future__ import annotations

import json

import keras_cv


def main() -> None:
    repeats = {"121": [6, 12, 24, 16], "169": [6, 12, 32, 32], "201": [6, 12, 48, 32]}
    told = {}
    for name, preset in keras_cv.models.DenseNetBackbone.presets_with_weights.items():
        depth = name.removeprefix("densenet").removesuffix("_imagenet")
        net = keras_cv.models.DenseNetBackbone(stackwise_num_repeats=repeats[depth], include_rescaling=True)
        told[name] = {"handle": preset["kaggle_handle"], "parameters": net.count_params()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
