"""Models that are written as Keras' own layers: plain Keras builds them, and they compute what the twin does."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from test_models import BODY_ACTIVATIONS, CONFIGS, PLAIN, SIZES, apart, images, in_keras_form, process_of_its_own

from denseport.layouts import find_layout
from denseport.layouts.descriptions.keras_functional import cannot_hold, functional
from denseport.net.config import DenseNetConfig, Inputs

SAME = PLAIN.replace(padding="same", negative_slope=0.3)
ANSWERS = ("softmax", "sigmoid", "log-softmax")
HELD = {
    **{name: config for name, config in CONFIGS.items() if not cannot_hold(config)},
    **{f"same-{name}": SAME.replace(activation=name) for name in BODY_ACTIVATIONS},
    "one-scale-for-all": PLAIN.replace(inputs=Inputs(3, (0, 1, 2), (1 / 255,) * 3, (0.0,) * 3)),
    **{f"answer-{name}": PLAIN.replace(head_activation=name) for name in ANSWERS},
}


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    with process_of_its_own("tensorflow") as process:
        yield process


def differences(config: DenseNetConfig) -> list[float]:
    """How far the outputs of the model that Keras builds are from the twin's, for images of each size, in float32."""
    import keras

    from denseport.models import keras as twin

    reference = twin.load(config, in_keras_form(config))
    model = keras.saving.deserialize_keras_object(functional(config, find_layout("denseport")))
    both = ([layer for layer in each.layers if layer.weights] for each in (model, reference))
    for own, layer in zip(*both, strict=True):
        own.set_weights(layer.get_weights())
    answers = {"softmax": "softmax", "sigmoid": "sigmoid", "log-softmax": "log_softmax", "none": "linear"}
    answer = keras.activations.get(answers[config.traits.head_activation])
    sizes = [model.input_shape[1:-1]] if config.head_shape else SIZES[config.dimensions]
    batches = [images(config, size).astype(np.float32) for size in sizes]
    return [apart(np.asarray(model(batch)), np.asarray(answer(reference(batch)))) for batch in batches]


@pytest.mark.parametrize("config", HELD.values(), ids=HELD)
def test_plain_keras_builds_the_same_net(config: DenseNetConfig, process: ProcessPoolExecutor) -> None:
    assert max(process.submit(differences, config).result()) < 5e-7


def test_what_keras_cannot_compute_is_said() -> None:
    assert "reflects borders" in cannot_hold(CONFIGS["blur"])
    for config in (CONFIGS["no-stem-norm"], PLAIN.replace(activation="silu")):
        assert "maximum of negative values" in cannot_hold(config)
