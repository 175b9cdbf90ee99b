"""Both twins compute the same function of the same weights, layer by layer, for every architecture there is."""

import math
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, get_args

import numpy as np
import pytest
from densenets import canonical_weights

from denseport.errors import LayoutError
from denseport.models import require_fit
from denseport.net.config import VARIANTS, Activation, DenseNetConfig, HeadLayer, HeadPool, Inputs, Traits
from denseport.net.graph import IMAGES, INPUTS, flattened, graph, layers, sizes

PLAIN = DenseNetConfig.bc(4, (2, 3, 2), 8, num_classes=5)
DEEP = PLAIN.replace(stem_widths=(4, 6, 8), stem_kernel=3)
TUTORIAL = DenseNetConfig(
    growth_rate=4,
    block_config=(2, 3),
    stem_widths=(8,),
    bottleneck_width=4,
    transition_widths=(12,),
    num_classes=5,
    bottleneck_norm=False,
    final_norm=False,
    conv_bias=True,
    traits=Traits(epsilon=1e-3, padding="same", stem_pool="none", final_activation="none"),
)
CONFIGS = {
    "densenet121": VARIANTS["densenet121"].replace(num_classes=7),
    "bottleneck": PLAIN,
    "no-classifier": PLAIN.replace(num_classes=None),
    "one-channel": PLAIN.replace(in_channels=1),
    "one-block": DenseNetConfig.bc(4, (3,), 8, num_classes=5),
    "no-bottleneck": PLAIN.replace(bottleneck_width=None, stem_kernel=3, stem_stride=1, stem_pool="none"),
    "new-first": PLAIN.replace(concatenation="new-first"),
    "biased": PLAIN.replace(conv_bias=True),
    "large-epsilon": PLAIN.replace(epsilon=1e-3),
    "no-final-norm": PLAIN.replace(final_norm=False),
    "no-final-activation": PLAIN.replace(final_activation="none"),
    "no-stem-norm": PLAIN.replace(stem_norm=False),
    "no-stem-norm-same": PLAIN.replace(stem_norm=False, padding="same"),
    "same": PLAIN.replace(padding="same"),
    "same-small-kernel": PLAIN.replace(padding="same", stem_kernel=3, stem_stride=1),
    "same-long-stride": PLAIN.replace(padding="same", stem_kernel=3, stem_stride=4),
    "deep": DEEP,
    "deep-biased-same-no-norm": DEEP.replace(stem_norm=False, padding="same", conv_bias=True),
    "blur": DEEP.replace(stem_pool="max-blur"),
    "blur-same-no-norm": PLAIN.replace(padding="same", stem_pool="max-blur", stem_norm=False),
    "flattened": PLAIN.replace(head_shape=(2, 2)),
    "tutorial": TUTORIAL,
    "bottleneck-1d": PLAIN.replace(dimensions=1),
    "no-stem-norm-same-1d": PLAIN.replace(dimensions=1, stem_norm=False, padding="same"),
    "blur-1d": DEEP.replace(dimensions=1, stem_pool="max-blur"),
    "bottleneck-3d": PLAIN.replace(dimensions=3),
    "no-stem-norm-3d": PLAIN.replace(dimensions=3, stem_norm=False),
    "no-stem-norm-same-3d": PLAIN.replace(dimensions=3, stem_norm=False, padding="same"),
    "blur-3d": DEEP.replace(dimensions=3, stem_pool="max-blur"),
    "tutorial-3d": TUTORIAL.replace(dimensions=3),
}
BODY_ACTIVATIONS = [name for name in get_args(Activation) if name not in ("none", "relu")]
HEAD_POOLS = [name for name in get_args(HeadPool) if name != "mean"]
TWO_DENSE = (HeadLayer("dense", 6, bias=False), HeadLayer("activation", activation="relu"), HeadLayer("dense", 5))
EVERY_HEAD_LAYER = (
    HeadLayer("norm", epsilon=2e-3),
    HeadLayer("dropout"),
    HeadLayer("dense", 6),
    HeadLayer("activation", activation="leaky-relu", negative_slope=0.2),
    HeadLayer("unit-norm"),
    HeadLayer("dense", 5, bias=False),
    HeadLayer("activation", activation="tanh"),
)
NORMALISED = Inputs(3, (2, 1, 0), (0.01, 0.02, 0.03), (-1.0, -0.5, 0.25))
CONFIGS |= {
    **{f"activation-{name}": PLAIN.replace(activation=name, negative_slope=0.3) for name in BODY_ACTIVATIONS},
    **{f"pool-{name}": PLAIN.replace(head_pool=name) for name in HEAD_POOLS},
    "pool-joined-3d-new-first": PLAIN.replace(head_pool="max-mean", dimensions=3, concatenation="new-first"),
    "pool-joined-without-classifier": PLAIN.replace(head_pool="mean-max", num_classes=None),
    "no-activation": PLAIN.replace(activation="none"),
    "no-transition-activation": PLAIN.replace(transition_activation="none"),
    "small-pool": PLAIN.replace(stem_pool="max-2", padding="same"),
    "small-pool-1d": PLAIN.replace(stem_pool="max-2", dimensions=1),
    "stride-per-axis": PLAIN.replace(stem_stride=(1, 2)),
    "stride-per-axis-same-3d": PLAIN.replace(stem_stride=(1, 2, 2), dimensions=3, padding="same"),
    "no-classifier-bias": PLAIN.replace(classifier_bias=False),
    "two-dense": PLAIN.replace(head_layers=TWO_DENSE),
    "every-head-layer": PLAIN.replace(head_layers=EVERY_HEAD_LAYER, head_pool="mean-max"),
    "flattened-every-head-layer": PLAIN.replace(head_layers=EVERY_HEAD_LAYER, head_shape=(2, 2)),
    "inputs": PLAIN.replace(inputs=NORMALISED),
    "inputs-1d": PLAIN.replace(inputs=NORMALISED, dimensions=1, padding="same"),
    "grey-inputs-3d": PLAIN.replace(inputs=Inputs(1, (0, 0, 0), (1.0, 2.0, 3.0), (0.5, -0.5, 0.0)), dimensions=3),
}
SIZES = {1: [(32,), (33,), (47,)], 2: [(32, 32), (33, 33), (34, 41)], 3: [(16, 16, 16), (17, 17, 17), (16, 19, 18)]}

