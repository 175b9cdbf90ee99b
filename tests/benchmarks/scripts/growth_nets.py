"""Files of the nets that grow, with random weights and torchvision's names: `FOLDER` gets NAME.pth for each.

It says in JSON which.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torchvision

from tests.benchmarks.growth import NETS


def main(folder: Path) -> None:
    torch.manual_seed(0)
    for name, config in NETS.items():
        net = torchvision.models.DenseNet(config.growth_rate, config.block_config, config.stem_widths[0])
        torch.save(net.state_dict(), folder / f"{name}.pth")
    print(json.dumps(list(NETS)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
