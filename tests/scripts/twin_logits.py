"""denseport's own twins: `torch FOLDER FILE...` or `keras FOLDER FILE...` writes FILE.twin.npy, the outputs for images.

The images are FOLDER/images.npy (N, H, W, C), or images1.npy and images3.npy where the file's name ends in -1d or -3d;
where it ends in -pixels, they are 255 times as large.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

IMAGES = {"1d": "images1.npy", "3d": "images3.npy"}


def outputs(framework: str, file: Path, images: np.ndarray) -> np.ndarray:
    if framework == "keras":
        from denseport import load_keras

        return np.asarray(load_keras(file)(images, training=False))
    import torch

    from denseport import load_torch

    with torch.inference_mode():
        return load_torch(file)(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).numpy()


if __name__ == "__main__":
    framework, folder = sys.argv[1], Path(sys.argv[2])
    for file in map(Path, sys.argv[3:]):
        kind = file.name.partition(".")[0].rpartition("-")[2]
        images = np.load(folder / IMAGES.get(kind, "images.npy"))
        np.save(f"{file}.twin.npy", outputs(framework, file, images * 255 if kind == "pixels" else images))
