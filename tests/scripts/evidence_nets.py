"""Nets of known truth, with statistics as training leaves them: evidence_nets.py FOLDER START STOP.

Writes `NUMBER.safetensors` with canonical tensors; the metadata say the configuration, the images that were fed, and
what was done to the net.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from denseport.models.pytorch.densenet import DenseNet
from denseport.net.config import DenseNetConfig

BATCH_NORM = nn.modules.batchnorm._BatchNorm
ARCHITECTURES = {
    "imagenet": DenseNetConfig.bc(8, (3, 4, 3), 16),
    "imagenet-wide": DenseNetConfig.bc(12, (3, 5, 4, 2), 24),
    "unpooled": DenseNetConfig.bc(8, (3, 4, 3), 16, stem_pool="none"),
    "small-images": DenseNetConfig.bc(8, (4, 4), 16, stem_kernel=3, stem_stride=1, stem_pool="none"),
    "cifar": DenseNetConfig.bc(8, (4, 4, 4), 16, stem_norm=False, stem_kernel=3, stem_stride=1, stem_pool="none"),
    "plain": DenseNetConfig.bc(
        8, (4, 4, 4), 16, compression=1.0, stem_norm=False, stem_kernel=3, stem_stride=1, stem_pool="none"
    ).replace(bottleneck_width=None),
    "deep-stem": DenseNetConfig.bc(8, (3, 3, 3), 16, stem_pool="max-blur", stem_kernel=3).replace(
        stem_widths=(8, 8, 16)
    ),
    "keras": DenseNetConfig.bc(8, (3, 4, 3), 16, padding="same", epsilon=1.001e-5),
    "bias": DenseNetConfig.bc(8, (3, 3, 3), 16, conv_bias=True),
    "grey": DenseNetConfig.bc(8, (3, 3, 3), 16, in_channels=1),
    "1d": DenseNetConfig.bc(8, (3, 3, 3), 16, in_channels=2).replace(dimensions=1),
    "3d": DenseNetConfig.bc(8, (2, 2), 16, in_channels=1).replace(dimensions=3),
    "no-bottleneck-norm": DenseNetConfig.bc(8, (3, 3), 16).replace(bottleneck_norm=False),
    "two-k": DenseNetConfig.bc(8, (3, 4, 3), 16, 2),
}
# What pixels of 0 to 1 are multiplied by, and what is then added.
RANGES = {
    "unit": (1.0, 0.0),
    "pixels": (255.0, 0.0),
    "signed": (2.0, -1.0),
    "normalised": (1 / 0.26, -0.46 / 0.26),
    "caffe": (255.0, -115.0),
}
STATES = (
    "average",
    "average",
    "average",
    "momentum",
    "momentum",
    "few",
    "fresh",
    "random",
    "frozen",
    "edge",
    "half",
    "drop",
)


class MaxOf2(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.ndim - 3](x, 2)


def images(config: DenseNetConfig, draw: torch.Generator, kind: str, side: int) -> torch.Tensor:
    """Pixels of 0 to 1 (N, C, *spatial): smooth ones, or with sharp edges and noise."""
    count, modes = 12, {1: "linear", 2: "bilinear", 3: "trilinear"}
    grid = [side // 8] * config.dimensions
    shared = torch.rand(count, 1, *grid, generator=draw)
    own = torch.rand(count, config.in_channels, *grid, generator=draw)
    coarse = 0.6 * shared + 0.4 * own
    if kind == "sharp":
        coarse = torch.where(coarse > 0.5, 0.5 + coarse / 2, coarse / 2)
    size = [side] * config.dimensions
    pixels = F.interpolate(coarse, size=size, mode=modes[config.dimensions] if kind != "sharp" else "nearest")
    contrast = 0.4 + 1.2 * torch.rand(count, 1, *[1] * config.dimensions, generator=draw)
    pixels = (pixels - 0.5) * contrast + 0.5
    if kind != "smooth":
        pixels = pixels + 0.05 * torch.randn(pixels.shape, generator=draw)
    return pixels.clamp(0, 1)


def vary(net: DenseNet, draw: torch.Generator) -> None:
    for norm in net.modules():
        if isinstance(norm, BATCH_NORM):
            n = norm.num_features
            norm.weight.data.copy_(torch.rand(n, generator=draw) + 0.5)
            norm.bias.data.copy_(torch.randn(n, generator=draw) * 0.3)


def calibrate(net: DenseNet, state: str, batches: list[torch.Tensor]) -> None:
    norms = [norm for norm in net.modules() if isinstance(norm, BATCH_NORM)]
    frozen = {"frozen": norms[: len(norms) // 2], "edge": norms[len(norms) // 2 :]}.get(state, [])
    for norm in norms:
        norm.momentum = None if state in ("average", "frozen", "edge", "half") else 0.1
    net.train()
    if state == "few":
        batches = batches[:2]
    for number, batch in enumerate(batches * (6 if state in ("momentum", "drop") else 1)):
        if number == len(batches) // 2 and frozen:
            for norm in frozen:
                norm.eval()
            for kernel in net.parameters():
                if kernel.ndim > 1:
                    kernel.data += 0.3 * kernel.data.std() * torch.randn(kernel.shape)
        net(batch)


def make(number: int) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    choose, draw = random.Random(number), torch.Generator().manual_seed(number)
    torch.manual_seed(number)
    name = list(ARCHITECTURES)[number % len(ARCHITECTURES)]
    order = choose.choice(("old-first", "new-first"))
    state = choose.choice(STATES)
    fed = choose.choice(list(RANGES))
    kind = choose.choice(("smooth", "sharp", "noisy"))
    side = {1: 128, 2: choose.choice((32, 48, 64)), 3: 32}[ARCHITECTURES[name].dimensions]
    config = ARCHITECTURES[name].replace(concatenation=order, num_classes=5)
    net = DenseNet(config, layer_drop_rate=0.2 if state == "drop" else 0.0)
    transition = choose.choice(("mean", "mean", "mean", "mean", "max", "no-relu"))
    for b in range(1, config.blocks):
        stage = net.get_submodule(f"transition{b}")
        if transition == "max":
            stage.pool = MaxOf2()
        if transition == "no-relu":
            stage.relu = nn.Identity()
    vary(net, draw)
    scale, offset = RANGES[fed]
    with torch.no_grad():
        batches = [images(config, draw, kind, side) * scale + offset for _ in range(10)]
        if state == "random":
            for norm in net.modules():
                if isinstance(norm, BATCH_NORM):
                    norm.running_mean.copy_(torch.randn(norm.num_features, generator=draw) * 0.3)
                    norm.running_var.copy_(torch.rand(norm.num_features, generator=draw) + 0.5)
        elif state != "fresh":
            calibrate(net, state, batches)
    tensors = {key: value.contiguous() for key, value in net.state_dict().items() if not key.endswith("tracked")}
    if state == "half":
        tensors = {key: value.half() for key, value in tensors.items()}
    pixels = torch.cat(batches)
    truth = {
        "architecture": name, "config": config.to_dict(), "state": state, "order": order, "fed": fed, "kind": kind,
        "side": side, "transition": transition, "mean": pixels.mean().item(), "std": pixels.std().item(),
    }  # fmt: skip
    return tensors, truth


def main(folder: Path, start: int, stop: int) -> None:
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for number in range(start, stop):
        tensors, truth = make(number)
        save_file(tensors, folder / f"{number}.safetensors", metadata={"truth": json.dumps(truth)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
