"""segmentation-models-pytorch's own encoders, which have no head; see torch_checkpoints.py for the command line.

`unet` is a whole segmentation net around such an encoder; what is compared is its encoder's output. The last feature
map comes straight from the last normalisation: ReLU and pooling make it the features of a DenseNet without classifier.
Source: segmentation_models_pytorch/encoders/densenet.py: DenseNetEncoder.
"""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch
from torch_checkpoints import run

SMALL = {
    "growth_rate": 8,
    "block_config": (2, 1, 1, 2),
    "num_init_features": 16,
    "out_channels": [3, 16, 32, 24, 20, 26],
}


def net(name: str, channels: int) -> torch.nn.Module:
    if name == "unet":
        return smp.Unet("densenet121", encoder_weights=None, in_channels=channels)
    if name == "small":
        encoder = smp.encoders.densenet.DenseNetEncoder(**SMALL)
        encoder.set_in_channels(channels, pretrained=False)
        return encoder
    return smp.encoders.get_encoder(name, in_channels=channels, weights=None)


def features(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return getattr(model, "encoder", model)(images)[-1].relu().mean((2, 3))


if __name__ == "__main__":
    run(net, {"segmentation_models_pytorch": smp.__version__}, output=features)
