"""What Keras alone takes to load and run a net, beside a conversion that is checked: `NET WEIGHTS`.

Imports Keras, builds the net of keras.applications, loads WEIGHTS, a .h5 of it, and runs it on the same noise as
`parity_by_hand.py`.
"""

from __future__ import annotations

import sys

import numpy as np
from keras import Input, applications

SHAPES = ((2, 224, 224, 3), (2, 225, 225, 3), (1, 168, 197, 3))


def main(name: str, weights: str) -> None:
    model = getattr(applications, name)(weights=None, input_tensor=Input((None, None, 3)), classifier_activation=None)
    model.load_weights(weights)
    random = np.random.default_rng(0)
    for shape in SHAPES:
        model(random.standard_normal(shape, np.float32), training=False).numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])
