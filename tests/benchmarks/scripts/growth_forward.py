"""The forward passes of the nets that grow, for one image of 224x224 pixels, by denseport's twin for PyTorch.

`times RUNS NAME...` calls all of them in turn and says in JSON how many seconds each run of each took; `memory NAME`
makes one alone, calls it three times, and says how many bytes its process held at most.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch
from twin_memory import peak_private_memory
from twin_turns import in_turn

from denseport.models import pytorch
from tests.benchmarks.growth import NETS, SIZE


def main(mode: str, *rest: str) -> None:
    if mode == "memory":
        call = calling(rest[0])
        for _ in range(3):
            call()
        print(json.dumps(peak_private_memory()))
        return
    runs, *names = rest
    print(json.dumps(in_turn({name: calling(name) for name in names}, int(runs), calls=1)))


def calling(name: str) -> Callable[[], torch.Tensor]:
    """What is measured. The net has PyTorch's own initial values, which are no slower than others."""
    net = pytorch.DenseNet(NETS[name]).eval()
    images = torch.randn(1, 3, *SIZE)

    @torch.inference_mode()
    def call() -> torch.Tensor:
        return net(images)

    return call


if __name__ == "__main__":
    main(*sys.argv[1:])
