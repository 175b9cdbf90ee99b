"""What timm says of its DenseNets' weights, and what it and torch count in its nets: one JSON object by name.

Source: timm/models/densenet.py: default_cfgs; torch/utils/flop_counter.py; timm/data/imagenet_info.py.
"""

from __future__ import annotations

import json
import sys

import timm
import torch
from timm.data import ImageNetInfo
from torch.utils.flop_counter import FlopCounterMode


def main(names: list[str]) -> None:
    told = {}
    for name in names:
        configuration = timm.get_pretrained_cfg(name)
        side = (configuration.test_input_size or configuration.input_size)[-1]
        with torch.device("meta"):
            net = timm.create_model(name, pretrained=False).eval()
            with FlopCounterMode(display=False) as counter:
                net(torch.empty(1, 3, side, side))
        told[name] = {
            "hub": configuration.hf_hub_id,
            "side": side,
            "crop_fraction": configuration.test_crop_pct or configuration.crop_pct,
            "interpolation": configuration.interpolation,
            "mean": configuration.mean,
            "std": configuration.std,
            "licence": configuration.license,
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "flops": counter.get_total_flops(),
        }
    info = ImageNetInfo("imagenet-1k")
    synsets = [info.index_to_label_name(index) for index in range(info.num_classes())]
    lemmas = [info.index_to_description(index) for index in range(info.num_classes())]
    with_weights = timm.list_pretrained("densenet*")
    print(json.dumps({"presets": told, "with_weights": with_weights, "synsets": synsets, "lemmas": lemmas}))


if __name__ == "__main__":
    main(sys.argv[1:])
