"""Nets of five PyTorch code bases that no package brings, for images of 32x32; see torch_checkpoints.py.

Names of modules, order of concatenation, pooling and what a checkpoint holds are theirs:

- gpleiss: gpleiss/efficient_densenet_pytorch models/densenet.py: DenseNet; demo.py
- andreasveit: andreasveit/densenet-pytorch densenet.py: DenseNet3; train.py
- kuangliu: kuangliu/pytorch-cifar models/densenet.py: DenseNet; main.py
- bearpaw: bearpaw/pytorch-classification models/cifar/densenet.py: DenseNet; cifar.py
- weiaicunzai: weiaicunzai/pytorch-cifar100 models/densenet.py: DenseNet, whose transitions have no ReLU

`gpleiss-large` has the stem for larger images (small_inputs=False). `andreasveit-basic` and `bearpaw-basic` have no
bottleneck (BasicBlock) and no compression. `kuangliu-copy` puts new features last, as many copies of kuangliu's do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn
from torch_checkpoints import run

GROWTH = 5
CLASSES = 10


class DenseLayer(nn.Sequential):
    """Adds new features in front of those that it is given, or behind them."""

    def __init__(self, width: int, norm: str, bottleneck: bool, new_first: bool) -> None:
        single = {f"{norm}1": nn.BatchNorm2d(width), "relu1": nn.ReLU(), "conv1": conv(width, GROWTH, 3)}
        double = {
            f"{norm}1": nn.BatchNorm2d(width),
            "relu1": nn.ReLU(),
            "conv1": conv(width, 4 * GROWTH, 1),
            f"{norm}2": nn.BatchNorm2d(4 * GROWTH),
            "relu2": nn.ReLU(),
            "conv2": conv(4 * GROWTH, GROWTH, 3),
        }
        super().__init__()
        self.new_first = new_first
        for name, module in (double if bottleneck else single).items():
            self.add_module(name, module)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        new = super().forward(features)
        return torch.cat([new, features] if self.new_first else [features, new], 1)


def conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)


def chain(modules: Mapping[str, nn.Module]) -> nn.Sequential:
    sequential = nn.Sequential()
    for name, module in modules.items():
        sequential.add_module(name, module)
    return sequential


def dense_layers(
    width: int, count: int, norm: str = "bn", bottleneck: bool = True, new_first: bool = False
) -> list[DenseLayer]:
    return [DenseLayer(width + index * GROWTH, norm, bottleneck, new_first) for index in range(count)]


def transition(inputs: int, outputs: int, norm: str, convolution: str) -> nn.Sequential:
    modules = {norm: nn.BatchNorm2d(inputs), "relu": nn.ReLU(), convolution: conv(inputs, outputs, 1)}
    return chain({**modules, "pool": nn.AvgPool2d(2)})


def gpleiss(channels: int, large: bool = False) -> nn.Module:
    width = 2 * GROWTH
    modules: dict[str, nn.Module] = {"conv0": conv(channels, width, 7, 2) if large else conv(channels, width, 3)}
    if large:
        modules |= {"norm0": nn.BatchNorm2d(width), "relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, 2, 1)}
    for b, count in enumerate((2, 3, 1), 1):
        layers = dense_layers(width, count, "norm")
        modules[f"denseblock{b}"] = chain({f"denselayer{index}": layer for index, layer in enumerate(layers, 1)})
        width += count * GROWTH
        if b < 3:
            modules[f"transition{b}"] = transition(width, width // 2, "norm", "conv")
            width //= 2
    modules["norm_final"] = nn.BatchNorm2d(width)
    head = {"relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return chain({"features": chain(modules), **head, "classifier": nn.Linear(width, CLASSES)})


def andreasveit(channels: int, bottleneck: bool = True) -> nn.Module:
    width = 2 * GROWTH
    modules: dict[str, nn.Module] = {"conv1": conv(channels, width, 3)}
    for b in (1, 2, 3):
        modules[f"block{b}"] = chain({"layer": nn.Sequential(*dense_layers(width, 3, bottleneck=bottleneck))})
        width += 3 * GROWTH
        if b < 3:
            kept = width // 2 if bottleneck else width
            modules[f"trans{b}"] = transition(width, kept, "bn1", "conv1")
            width = kept
    head = {"relu": nn.ReLU(), "pool": nn.AvgPool2d(8), "flatten": nn.Flatten()}
    return chain({**modules, "bn1": nn.BatchNorm2d(width), **head, "fc": nn.Linear(width, CLASSES)})


def kuangliu(channels: int, new_first: bool = True) -> nn.Module:
    width = 2 * GROWTH
    modules: dict[str, nn.Module] = {"conv1": conv(channels, width, 3)}
    for b, count in enumerate((2, 3, 1, 2), 1):
        modules[f"dense{b}"] = nn.Sequential(*dense_layers(width, count, new_first=new_first))
        width += count * GROWTH
        if b < 4:
            modules[f"trans{b}"] = transition(width, width // 2, "bn", "conv")
            width //= 2
    head = {"relu": nn.ReLU(), "pool": nn.AvgPool2d(4), "flatten": nn.Flatten()}
    return chain({**modules, "bn": nn.BatchNorm2d(width), **head, "linear": nn.Linear(width, CLASSES)})


def bearpaw(channels: int, bottleneck: bool = True) -> nn.Module:
    width = 2 * GROWTH
    modules: dict[str, nn.Module] = {"conv1": conv(channels, width, 3)}
    for b in (1, 2, 3):
        modules[f"dense{b}"] = nn.Sequential(*dense_layers(width, 3, bottleneck=bottleneck))
        width += 3 * GROWTH
        if b < 3:
            kept = width // 2 if bottleneck else width
            modules[f"trans{b}"] = transition(width, kept, "bn1", "conv1")
            width = kept
    head = {"relu": nn.ReLU(), "pool": nn.AvgPool2d(8), "flatten": nn.Flatten()}
    return chain({**modules, "bn": nn.BatchNorm2d(width), **head, "fc": nn.Linear(width, CLASSES)})


class Bottleneck(nn.Module):
    """A dense layer in a module of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first = nn.BatchNorm2d(width), nn.ReLU(), conv(width, 4 * GROWTH, 1)
        self.bottle_neck = nn.Sequential(*first, nn.BatchNorm2d(4 * GROWTH), nn.ReLU(), conv(4 * GROWTH, GROWTH, 3))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([features, self.bottle_neck(features)], 1)


