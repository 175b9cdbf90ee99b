"""What keras.applications and keras_hub say of their DenseNets' weights and count in their nets: one JSON object.

Source: keras/src/applications/densenet.py: DenseNet; keras_hub/src/models/densenet/densenet_presets.py.
"""

from __future__ import annotations

import json

import keras
import keras_hub
from keras.src.applications import densenet


def applications() -> dict[str, dict]:
    asked: list[tuple[str, str]] = []
    densenet.file_utils.get_file = lambda _name, url, **options: asked.append((url, options["file_hash"]))
    keras.Model.load_weights = lambda _net, _file: None
    told = {}
    for name in ("DenseNet121", "DenseNet169", "DenseNet201"):
        for top in (True, False):
            net = getattr(keras.applications, name)(weights="imagenet", include_top=top)
            url, md5 = asked.pop()
            told[name.lower() + ("" if top else "-no-top")] = {"url": url, "md5": md5, "parameters": net.count_params()}
    return told


def hub() -> dict[str, dict]:
    told = {}
    for name, preset in keras_hub.models.DenseNetBackbone.presets.items():
        repeats = {"121": [6, 12, 24, 16], "169": [6, 12, 32, 32], "201": [6, 12, 48, 32]}[name.split("_")[1]]
        net = keras_hub.models.DenseNetBackbone(stackwise_num_repeats=repeats)
        told[name] = {"published": preset["metadata"]["params"], "parameters": net.count_params()}
    return told


if __name__ == "__main__":
    print(json.dumps({"applications": applications(), "hub": hub()}))
