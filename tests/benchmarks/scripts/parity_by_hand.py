"""A conversion that is checked by hand, in one process: `NET SRC DST`, from .pth with torchvision's names to .h5.

Loads SRC with torch, sets the weights of the net of keras.applications, saves it, runs both nets on the noise that
denseport compares on by default, and holds the outputs to each other; in float32 alone.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torchvision  # before TensorFlow, which it makes crash otherwise
from keras import Input, applications

SHAPES = ((2, 224, 224, 3), (2, 225, 225, 3), (1, 168, 197, 3))
TOLERANCE = 1e-5


@torch.inference_mode()
def main(name: str, src: str, dst: str) -> None:
    net = torchvision.models.get_model(name.lower(), weights=None)
    net.load_state_dict(torch.load(src, weights_only=True))
    net.eval()
    build = getattr(applications, name)
    model = build(weights=None, input_tensor=Input((None, None, 3)), classifier_activation=None)
    arrays = iter(
        [tensor.numpy() for key, tensor in net.state_dict().items() if not key.endswith("num_batches_tracked")]
    )
    for layer in model.layers:
        layer.set_weights([transposed(next(arrays)) for _ in layer.weights])
    model.save(dst)
    random = np.random.default_rng(0)
    for shape in SHAPES:
        images = random.standard_normal(shape, np.float32)
        expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
        error = np.abs(expected - model(images, training=False).numpy()).max() / np.abs(expected).max()
        if not error <= TOLERANCE:
            sys.exit(f"{shape}: the outputs differ by {error}")


def transposed(array: np.ndarray) -> np.ndarray:
    """(O, I, kH, kW) to (kH, kW, I, O), and (O, I) to (I, O)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


if __name__ == "__main__":
    main(*sys.argv[1:])
