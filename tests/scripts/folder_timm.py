"""timm and the folders that it opens: `open REQUESTS.json` or `save FOLDER`.

A request has `model`, a folder; `images` (N, H, W, C), a npy file; and `output`, the npy file for the net's answer.
Printed for each: the architecture and the preprocessing that timm finds in it. `save` has timm write one folder of its
own, and its logits for FOLDER/images.npy to FOLDER/timm.npy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from timm.layers import BlurPool2d
from timm.models import save_for_hf
from torch_checkpoints import randomise


@torch.inference_mode()
def answer(net: torch.nn.Module, images: Path, output: Path) -> None:
    np.save(output, net.eval()(torch.from_numpy(np.moveaxis(np.load(images), -1, 1).copy())).numpy())


def opened(request: dict[str, str]) -> dict[str, object]:
    net = timm.create_model(f"local-dir:{request['model']}", pretrained=True)
    answer(net, request["images"], request["output"])
    return {
        "architecture": net.pretrained_cfg["architecture"],
        "blur": any(isinstance(module, BlurPool2d) for module in net.modules()),
        **timm.data.resolve_model_data_config(net),
    }


def save(folder: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("densenetblur121d", growth_rate=8, block_config=(1, 2, 1, 1), num_classes=4)
    randomise(net)
    save_for_hf(net, folder / "timm", safe_serialization=True)
    answer(net, folder / "images.npy", folder / "timm.npy")


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save(Path(sys.argv[2]))
    else:
        print(json.dumps([opened(request) for request in json.loads(Path(sys.argv[2]).read_text())]))