KERAS_VARIABLES = {"running_mean": "moving_mean", "running_var": "moving_variance", "bias": "bias", "weight": "kernel"}
KERAS_NORM_VARIABLES = KERAS_VARIABLES | {"weight": "gamma", "bias": "beta"}


def weights(config: DenseNetConfig) -> dict[str, np.ndarray]:
    """Canonical weights in float64."""
    return canonical_weights(config, dtype="float64")


def in_keras_form(config: DenseNetConfig) -> dict[str, np.ndarray]:
    """The same weights by Keras' names and in Keras' axes."""
    found = {}
    for name, array in weights(config).items():
        layer, _, parameter = name.rpartition(".")
        variable = (KERAS_NORM_VARIABLES if "norm" in layer else KERAS_VARIABLES)[parameter]
        if layer in flattened(config):
            array = channels_last(array, config)
        found[f"{layer}/{variable}"] = array.transpose(*range(2, array.ndim), 1, 0) if variable == "kernel" else array
    return found


def channels_last(values: np.ndarray, config: DenseNetConfig) -> np.ndarray:
    """Maps flattened in the order (C, *spatial), (..., C x positions), in the order (*spatial, C); else as they are."""
    if values.shape[-1] != config.features * math.prod(config.head_shape):
        return values  # of a dense layer
    maps = values.reshape(*values.shape[:-1], config.features, math.prod(config.head_shape))
    return np.moveaxis(maps, -1, -2).reshape(values.shape)


def as_mapped(arrays: Mapping[str, np.ndarray], dtype: Any) -> dict[str, np.ndarray]:
    """The arrays in a dtype that a file may hold, as views over mapped files are: read-only and in any memory order."""
    mapped = {name: np.array(array, dtype=dtype, order="F") for name, array in arrays.items()}
    for array in mapped.values():
        array.flags.writeable = False
    return mapped


