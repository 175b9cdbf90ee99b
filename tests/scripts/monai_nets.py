"""MONAI's own DenseNets in one, two and three dimensions; see torch_checkpoints.py for the command line.

Source: monai/networks/nets/densenet.py: DenseNet, DenseNet121.
"""

from __future__ import annotations

import monai
import torch
from monai.networks.nets import DenseNet, DenseNet121
from torch_checkpoints import run

DIMENSIONS = {"1d": 1, "2d": 2, "3d": 3}
SMALL = {"init_features": 12, "growth_rate": 6, "block_config": (2, 3, 1), "bn_size": 3}


def net(name: str, channels: int) -> torch.nn.Module:
    kind, _, dimensions = name.partition("-")
    shape = {"spatial_dims": DIMENSIONS[dimensions], "in_channels": channels, "out_channels": 5}
    return DenseNet121(**shape) if kind == "densenet121" else DenseNet(**shape, **SMALL)


if __name__ == "__main__":
    run(net, {"monai": monai.__version__})
