"""The Keras twin against keras.applications and stock layers, on every backend, and what it takes and refuses."""

import importlib.util
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from test_models import (
    CONFIGS,
    DEEP,
    PLAIN,
    SIZES,
    TUTORIAL,
    apart,
    as_mapped,
    images,
    in_keras_form,
    process_of_its_own,
)

from denseport.errors import LayoutError, UsageError
from denseport.net.config import VARIANTS, DenseNetConfig
from denseport.net.graph import PARAMETERS, layers

KERAS_APPLICATIONS = (
    (r"^stem\.conv/", "conv1_conv/"),
    (r"^stem\.norm/", "conv1_bn/"),
    (r"\.norm1/", "_0_bn/"),
    (r"\.conv1/", "_1_conv/"),
    (r"\.norm2/", "_1_bn/"),
    (r"\.conv2/", "_2_conv/"),
    (r"^block(\d+)\.layer(\d+)", lambda found: f"conv{int(found[1]) + 1}_block{found[2]}"),
    (r"^transition(\d+)\.(\w+)", lambda found: f"pool{int(found[1]) + 1}_{'bn' if found[2] == 'norm' else 'conv'}"),
    (r"^head\.norm/", "bn/"),
    (r"^head\.classifier/", "predictions/"),
)


@pytest.fixture(scope="module")
def on_tensorflow() -> Iterator[ProcessPoolExecutor]:
    with process_of_its_own("tensorflow") as process:
        yield process


@pytest.fixture(scope="module")
def on_torch() -> Iterator[ProcessPoolExecutor]:
    with process_of_its_own("torch") as process:
        yield process


def layers_of(config: DenseNetConfig) -> tuple[list[tuple[str, dict[str, tuple[int, ...]]]], tuple[int | None, ...]]:
    """Each layer with weights, its variables' shapes and the model's input shape."""
    import keras

    from denseport.models import keras as twin

    with keras.device("meta"):
        model = twin.densenet(config)
    variables = [
        (layer.name, {variable.name: tuple(variable.shape) for variable in layer.variables})
        for layer in model.layers
        if layer.variables
    ]
    return variables, model.input_shape


@pytest.mark.parametrize("config", (VARIANTS | CONFIGS).values(), ids=VARIANTS | CONFIGS)
def test_layers_and_shapes_are_the_architectures(config: DenseNetConfig, on_torch: ProcessPoolExecutor) -> None:
    names = {
        "norm": dict(zip(PARAMETERS["norm"], ("gamma", "beta", "moving_mean", "moving_variance"), strict=True)),
        "conv": {"weight": "kernel", "bias": "bias"},
        "dense": {"weight": "kernel", "bias": "bias"},
    }
    expected = [
        (
            layer.name,
            {names[layer.kind][name]: (*shape[2:], *shape[1::-1]) for name, shape in layer.shapes.items()},
        )
        for layer in layers(config)
    ]
    found, input_shape = on_torch.submit(layers_of, config).result()
    assert found == expected
    assert input_shape == (None, *[None] * config.dimensions, config.image_channels)


def settings(config: DenseNetConfig) -> dict[str, Any]:
    """What a twin in float64 leaves behind, and what its layers were told."""
    import keras

    from denseport.models import keras as twin

    model = twin.densenet(config, "float64")
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return {
        "policy": keras.config.dtype_policy().name,
        "paths": {variable.path for variable in model.variables},
        "momentum": {layer.momentum for layer in norms},
        "epsilon": {layer.epsilon for layer in norms},
    }


def test_settings_are_the_configs(on_tensorflow: ProcessPoolExecutor) -> None:
    assert on_tensorflow.submit(settings, PLAIN).result() == {
        "policy": "float32",
        "paths": set(in_keras_form(PLAIN)),
        "momentum": {0.9},
        "epsilon": {1e-5},
    }


