"""timm's own DenseNets; see torch_checkpoints.py for the command line.

Any name that timm knows, or small ones: `small`, `small-d` with the deep stem, `small-blur` with a blur in front of the
blocks, `small-blur-d` with both, `small-blur-everywhere` with one in the transitions too.
Source: timm/models/densenet.py: DenseNet; timm/layers/blur_pool.py: BlurPool2d.
"""

from __future__ import annotations

import timm
import torch
from timm.layers import BlurPool2d
from timm.models.densenet import DenseNet
from torch_checkpoints import run


def net(name: str, channels: int) -> torch.nn.Module:
    if not name.startswith("small"):
        return timm.create_model(name, pretrained=False, in_chans=channels)
    return DenseNet(
        growth_rate=8,
        block_config=(3, 1, 2),
        num_classes=5,
        in_chans=channels,
        stem_type="deep" if name.endswith("-d") else "",
        aa_layer=BlurPool2d if "blur" in name else None,
        aa_stem_only=not name.endswith("-everywhere"),
    )


if __name__ == "__main__":
    run(net, {"timm": timm.__version__})
