"""Small DenseNets as people leave them in a folder, each with weights of its own: `FOLDER COUNT`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torchvision


def main(folder: Path, count: int) -> None:
    for number in range(count):
        torch.manual_seed(number)
        net = torchvision.models.DenseNet(growth_rate=8, block_config=(4, 3, 2), num_init_features=18, num_classes=10)
        torch.save(net.state_dict(), folder / f"net{number:03}.pth")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