def images(config: DenseNetConfig, size: tuple[int, ...]) -> np.ndarray:
    """Noise, (2, *size, C)."""
    return np.random.default_rng(sum(size)).normal(size=(2, *size, config.image_channels))


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest magnitude."""
    assert a.shape == b.shape
    assert np.abs(b).max() > 0
    return float(np.abs(a - b).max() / np.abs(b).max())


def process_of_its_own(backend: str) -> ProcessPoolExecutor:
    """One process, started afresh, for whatever is submitted; Keras runs there on `backend`."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_set_up, initargs=(backend,))


def _set_up(backend: str) -> None:
    os.environ |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def torch_outputs(config: DenseNetConfig) -> list[dict[str, np.ndarray]]:
    """Every module's output in float64, channels last, for images of each size."""
    import torch

    from denseport.models import pytorch

    model = pytorch.load(config, weights(config), "float64")
    outputs: list[dict[str, np.ndarray]] = []
    for name, module in model.named_modules():
        module.register_forward_hook(
            # A copy, since the ReLU behind a normalisation works in place.
            lambda _module, _inputs, output, name=name: outputs[-1].update(
                {name: np.moveaxis(output.numpy().copy(), 1, -1)}
            )
        )
    for size in SIZES[config.dimensions]:
        outputs.append({})
        with torch.no_grad():
            model(torch.from_numpy(np.moveaxis(images(config, size), -1, 1)))
    return outputs


def keras_outputs(config: DenseNetConfig) -> list[dict[str, np.ndarray]]:
    """Every named layer's output in float64, for images of each size."""
    import keras

    from denseport.models import keras as twin

    model = twin.load(config, in_keras_form(config), "float64")
    model = keras.Model(
        model.input, {layer.name: layer.output for layer in model.layers if layer.name == INPUTS or "." in layer.name}
    )
    return [
        {name: keras.ops.convert_to_numpy(value) for name, value in model(images(config, size), training=False).items()}
        for size in SIZES[config.dimensions]
    ]


@pytest.fixture(scope="module")
def torch_process() -> Iterator[ProcessPoolExecutor]:
    with process_of_its_own("torch") as process:
        yield process


@pytest.fixture(scope="module")
def keras_process() -> Iterator[ProcessPoolExecutor]:
    with process_of_its_own("tensorflow") as process:
        yield process


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_layer_computes_the_same_in_both_twins(
    config: DenseNetConfig, torch_process: ProcessPoolExecutor, keras_process: ProcessPoolExecutor
) -> None:
    running = torch_process.submit(torch_outputs, config), keras_process.submit(keras_outputs, config)
    with_weights = [layer.name for layer in layers(config)]
    widths = {node.name: node.width for node in graph(config) if node.name != IMAGES}
    for size, ours, theirs in zip(SIZES[config.dimensions], *(future.result() for future in running), strict=True):
        assert [name for name in theirs if name in with_weights] == with_weights
        assert ours.keys() >= theirs.keys()
        assert theirs.keys() - {"stem.pool.1"} == widths.keys()  # but for the first half of a blur pool
        positions = sizes(config, size)
        assert {name: theirs[name].shape for name in widths} == {n: (2, *positions[n], widths[n]) for n in widths}
        assert theirs[graph(config)[-1].name].shape == (2, config.num_classes or graph(config)[-1].width)
        for name, value in theirs.items():
            assert value.dtype == ours[name].dtype == np.float64, (size, name)
            expected = channels_last(ours[name], config) if value.ndim == 2 else ours[name]
            assert apart(value, expected) < 1e-12, (size, name)


def test_importing_the_package_imports_no_framework() -> None:
    script = "import sys, denseport.models; print(*{'torch', 'keras', 'tensorflow', 'jax'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


def test_all_that_does_not_fit_is_listed() -> None:
    given = {"stem.conv.weight": (1, 2), "fc.weight": (3,), "evil\n\x1b": (3,)}
    expected = {"stem.conv.weight": (2, 1), "head.norm.weight": (4,), "head.norm.bias": (4,)}
    message = (
        "missing keys head.norm.weight, head.norm.bias; unexpected keys fc.weight, evil\\n\\x1b; "
        "size mismatch for stem.conv.weight (1, 2) should be (2, 1)"
    )
    with pytest.raises(LayoutError, match=re.escape(message)):
        require_fit(given, expected)
    require_fit(expected, expected)
