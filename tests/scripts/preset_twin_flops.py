"""What torch counts in twins: NETS, JSON of [configuration, size] by name; prints by name, a multiply-add as two.

Source: torch/utils/flop_counter.py.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from denseport.models.pytorch import DenseNet
from denseport.net.config import DenseNetConfig, Traits


def counted(config: dict[str, Any], size: list[int]) -> int:
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    net = DenseNet(DenseNetConfig(**plain | {"traits": Traits(**plain["traits"])})).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, net.config.in_channels, *size))
    return counter.get_total_flops()


if __name__ == "__main__":
    print(json.dumps({name: counted(*net) for name, net in json.loads(sys.argv[1]).items()}))
