"""A small torchvision net and what it sees in pictures: FOLDER NET.pth saves the net, prints logits by picture's name.

Source: torchvision/models/densenet.py: DenseNet121_Weights; torchvision/transforms/_presets.py: ImageClassification.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torchvision_nets import randomise


def main(folder: Path, file: Path) -> None:
    net = torchvision.models.DenseNet(growth_rate=8, block_config=(2, 2, 2), num_init_features=16, num_classes=1000)
    randomise(net)
    # Logits that lie apart, as those of trained nets do.
    net.classifier.weight.data.normal_(0, 1)
    torch.save(net.state_dict(), file)
    prepare = torchvision.models.DenseNet121_Weights.DEFAULT.transforms()
    told = {}
    for picture in sorted(folder.rglob("*.png")):
        with torch.inference_mode():
            logits = net.eval()(prepare(Image.open(picture).convert("RGB"))[None])[0]
        told[picture.relative_to(folder).as_posix()] = logits.double().tolist()
    print(json.dumps(told))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
