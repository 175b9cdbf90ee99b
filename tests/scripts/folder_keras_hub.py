"""keras_hub and the preset folders that it opens: `open REQUESTS.json` or `save FOLDER`.

A request has `model`, a folder; `images` (N, H, W, C), a npy file; and `output`, the npy file for the logits, or for
the averaged features of a backbone. Printed for each: the class, and pixels 0, 100, 255 as the preset prepares them.
`save` has keras_hub write one folder of its own, and its logits for FOLDER/images.npy to FOLDER/keras_hub.npy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras_hub
import numpy as np
from keras_checkpoints import randomise


def opened(request: dict[str, str]) -> dict[str, object]:
    images = np.load(request["images"])
    if (Path(request["model"]) / "task.json").exists():
        model = keras_hub.models.ImageClassifier.from_preset(request["model"])
        outputs, prepared = np.asarray(model(images, training=False)), None
        if model.preprocessor is not None:
            flat = np.stack([np.full((300, 300, images.shape[-1]), value, np.float32) for value in (0, 100, 255)])
            prepared = np.asarray(model.preprocessor(flat))
            assert np.ptp(prepared, axis=(1, 2)).max() < 1e-4
            prepared = [list(prepared.shape), prepared[:, 0, 0].tolist()]
    else:
        model, prepared = keras_hub.models.DenseNetBackbone.from_preset(request["model"]), None
        outputs = np.asarray(model(images, training=False)).mean((1, 2))
    np.save(request["output"], outputs)
    return {"class": type(model).__name__, "prepared": prepared}


def save(folder: Path) -> None:
    backbone = keras_hub.models.DenseNetBackbone(stackwise_num_repeats=[1, 2, 1], growth_rate=8)
    scale = [1 / 50, 1 / 60, 1 / 70]
    converter = keras_hub.layers.DenseNetImageConverter(image_size=(96, 96), scale=scale, offset=-2.0)
    preprocessor = keras_hub.models.DenseNetImageClassifierPreprocessor(converter)
    model = keras_hub.models.DenseNetImageClassifier(backbone=backbone, num_classes=4, preprocessor=preprocessor)
    randomise(model)
    model.save_to_preset(folder / "keras_hub")
    np.save(folder / "keras_hub.npy", np.asarray(model(np.load(folder / "images.npy"), training=False)))


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save(Path(sys.argv[2]))
    else:
        print(json.dumps([opened(request) for request in json.loads(Path(sys.argv[2]).read_text())]))