def weiaicunzai(channels: int) -> nn.Module:
    width = 2 * GROWTH
    modules: dict[str, nn.Module] = {}
    for b, count in enumerate((2, 3, 1, 2)):
        layers = (Bottleneck(width + index * GROWTH) for index in range(count))
        modules[f"dense_block{b}"] = chain({f"bottle_neck_layer_{index}": layer for index, layer in enumerate(layers)})
        width += count * GROWTH
        if b < 3:
            squeezed = nn.BatchNorm2d(width), conv(width, width // 2, 1), nn.AvgPool2d(2)
            modules[f"transition_layer_{b}"] = chain({"down_sample": nn.Sequential(*squeezed)})
            width //= 2
    modules |= {"bn": nn.BatchNorm2d(width), "relu": nn.ReLU()}
    body = {"conv1": conv(channels, 2 * GROWTH, 3), "features": chain(modules)}
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "linear": nn.Linear(width, CLASSES)}
    return chain({**body, **head})


NETS = {
    "gpleiss": gpleiss,
    "gpleiss-large": partial(gpleiss, large=True),
    "andreasveit": andreasveit,
    "andreasveit-basic": partial(andreasveit, bottleneck=False),
    "kuangliu": kuangliu,
    "kuangliu-copy": partial(kuangliu, new_first=False),
    "bearpaw": bearpaw,
    "bearpaw-basic": partial(bearpaw, bottleneck=False),
    "weiaicunzai": weiaicunzai,
}


def checkpoint(name: str, model: nn.Module) -> object:
    """What each code base saves during training; two of them save from within DataParallel."""
    tensors = model.state_dict()
    parallel = {f"module.{key}": tensor for key, tensor in tensors.items()}
    if name.startswith("andreasveit"):
        return {"epoch": 300, "state_dict": tensors, "best_prec1": 95.1}
    if name.startswith("kuangliu"):
        return {"net": parallel, "acc": 95.04, "epoch": 199}
    if name.startswith("bearpaw"):
        scores = {"acc": 95.1, "best_acc": 95.2}
        return {"epoch": 300, "state_dict": parallel, **scores, "optimizer": momentum(model).state_dict()}
    return tensors


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that has made a step, without moving the net."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer


if __name__ == "__main__":
    run(lambda name, channels: NETS[name](channels), {}, checkpoint=checkpoint)
