"""What timm, torchvision and torchxrayvision make of images: FOLDER RESULTS.npz, one array for each image and library.

Source: timm/data/transforms_factory.py: create_transform; torchvision/models/densenet.py: DenseNet121_Weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import timm
import torchxrayvision
from PIL import Image
from torchvision.models import DenseNet121_Weights


def by_timm(name: str, **options: bool):
    configuration = timm.get_pretrained_cfg(name).to_dict()
    return timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=configuration, **options))


TRANSFORMS = {
    "torchvision": DenseNet121_Weights.IMAGENET1K_V1.transforms(),
    "timm": by_timm("densenet121.tv_in1k"),
    "timm-288": by_timm("densenet121.ra_in1k", use_test_size=True),
}


def main(folder: Path, results: Path) -> None:
    arrays = {}
    for file in sorted(folder.iterdir()):
        image = Image.open(file).convert("RGB")
        for name, transform in TRANSFORMS.items():
            arrays[f"{name}/{file.name}"] = transform(image).numpy().transpose(1, 2, 0)
        grey = np.asarray(image.convert("L"))
        arrays[f"torchxrayvision/{file.name}"] = torchxrayvision.utils.normalize(grey, 255)[..., None]
    np.savez(results, **arrays)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
