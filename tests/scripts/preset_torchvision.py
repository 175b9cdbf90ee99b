"""What torchvision says of its DenseNets' weights, and what torch counts in its nets: one JSON object by name.

Source: torchvision/models/densenet.py: DenseNet121_Weights and the like; torch/utils/flop_counter.py.
"""

from __future__ import annotations

import json

import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode


def counted(name: str, size: tuple[int, int]) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        torchvision.models.get_model(name, weights=None).eval()(torch.empty(1, 3, *size))
    return counter.get_total_flops()


def main() -> None:
    told = {}
    for name in torchvision.models.list_models(torchvision.models, include="densenet*"):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        transforms = weights.transforms()
        told[name] = {
            "url": weights.url,
            "parameters": weights.meta["num_params"],
            "accuracy": weights.meta["_metrics"]["ImageNet-1K"],
            "giga_operations": weights.meta["_ops"],
            "crop": transforms.crop_size[0],
            "resize": transforms.resize_size[0],
            "interpolation": transforms.interpolation.value,
            "mean": transforms.mean,
            "std": transforms.std,
            "flops": counted(name, (224, 224)),
            "odd_flops": counted(name, (225, 289)) if name == "densenet121" else None,
            "categories": weights.meta["categories"],
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
