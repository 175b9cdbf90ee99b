"""What Keras makes of images: IMAGES.npz RESULTS.npz, where `images` are (N, H, W, C) uint8; one array for each mode.

Source: keras/src/applications/imagenet_utils.py: preprocess_input; keras_cv densenet_backbone.py: include_rescaling.
"""

from __future__ import annotations

import sys

import keras
import numpy as np


def main(images_file: str, results: str) -> None:
    images = np.load(images_file)["images"]
    arrays = {
        mode: keras.applications.imagenet_utils.preprocess_input(images.astype(np.float32), mode=mode)
        for mode in ("torch", "caffe", "tf")
    }
    arrays["densenet"] = keras.applications.densenet.preprocess_input(images.astype(np.float32))
    arrays["rescaling"] = np.asarray(keras.layers.Rescaling(1 / 255)(images))
    np.savez(results, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