def difference_from_applications(config: DenseNetConfig, size: int, dtype: str) -> float:
    """How far the twin's logits are from those of keras.applications' DenseNet121 of the same weights."""
    import keras

    from denseport.models import keras as twin

    arrays = in_keras_form(config)
    keras.config.set_dtype_policy(dtype)
    reference = keras.applications.DenseNet121(
        weights=None, input_shape=(size, size, 3), classes=config.num_classes, classifier_activation=None
    )
    variables = {
        f"{layer.name}/{variable.name}": variable for layer in reference.layers for variable in layer.variables
    }
    keras.config.set_dtype_policy("float32")
    assert len(variables) == len(arrays)
    for name, array in arrays.items():
        for pattern, replacement in KERAS_APPLICATIONS:
            name = re.sub(pattern, replacement, name)
        variables[name].assign(array)
    batch = images(config, (size, size)).astype(np.float32)  # of which the reference's input makes them anyway
    outputs = [model(batch, training=False).numpy() for model in (twin.load(config, arrays, dtype), reference)]
    assert {output.dtype for output in outputs} == {np.dtype(dtype)}
    return apart(*outputs)


@pytest.mark.parametrize(("size", "dtype", "tolerance"), [(64, "float32", 1e-6), (33, "float64", 1e-12)])
def test_it_computes_what_keras_applications_does(
    size: int, dtype: str, tolerance: float, on_tensorflow: ProcessPoolExecutor
) -> None:
    config = VARIANTS["densenet121"].replace(num_classes=7, epsilon=1.001e-5)
    assert on_tensorflow.submit(difference_from_applications, config, size, dtype).result() < tolerance


def differences_from_tutorial() -> list[float]:
    """How far the twin is from the two-block teaching net, written as its authors write it, of the same weights."""
    import keras
    from keras.layers import (
        Activation,
        AveragePooling2D,
        BatchNormalization,
        Concatenate,
        Conv2D,
        Dense,
        GlobalAveragePooling2D,
        Input,
    )

    from denseport.models import keras as twin

    keras.config.set_dtype_policy("float64")
    x = inputs = Input((None, None, 3), dtype="float64")
    x = Activation("relu")(BatchNormalization()(Conv2D(8, 7, strides=2, padding="same")(x)))
    for block, count in enumerate(TUTORIAL.block_config):
        if block > 0:
            x = Conv2D(12, 1, padding="same")(Activation("relu")(BatchNormalization()(x)))
            x = AveragePooling2D(2, strides=2)(x)
        for _ in range(count):
            new = Conv2D(4, 1, padding="same")(Activation("relu")(BatchNormalization()(x)))
            x = Concatenate()([x, Conv2D(4, 3, padding="same")(new)])
    reference = keras.Model(inputs, Dense(5)(GlobalAveragePooling2D()(x)))
    keras.config.set_dtype_policy("float32")

    arrays = in_keras_form(TUTORIAL)
    reference.set_weights(list(arrays.values()))
    model = twin.load(TUTORIAL, arrays, "float64")
    batches = [images(TUTORIAL, size) for size in SIZES[2]]
    return [apart(model(batch, training=False).numpy(), reference(batch, training=False).numpy()) for batch in batches]


def test_it_computes_what_the_tutorial_net_does(on_tensorflow: ProcessPoolExecutor) -> None:
    assert max(on_tensorflow.submit(differences_from_tutorial).result()) < 1e-12


def outputs(
    config: DenseNetConfig, arrays: dict[str, np.ndarray], dtype: str, stored: Any = np.float64
) -> dict[str, Any]:
    """The logits of the smallest images, the variables and their dtypes."""
    import keras

    from denseport.models import keras as twin

    model = twin.load(config, as_mapped(arrays, stored), dtype)
    batch = images(config, SIZES[config.dimensions][0]).astype(dtype)
    return {
        "logits": keras.ops.convert_to_numpy(model(batch, training=False)),
        "dtypes": {variable.dtype for variable in model.variables},
        "arrays": {
            f"{layer.name}/{variable.name}": keras.ops.convert_to_numpy(variable).astype(np.float64)
            for layer in model.layers
            for variable in layer.variables
        },
    }


def compute_the_same(process: ProcessPoolExecutor, on_tensorflow: ProcessPoolExecutor) -> None:
    for name in ("bottleneck", "no-stem-norm-same", "blur", "blur-1d", "blur-3d", "no-stem-norm-same-3d"):
        config, arrays = CONFIGS[name], in_keras_form(CONFIGS[name])
        expected = on_tensorflow.submit(outputs, config, arrays, "float64").result()["logits"]
        assert apart(process.submit(outputs, config, arrays, "float32").result()["logits"], expected) < 1e-5, name


