"""What people write by hand: build the net of keras.applications, load its weights, torch.save them: `NET SRC DST`.

SRC is an .h5 file, DST a .pth file with the names of torchvision. Both libraries name the layers of a DenseNet in the
same order.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torchvision  # before TensorFlow, which it makes crash otherwise
from keras import applications


def main(name: str, src: str, dst: str) -> None:
    model = getattr(applications, name)(weights=None)
    model.load_weights(src)
    arrays = iter([transposed(array) for layer in model.layers for array in layer.get_weights()])
    state = torchvision.models.get_model(name.lower(), weights=None).state_dict()
    for key, tensor in state.items():
        if not key.endswith("num_batches_tracked"):
            tensor.copy_(torch.from_numpy(next(arrays)))
    torch.save(state, dst)


def transposed(array: np.ndarray) -> np.ndarray:
    """(kH, kW, I, O) to (O, I, kH, kW), and (I, O) to (O, I)."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


if __name__ == "__main__":
    main(*sys.argv[1:])
