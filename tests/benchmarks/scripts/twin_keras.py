"""DenseNet121 of Keras by denseport and keras.applications, with the same weights, on images of 224x224 pixels.

`times BATCH RUNS NAME...` calls all of them in turn and says in JSON how many seconds each run of each took;
`memory BATCH NAME` makes one alone, calls it three times, and says how many bytes its process held at most.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import keras
import numpy as np
from twin_memory import peak_private_memory
from twin_turns import in_turn

from denseport.models import keras as twin
from denseport.net.config import VARIANTS

CREATE = {
    # the epsilon of keras.applications
    "denseport": lambda: twin.densenet(VARIANTS["densenet121"].replace(epsilon=1.001e-5)),
    "keras.applications": lambda: keras.applications.DenseNet121(weights=None, classifier_activation=None),
}


def main(mode: str, batch: str, *rest: str) -> None:
    images = np.random.default_rng(0).standard_normal((int(batch), 224, 224, 3), np.float32)
    if mode == "memory":
        (name,) = rest
        call = calling(CREATE[name](), images)
        for _ in range(3):
            call()
        print(json.dumps(peak_private_memory()))
        return
    runs, *names = rest
    nets = {name: CREATE[name]() for name in names}
    ways = {name: calling(net, images) for name, net in nets.items()}
    for name, net in nets.items():
        # Both have the same layers in the same order.
        net.set_weights(nets["denseport"].get_weights())
        np.testing.assert_allclose(ways[name](), ways["denseport"](), rtol=1e-4, atol=1e-5)
    print(json.dumps(in_turn(ways, int(runs), calls=3 if int(batch) == 1 else 1)))


def calling(net: keras.Model, images: np.ndarray) -> Callable[[], np.ndarray]:
    """What is measured: the compiled graph, which Keras' own `predict` runs."""
    return lambda: net.predict_on_batch(images)


if __name__ == "__main__":
    main(*sys.argv[1:])
