"""What every script for a PyTorch code base does: `save FOLDER NAME...` writes nets, `load FOLDER NAME...` loads files.

Each net NAME has FOLDER/NAME.pth, as its code base writes it, and FOLDER/NAME.safetensors, the bare tensors. Both are
read strictly and must agree. FOLDER/NAME.npy gets the net's output for FOLDER/images.npy (N, H, W, C), or for
images1.npy (N, L, C) and images3.npy (N, D, H, W, C) where the name ends in -1d or -3d. The channels of the images are
the net's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

IMAGES = {"1d": "images1.npy", "3d": "images3.npy"}


def run(
    net: Callable[[str, int], torch.nn.Module],
    versions: Mapping[str, str],
    *,
    output: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor] = lambda model, images: model(images),
    checkpoint: Callable[[str, torch.nn.Module], object] = lambda _, model: model.state_dict(),
) -> None:
    """Does what the command line says.

    `net` builds a net by its name and the number of image channels; `checkpoint` is what its code base saves of it,
    `output` its logits (N, classes), or its pooled features where there is no classifier.
    """
    action, folder, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    for name in names:
        images = np.load(folder / IMAGES.get(name.rpartition("-")[2], "images.npy"))
        torch.manual_seed(1)
        model = net(name, images.shape[-1]).eval()
        if action == "save":
            randomise(model)
            torch.save(checkpoint(name, model), folder / f"{name}.pth")
            safetensors.torch.save_file(model.state_dict(), folder / f"{name}.safetensors")
        else:
            load(model, folder, name)
        with torch.inference_mode():
            logits = output(model, torch.from_numpy(np.moveaxis(images, -1, 1).copy()))
        np.save(folder / f"{name}.npy", logits.numpy())
    print(json.dumps({"torch": torch.__version__, **versions}))


def load(model: torch.nn.Module, folder: Path, name: str) -> None:
    tensors = torch.load(folder / f"{name}.pth", weights_only=True)
    assert tensors.keys() == model.state_dict().keys()
    model.load_state_dict(tensors)
    again = safetensors.torch.load_file(folder / f"{name}.safetensors")
    torch.testing.assert_close(again, dict(model.state_dict()), rtol=0, atol=0, equal_nan=True)


def randomise(model: torch.nn.Module) -> None:
    """Statistics, scales, shifts and biases far from fresh ones, which hide every swap, and kernels that let the image
    through to the logits, which fresh ones hardly do."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 3)
            module.num_batches_tracked.fill_(1234)
        elif isinstance(module, torch.nn.modules.conv._ConvNd | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.3)
