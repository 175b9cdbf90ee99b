"""DenseNet121 of PyTorch by denseport, torchvision and timm, with the same weights, on images of 224x224 pixels.

`times TASK BATCH RUNS NAME...` calls all of them in turn and says in JSON how many seconds each run of each took;
`memory TASK BATCH NAME` makes one alone, calls it three times, and says how many bytes its process held at most.
TASK is `inference`, or `training`: a step of SGD with `memory_efficient`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import timm
import torch
import torchvision
from torch import nn
from twin_memory import peak_private_memory
from twin_turns import in_turn

import denseport
from denseport.models import pytorch

CREATE = {
    "denseport": pytorch.create,
    "torchvision": torchvision.models.get_model,
    "timm": timm.create_model,
}


def main(mode: str, task: str, batch: str, *rest: str) -> None:
    if mode == "memory":
        (name,) = rest
        call = calling(create(name, task), task, int(batch))
        for _ in range(3):
            call()
        print(json.dumps(peak_private_memory()))
        return
    runs, *names = rest
    nets = with_the_same_weights({name: create(name, task) for name in names})
    ways = {name: calling(net, task, int(batch)) for name, net in nets.items()}
    print(json.dumps(in_turn(ways, int(runs), calls=1 if task == "training" or int(batch) > 1 else 3)))


def create(name: str, task: str) -> nn.Module:
    return CREATE[name]("densenet121", memory_efficient=task == "training")


def calling(net: nn.Module, task: str, batch: int) -> Callable[[], object]:
    """What is measured."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, generator=random)
    labels = torch.randint(0, 1000, (batch,), generator=random)
    return inference(net, images) if task == "inference" else training(net, images, labels)


def inference(net: nn.Module, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    net.eval()

    @torch.inference_mode()
    def call() -> torch.Tensor:
        return net(images)

    return call


def training(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def call() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return call


def with_the_same_weights(nets: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The nets, each with denseport's weights and of the same outputs."""
    ours = nets["denseport"].eval()
    arrays = {name: values.numpy() for name, values in ours.state_dict().items()}
    translated = denseport.translate(arrays, "denseport", "torchvision")
    state = {key: torch.from_numpy(values.copy()) for key, values in translated.items()}
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for name, net in nets.items():
            if net is not ours:
                net.load_state_dict(state)
            torch.testing.assert_close(net.eval()(images), ours(images), msg=f"{name} computes something else")
    return nets


if __name__ == "__main__":
    main(*sys.argv[1:])
