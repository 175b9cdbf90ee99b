"""What people write by hand to get from .pth to safetensors: torch.load and save_file, `SRC DST`."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file


def main(src: str, dst: str) -> None:
    save_file(torch.load(src, weights_only=True), dst)


if __name__ == "__main__":
    main(*sys.argv[1:])
