"""Keras and the archives that it opens where there is no denseport: `REQUESTS.json`.

A request has `model`, a file; `images` (N, *spatial, C), a npy file; and `output`, the npy file for the model's answer.
Printed for each: the layers' classes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np

sys.modules["denseport"] = None  # as if it were not installed: importing it is an error


def opened(request: dict[str, str]) -> list[str]:
    model = keras.saving.load_model(request["model"])
    np.save(request["output"], keras.ops.convert_to_numpy(model(np.load(request["images"]), training=False)))
    return sorted({f"{type(layer).__module__.partition('.')[0]}.{type(layer).__name__}" for layer in model.layers})


if __name__ == "__main__":
    print(json.dumps([opened(request) for request in json.loads(Path(sys.argv[1]).read_text())]))
