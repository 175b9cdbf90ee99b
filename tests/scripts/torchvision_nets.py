"""torchvision's own DenseNets: `save FOLDER NAME...` writes some, `load FOLDER NAME...` loads files.

Each net NAME has FOLDER/NAME.pth, read strictly, and FOLDER/NAME.npy, its logits for FOLDER/images.npy (N, H, W, C).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torchvision

SMALL = {
    "free": {"growth_rate": 8, "block_config": (4, 3, 2), "num_init_features": 18, "bn_size": 4, "num_classes": 10},
    "small": {"growth_rate": 32, "block_config": (2, 1, 1, 2), "num_init_features": 64, "num_classes": 10},
    "nested": {"growth_rate": 32, "block_config": (2, 1, 1, 2), "num_init_features": 64, "num_classes": 7},
    "narrow": {"growth_rate": 5, "block_config": (1, 2, 1, 2), "num_init_features": 11, "bn_size": 2, "num_classes": 3},
}


def net(name: str) -> torch.nn.Module:
    if name in SMALL:
        return torchvision.models.DenseNet(**SMALL[name])
    return torchvision.models.get_model(name, weights=None)


def randomise(model: torch.nn.Module) -> None:
    """Statistics, scales and shifts far from fresh ones: fresh ones hide every swap."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 3)
            module.num_batches_tracked.fill_(1234)


def logits(model: torch.nn.Module, folder: Path) -> np.ndarray:
    images = torch.from_numpy(np.load(folder / "images.npy").transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        return model.eval()(images).numpy()


def main(action: str, folder: Path, names: list[str]) -> None:
    for name in names:
        model = net(name)
        if action == "save":
            randomise(model)
            torch.save(model.state_dict(), folder / f"{name}.pth")
            safetensors.torch.save_file(model.state_dict(), folder / f"{name}.safetensors")
        else:
            model.load_state_dict(torch.load(folder / f"{name}.pth", weights_only=True, mmap=True), strict=True)
            again = safetensors.torch.load_file(folder / f"{name}.safetensors")
            assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
        np.save(folder / f"{name}.npy", logits(model, folder))
    print(json.dumps({"torchvision": torchvision.__version__}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
