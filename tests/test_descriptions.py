"""What a whole Keras model says of itself is read as data: traits are taken from it, and foreign things refused."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import pytest
from densenets import SMALL, canonical_weights

import denseport
from denseport import formats
from denseport.checkpoint import Tensor
from denseport.errors import FormatError, LayoutError
from denseport.formats.keras import MAX_CONFIG_BYTES
from denseport.layouts import Weights, find_layout, from_canonical
from denseport.layouts.descriptions.keras import model_layers, stated

PLAIN = SMALL["four blocks"][0]
FILE = "somebody's model"
BUILT_IN = {"module": "keras.initializers", "class_name": "HeNormal", "config": {"seed": None}, "registered_name": None}
# As Keras 3 and Keras 2 serialise `activation=lambda x: ...`.
LAMBDA = {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}, "module": "builtins"}
RELU_LAYER = {"module": "keras.layers", "class_name": "ReLU", "config": {"max_value": None, "negative_slope": 0.0}}


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}, "registered_name": None}


def model() -> dict[str, Any]:
    """The configuration of a small net, of each class of layers a few."""
    layers = [
        layer("ZeroPadding2D", "pad"),
        layer("Conv2D", "stem", strides=[2, 2], padding="valid", dilation_rate=[1, 1], activation="linear"),
        layer("BatchNormalization", "bn1", epsilon=1.001e-5, momentum=0.99),
        layer("Activation", "act1", activation="relu"),
        layer("MaxPooling2D", "pool"),
        layer("BatchNormalization", "bn2", epsilon=1.001e-5, momentum=0.99),
        layer("Conv2D", "conv", strides=[1, 1], kernel_initializer=BUILT_IN),
        layer("Concatenate", "join"),
        layer("BatchNormalization", "bn3", epsilon=1.001e-5, momentum=0.99),
        layer("Activation", "act2", activation="relu"),
        layer("Dense", "out", activation="softmax"),
    ]
    return {"module": "keras", "class_name": "Functional", "config": {"name": "net", "layers": layers}}


def changed(name: str, **config: Any) -> dict[str, Any]:
    """The model with other arguments of one layer."""
    whole = model()
    (found,) = (each for each in whole["config"]["layers"] if each["config"]["name"] == name)
    found["config"].update(config)
    return whole


def reclassed(name: str, **facts: Any) -> dict[str, Any]:
    """The model with another class of one layer."""
    whole = model()
    (found,) = (each for each in whole["config"]["layers"] if each["config"]["name"] == name)
    found.update(facts)
    return whole


def stated_traits(config: dict[str, Any]) -> Mapping[str, Any]:
    return stated(config, FILE).traits


def test_a_sound_model_says_its_traits() -> None:
    assert stated_traits(model()) == {
        "epsilon": 1.001e-5,
        "padding": "symmetric",
        "stem_stride": 2,
        "stem_pool": "max",
        "final_activation": "relu",
    }


def test_keras_1_calls_padding_and_strides_otherwise() -> None:
    stem = {"class_name": "Convolution2D", "config": {"name": "a", "border_mode": "same", "subsample": [1, 1]}}
    traits = stated_traits({"class_name": "Sequential", "config": [stem]})
    assert (traits["padding"], traits["stem_stride"]) == ("same", 1)


REFUSED = {
    "another epsilon in one layer": (changed("bn2", epsilon=0.001), r"another epsilon than 1\.001e-05.*bn2 \(0\.001\)"),
    "an epsilon that is text": (changed("bn1", epsilon="1e-5"), r"senseless epsilon: bn1 \(1e-5\)"),
    "an epsilon that is a truth value": (changed("bn1", epsilon=True), r"senseless epsilon: bn1 \(True\)"),
    "no epsilon": (changed("bn3", epsilon=None), r"senseless epsilon: bn3 \(None\)"),
    "an infinite epsilon": (changed("bn3", epsilon=float("inf")), r"senseless epsilon: bn3 \(inf\)"),
    "an epsilon that is NaN": (changed("bn3", epsilon=float("nan")), r"senseless epsilon: bn3 \(nan\)"),
    "a negative epsilon": (changed("bn3", epsilon=-1e-5), r"senseless epsilon: bn3 \(-1e-05\)"),
    "an absurd momentum": (changed("bn2", momentum=7), r"senseless momentum: bn2 \(7\)"),
    "a momentum that is a list": (changed("bn2", momentum=[0.9]), r"senseless momentum: bn2 \(\[0\.9\]\)"),
    "another activation": (changed("act1", activation="swish"), r"activations that no.*: act1 \(swish\)"),
    "a lambda as activation": (changed("act2", activation=LAMBDA), r"activations that no.*: act2 \("),
    "a lambda of old as activation": (changed("stem", activation="<lambda>"), r"stem \(<lambda>\)"),
    "another package's activation": (changed("conv", activation="mypkg>relu"), r"conv \(mypkg>relu\)"),
    "an activation of another module": (
        changed("conv", activation={"module": "mypkg", "class_name": "function", "config": "relu"}),
        r"conv \(\{",
    ),
    "a bounded ReLU as activation": (
        changed("conv", activation={"module": "keras.layers", "class_name": "ReLU", "config": {"max_value": 6}}),
        r"conv \(relu \{'max_value': 6",
    ),
    "a bounded ReLU": (reclassed("act1", class_name="ReLU", config={"name": "r6", "max_value": 6.0}), r"r6 \(relu"),
    "a leaky ReLU": (reclassed("act1", class_name="ReLU", config={"name": "l", "negative_slope": 0.1}), r"l \(relu"),
    "a sigmoid within the blocks": (changed("act1", activation="sigmoid"), r"act1 \(sigmoid\)"),
    "a lambda as initialiser": (changed("conv", kernel_initializer=LAMBDA), "code of others: conv .*a lambda"),
    "another package's regulariser": (changed("conv", kernel_regularizer="mypkg>L0"), r"conv \(mypkg>L0\)"),
    "another module's constraint": (
        changed("conv", bias_constraint={"module": "mypkg.c", "class_name": "Sparse", "config": {}}),
        r"conv \(bias_constraint: Sparse of mypkg\)",
    ),
    "code deep within arguments": (
        changed("conv", kernel_initializer={**BUILT_IN, "config": {"of": [{"inner": LAMBDA}]}}),
        "code of others: conv .*a lambda",
    ),
    "a Lambda layer": (reclassed("pool", class_name="Lambda"), r"layers that no DenseNet has: pool \(Lambda\)"),
    "another package's layer": (reclassed("conv", registered_name="mypkg>Conv2D"), r"conv \(Conv2D\)"),
    "another package's layer in the old way": (reclassed("conv", class_name="mypkg>Conv2D"), r"conv \(Conv2D\)"),
    "another module's layer": (reclassed("conv", module="keras_evil.layers"), r"conv \(Conv2D\)"),
    "a Lambda layer in an inner model": (
        reclassed("pool", class_name="Functional", config={"name": "in", "layers": [layer("Lambda", "evil")]}),
        r"evil \(Lambda\)",
    ),
    "a Lambda layer in a backbone": (
        {
            "class_name": "ImageClassifier",
            "config": {"backbone": {"class_name": "Functional", "config": {"layers": [layer("Lambda", "evil")]}}},
        },
        r"evil \(Lambda\)",
    ),
    "unequal strides": (changed("stem", strides=[2, 1]), r"unequal strides: stem \(\[2, 1\]\)"),
    "strides that are no numbers": (changed("stem", strides=["2", "2"]), "strides are no whole numbers: stem"),
    "a stride within the blocks": (changed("conv", strides=[2, 2]), r"strides that no.*: conv \(\[2, 2\]\)"),
    "a dilation": (changed("conv", dilation_rate=[2, 2]), r"dilated.*: conv \(\[2, 2\]\)"),
    "a stride beyond reason": (changed("stem", strides=[1000, 1000]), "stem_stride"),
    "a transposed convolution": (reclassed("stem", class_name="Conv2DTranspose"), r"stem \(Conv2DTranspose\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_change_the_function_or_needs_code_is_refused_by_the_layer_s_name(what: str) -> None:
    config, message = REFUSED[what]
    with pytest.raises(LayoutError, match=message) as error:
        stated_traits(config)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{FILE}: ")


@pytest.mark.parametrize(
    "config",
    [
        changed("act1", activation=RELU_LAYER),
        changed("act1", activation={"module": "builtins", "class_name": "function", "config": "relu"}),
        changed("out", activation="sigmoid"),
        changed("out", activation=None),
        changed("conv", kernel_initializer="he_normal", kernel_regularizer=None, bias_initializer=BUILT_IN),
        changed("conv", kernel_initializer={"module": "builtins", "class_name": "function", "config": "my_own"}),
        reclassed("act1", class_name="ReLU", config={"name": "r", "max_value": None, "negative_slope": 0.0}),
        reclassed("conv", class_name="keras_hub>DenseNetBackbone", module=None),
        changed("bn2", momentum=0),
    ],
)
def test_what_is_keras_own_or_changes_nothing_is_read(config: dict[str, Any]) -> None:
    assert len(model_layers(config)) == 12
    assert stated_traits(config)["epsilon"] == 1.001e-5


def test_an_activation_that_is_keras_own_function_is_a_relu() -> None:
    config = changed("act2", activation=RELU_LAYER)
    assert stated_traits(config)["final_activation"] == "relu"
    assert stated_traits(changed("act2", activation="linear"))["final_activation"] == "none"


def test_at_most_twenty_layers_are_named() -> None:
    layers = [layer("BatchNormalization", f"bn{n}", epsilon=1e-5 * (1 + n % 2)) for n in range(99)]
    with pytest.raises(LayoutError, match="and 29 more"):
        stated_traits({"class_name": "Sequential", "config": layers})


def saved(path: Path, config: dict[str, Any]) -> Path:
    """Sound weights of a small net as a whole model with this configuration."""
    layout = find_layout("keras-applications")
    canonical = {name: Tensor.of(array) for name, array in canonical_weights(PLAIN).items()}
    tensors = from_canonical(Weights(PLAIN, canonical), layout, layout.frameworks[0])
    text = json.dumps(config)
    if path.suffix == ".h5":
        formats.write(tensors, {}, path, "h5")
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = text
        return path
    weights = path.with_name("model.weights.h5")
    formats.write(tensors, {}, weights, "h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", text)
        archive.write(weights, weights.name)
    weights.unlink()
    return path


@pytest.mark.parametrize("name", ["x.h5", "x.keras"])
def test_a_whole_model_is_converted_or_refused_in_one_line_though_its_weights_fit(
    tmp_path: Path, name: str, denseport: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    target = tmp_path / "y.pth"
    done = denseport("convert", "--no-verify", saved(tmp_path / name, model()), target)
    assert done.returncode == 0, done.stderr
    target.unlink()
    for what in ("a Lambda layer", "another epsilon in one layer", "an infinite epsilon", "a lambda as activation"):
        source = saved(tmp_path / name, REFUSED[what][0])
        done = denseport("convert", "--no-verify", source, target)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert str(source) in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["x.h5", "x.keras"])
def test_a_configuration_far_longer_than_any_is_refused(tmp_path: Path, name: str) -> None:
    config = {**model(), "more": "x" * MAX_CONFIG_BYTES}
    with pytest.raises(FormatError, match=r"(longer|more) than the 4194304 "):
        denseport.inspect(saved(tmp_path / name, config))


@pytest.mark.parametrize("name", ["x.h5", "x.keras"])
def test_the_epsilon_of_a_whole_model_is_the_net_s(tmp_path: Path, name: str) -> None:
    config = model()
    for each in config["config"]["layers"]:
        if each["class_name"] == "BatchNormalization":
            each["config"]["epsilon"] = 0.002
    assert denseport.inspect(saved(tmp_path / name, config)).config.traits.epsilon == 0.002
