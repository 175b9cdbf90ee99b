"""torchxrayvision's own DenseNets, 18 outputs; see torch_checkpoints.py for the command line.

`thresholds` holds the buffer `op_threshs`, which only rescales what the net says: its output here is without it.
Source: torchxrayvision/models.py: DenseNet.
"""

from __future__ import annotations

import torch
import torchxrayvision
from torch_checkpoints import run

SMALL = {"growth_rate": 8, "block_config": (2, 1, 2), "num_init_features": 16}


def net(name: str, channels: int) -> torch.nn.Module:
    options = {} if name == "densenet121" else SMALL
    thresholds = torch.linspace(0.1, 0.9, 18).index_fill(0, torch.tensor([3]), torch.nan)
    return torchxrayvision.models.DenseNet(
        in_channels=channels, num_classes=18, op_threshs=thresholds if name == "thresholds" else None, **options
    )


def logits(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.classifier(model.features2(images))


if __name__ == "__main__":
    run(net, {"torchxrayvision": torchxrayvision.__version__}, output=logits)