def test_it_computes_the_same_on_torch(on_torch: ProcessPoolExecutor, on_tensorflow: ProcessPoolExecutor) -> None:
    compute_the_same(on_torch, on_tensorflow)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_it_computes_the_same_on_jax(on_tensorflow: ProcessPoolExecutor) -> None:
    with process_of_its_own("jax") as on_jax:
        compute_the_same(on_jax, on_tensorflow)


def outputs_where_channels_come_first(config: DenseNetConfig) -> np.ndarray:
    """The logits of a twin that is built where the user's own keras.json says channels_first."""
    import keras

    keras.config.set_image_data_format("channels_first")
    try:
        return outputs(config, in_keras_form(config), "float64")["logits"]
    finally:
        keras.config.set_image_data_format("channels_last")


def test_a_users_channels_first_changes_nothing(on_tensorflow: ProcessPoolExecutor) -> None:
    config = CONFIGS["blur"]
    expected = on_tensorflow.submit(outputs, config, in_keras_form(config), "float64").result()["logits"]
    found = on_tensorflow.submit(outputs_where_channels_come_first, config).result()
    np.testing.assert_array_equal(found, expected)


def test_float64_is_refused_where_keras_would_round_it(on_torch: ProcessPoolExecutor) -> None:
    with pytest.raises(UsageError, match="float64 on TensorFlow only, not on torch; set KERAS_BACKEND=tensorflow"):
        on_torch.submit(outputs, PLAIN, in_keras_form(PLAIN), "float64").result()


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("on_tensorflow", "float64"),
        ("on_tensorflow", "float32"),
        ("on_tensorflow", "bfloat16"),
        ("on_torch", "float32"),
        ("on_torch", "float16"),
    ],
)
@pytest.mark.parametrize("stored", [np.float64, ml_dtypes.bfloat16, ">f4"])
def test_arrays_of_any_dtype_and_order_are_loaded(
    backend: str, dtype: str, stored: Any, request: pytest.FixtureRequest
) -> None:
    arrays = in_keras_form(DEEP)
    found = request.getfixturevalue(backend).submit(outputs, DEEP, arrays, dtype, stored).result()
    assert found["dtypes"] == {dtype}
    assert found["logits"].dtype == np.dtype(dtype)
    for name, array in arrays.items():
        expected = array.astype(stored).astype(dtype).astype(np.float64)
        np.testing.assert_array_equal(found["arrays"][name], expected, name)


def test_what_does_not_fit_is_refused(on_tensorflow: ProcessPoolExecutor) -> None:
    arrays = in_keras_form(PLAIN)
    arrays["block1.layer1.conv1/kernel"] = arrays["block1.layer1.conv1/kernel"].transpose(0, 1, 3, 2)
    arrays["predictions/kernel"] = arrays.pop("head.classifier/kernel")
    message = (
        "missing keys head.classifier/kernel; unexpected keys predictions/kernel; "
        "size mismatch for block1.layer1.conv1/kernel (1, 1, 16, 8) should be (1, 1, 8, 16)"
    )
    with pytest.raises(LayoutError, match=re.escape(message)):
        on_tensorflow.submit(outputs, PLAIN, arrays, "float32").result()


def difference_after_saving(config: DenseNetConfig, path: Path) -> float:
    """How far a twin is from itself, saved and loaded by Keras' own functions."""
    import keras

    from denseport.models import keras as twin

    model = twin.load(config, in_keras_form(config))
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
        again = twin.densenet(config)
        again.load_weights(path)
    else:
        model.save(path)
        again = keras.saving.load_model(path)
    batch = images(config, SIZES[config.dimensions][0])
    first, second = (keras.ops.convert_to_numpy(each(batch, training=False)) for each in (model, again))
    return apart(first, second)


@pytest.mark.parametrize("name", ["bottleneck", "blur", "blur-3d"])
@pytest.mark.parametrize("file", ["twin.keras", "twin.weights.h5"])
def test_keras_saves_and_loads_it(name: str, file: str, tmp_path: Path, on_tensorflow: ProcessPoolExecutor) -> None:
    assert on_tensorflow.submit(difference_after_saving, CONFIGS[name], tmp_path / file).result() == 0


def test_keras_saves_and_loads_its_weights_on_torch(tmp_path: Path, on_torch: ProcessPoolExecutor) -> None:
    assert on_torch.submit(difference_after_saving, PLAIN, tmp_path / "twin.weights.h5").result() == 0
