"""What people write by hand: torch.load, build the net of keras.applications, set its weights, save: `NET SRC DST`.

SRC is a .pth file with the names of torchvision, DST a .weights.h5 file. Both libraries name the layers of a DenseNet
in the same order.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from keras import applications


def main(name: str, src: str, dst: str) -> None:
    state = torch.load(src, weights_only=True)
    arrays = iter([tensor.numpy() for key, tensor in state.items() if not key.endswith("num_batches_tracked")])
    model = getattr(applications, name)(weights=None)
    for layer in model.layers:
        layer.set_weights([transposed(next(arrays)) for _ in layer.weights])
    model.save_weights(dst)


def transposed(array: np.ndarray) -> np.ndarray:
    """(O, I, kH, kW) to (kH, kW, I, O), and (O, I) to (I, O)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


if __name__ == "__main__":
    main(*sys.argv[1:])
