"""What a whole Keras model says of itself is read as data: traits are taken from it, and foreign things refused."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from densenets import SMALL, canonical_weights

import denseport
from denseport import formats
from denseport.checkpoint import Tensor
from denseport.errors import FormatError, LayoutError
from denseport.formats.keras import MAX_CONFIG_BYTES
from denseport.layouts import Weights, find_layout, from_canonical
from denseport.layouts.descriptions.keras import net
from denseport.layouts.descriptions.keras_functional import functional
from denseport.layouts.descriptions.net import DescribedNet

PLAIN = SMALL["four blocks"][0].replace(epsilon=1.001e-5)
BUILT_IN = {"module": "keras.initializers", "class_name": "HeNormal", "config": {"seed": None}, "registered_name": None}
# As Keras 3 and Keras 2 serialise `activation=lambda x: ...`.
LAMBDA = {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}, "module": "builtins"}
RELU_LAYER = {"module": "keras.layers", "class_name": "ReLU", "config": {"max_value": None, "negative_slope": 0.0}}


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}, "registered_name": None}


def model() -> dict[str, Any]:
    """The configuration of a small net, whose classifier ends in softmax."""
    whole = functional(PLAIN, find_layout("keras-applications"))
    whole["config"]["layers"][-1]["config"]["activation"] = "softmax"
    return whole


def _found(whole: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (each for each in whole["config"]["layers"] if each["config"]["name"] == name)
    return found


def changed(name: str, **config: Any) -> dict[str, Any]:
    """The model with other arguments of one layer."""
    whole = model()
    _found(whole, name)["config"].update(config)
    return whole


def reclassed(name: str, **facts: Any) -> dict[str, Any]:
    """The model with another class of one layer."""
    whole = model()
    _found(whole, name).update(facts)
    return whole


def read(config: dict[str, Any]) -> DescribedNet:
    found = net(config, lambda _: {})
    assert found is not None
    return found


def test_a_sound_model_says_its_traits() -> None:
    assert read(model()).traits == {
        "epsilon": 1.001e-5,
        "padding": "symmetric",
        "stem_stride": 2,
        "stem_pool": "max",
        "concatenation": "old-first",
        "final_activation": "relu",
        "activation": "relu",
        "negative_slope": 0.01,
        "transition_activation": "same",
        "head_pool": "mean",
        "head_activation": "softmax",
    }


def test_every_layer_with_weights_gets_its_canonical_name() -> None:
    names = find_layout("keras-applications").layer_names(PLAIN)
    assert {canonical: place.name for canonical, place in read(model()).places.items()} == names


REFUSED = {
    "another epsilon in one layer": (
        changed("conv2_block1_0_bn", epsilon=0.001),
        r"another epsilon than 1\.001e-05.*conv2_block1_0_bn \(0\.001\)",
    ),
    "an epsilon that is text": (changed("conv1_bn", epsilon="1e-5"), r"senseless epsilon: conv1_bn \(1e-5\)"),
    "an epsilon that is a truth value": (changed("conv1_bn", epsilon=True), r"senseless epsilon: conv1_bn \(True\)"),
    "no epsilon": (changed("bn", epsilon=None), r"senseless epsilon: bn \(None\)"),
    "an infinite epsilon": (changed("bn", epsilon=float("inf")), r"senseless epsilon: bn \(inf\)"),
    "an epsilon that is NaN": (changed("bn", epsilon=float("nan")), r"senseless epsilon: bn \(nan\)"),
    "a negative epsilon": (changed("bn", epsilon=-1e-5), r"senseless epsilon: bn \(-1e-05\)"),
    "an absurd momentum": (changed("conv2_block1_0_bn", momentum=7), r"senseless momentum: conv2_block1_0_bn \(7\)"),
    "a momentum that is a list": (
        changed("conv2_block1_0_bn", momentum=[0.9]),
        r"senseless momentum: conv2_block1_0_bn \(\[0\.9\]\)",
    ),
    "another activation": (changed("stem_relu", activation="swish"), r"activations that no.*: stem_relu \(silu\)"),
    "a lambda as activation": (changed("head_relu", activation=LAMBDA), r"code of others: head_relu \(activation: a l"),
    "a lambda of old as activation": (changed("stem_relu", activation="<lambda>"), r"stem_relu \(<lambda>\)"),
    "another package's activation": (changed("stem_relu", activation="mypkg>relu"), r"stem_relu \(mypkg>relu\)"),
    "an activation where none is": (
        changed("conv2_block1_1_conv", activation="relu"),
        r"activations that no DenseNet has there: conv2_block1_1_conv \(relu\)",
    ),
    "an activation of another module": (
        changed("stem_relu", activation={"module": "mypkg", "class_name": "function", "config": "relu"}),
        r"stem_relu \(activation: function of mypkg\)",
    ),
    "a bounded ReLU as activation": (
        changed("stem_relu", activation={"module": "keras.layers", "class_name": "ReLU", "config": {"max_value": 5}}),
        r"stem_relu \(relu \{'max_value': 5",
    ),
    "a bounded ReLU": (
        reclassed("stem_relu", class_name="ReLU", config={"name": "r6", "max_value": 6.0}),
        r"r6 \(relu6",
    ),
    "a leaky ReLU": (
        reclassed("stem_relu", class_name="ReLU", config={"name": "l", "negative_slope": 0.1}),
        r"l \(leaky-relu",
    ),
    "a sigmoid within the blocks": (changed("stem_relu", activation="sigmoid"), r"stem_relu \(sigmoid\)"),
    "a lambda as initialiser": (
        changed("conv2_block1_1_conv", kernel_initializer=LAMBDA),
        "code of others: conv2_block1_1_conv .*a lambda",
    ),
    "another package's regulariser": (
        changed("conv2_block1_1_conv", kernel_regularizer="mypkg>L0"),
        r"conv2_block1_1_conv \(mypkg>L0\)",
    ),
    "another module's constraint": (
        changed("conv2_block1_1_conv", bias_constraint={"module": "mypkg.c", "class_name": "Sparse", "config": {}}),
        r"conv2_block1_1_conv \(bias_constraint: Sparse of mypkg\)",
    ),
    "code deep within arguments": (
        changed("conv2_block1_1_conv", kernel_initializer={**BUILT_IN, "config": {"of": [{"inner": LAMBDA}]}}),
        "code of others: conv2_block1_1_conv .*a lambda",
    ),
    "a Lambda layer": (
        reclassed("stem_pool", class_name="Lambda"),
        r"layers that no DenseNet has: stem_pool \(Lambda\)",
    ),
    "another package's layer": (
        reclassed("conv2_block1_1_conv", registered_name="mypkg>Conv2D"),
        r"conv2_block1_1_conv \(Conv2D\)",
    ),
    "another package's layer in the old way": (
        reclassed("conv2_block1_1_conv", class_name="mypkg>Conv2D"),
        r"conv2_block1_1_conv \(Conv2D\)",
    ),
    "another module's layer": (
        reclassed("conv2_block1_1_conv", module="keras_evil.layers"),
        r"conv2_block1_1_conv \(Conv2D\)",
    ),
    "a Lambda layer in an inner model": (
        reclassed("stem_pool", class_name="Functional", config={"name": "in", "layers": [layer("Lambda", "evil")]}),
        r"evil \(Lambda\)",
    ),
    "a Lambda layer in a backbone": (
        {
            "class_name": "ImageClassifier",
            "config": {"backbone": {"class_name": "Functional", "config": {"layers": [layer("Lambda", "evil")]}}},
        },
        r"evil \(Lambda\)",
    ),
    "strides that are no numbers": (
        changed("conv1_conv", strides=["2", "2"]),
        "strides are no whole numbers: conv1_conv",
    ),
    "a stride within the blocks": (
        changed("conv2_block1_1_conv", strides=[2, 2]),
        r"strides that no.*: conv2_block1_1_conv \(\[2, 2\]\)",
    ),
    "a dilation": (
        changed("conv2_block1_1_conv", dilation_rate=[2, 2]),
        r"dilated.*: conv2_block1_1_conv \(\[2, 2\]\)",
    ),
    "a stride beyond reason": (changed("conv1_conv", strides=[1000, 1000]), "stem_stride"),
    "a transposed convolution": (
        reclassed("conv1_conv", class_name="Conv2DTranspose"),
        r"conv1_conv \(Conv2DTranspose\)",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_change_the_function_or_needs_code_is_refused_by_the_layer_s_name(what: str) -> None:
    config, message = REFUSED[what]
    with pytest.raises(LayoutError, match=message) as error:
        read(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        changed("stem_relu", activation=RELU_LAYER),
        changed("stem_relu", activation={"module": "builtins", "class_name": "function", "config": "relu"}),
        changed("predictions", activation="sigmoid"),
        changed("predictions", activation=None),
        changed(
            "conv2_block1_1_conv", kernel_initializer="he_normal", kernel_regularizer=None, bias_initializer=BUILT_IN
        ),
        changed(
            "conv2_block1_1_conv",
            kernel_initializer={"module": "builtins", "class_name": "function", "config": "my_own"},
        ),
        reclassed("stem_relu", class_name="ReLU", config={"name": "r", "max_value": None, "negative_slope": 0.0}),
        changed("conv2_block1_0_bn", momentum=0),
    ],
)
def test_what_is_keras_own_or_changes_nothing_is_read(config: dict[str, Any]) -> None:
    assert read(config).traits["epsilon"] == 1.001e-5


def test_an_activation_that_is_keras_own_function_is_a_relu() -> None:
    config = changed("head_relu", activation=RELU_LAYER)
    assert read(config).traits["final_activation"] == "relu"
    assert read(changed("head_relu", activation="linear")).traits["final_activation"] == "none"


def followed(kind: str, **config: Any) -> dict[str, Any]:
    """The model with a layer behind its logits."""
    whole = model()
    last = whole["config"]["layers"][-1]
    last["config"]["activation"] = "linear"
    logits = {"shape": [None, 10], "dtype": "float32", "keras_history": [last["config"]["name"], 0, 0]}
    taken = [{"args": [{"class_name": "__keras_tensor__", "config": logits}], "kwargs": {}}]
    whole["config"]["layers"].append({**layer(kind, "behind", **config), "name": "behind", "inbound_nodes": taken})
    whole["config"]["output_layers"] = ["behind", 0, 0]
    return whole


@pytest.mark.parametrize("kind", ["Softmax", "UnitNormalization"])
def test_what_goes_over_another_axis_than_features_is_refused(kind: str) -> None:
    assert read(followed("Softmax", axis=-1)).traits["head_activation"] == "softmax"
    assert read(followed("UnitNormalization", axis=[-1])).traits["head_activation"] == "none"
    with pytest.raises(LayoutError, match=r"behind \((softmax over axis 0|0)\)"):
        read(followed(kind, axis=0))


def test_a_stem_may_have_a_stride_for_each_axis() -> None:
    assert read(changed("conv1_conv", strides=[2, 1])).traits["stem_stride"] == (2, 1)


def test_at_most_twenty_layers_are_named() -> None:
    whole = model()
    whole["config"]["layers"] += [layer("Lambda", f"lambda{n}") for n in range(49)]
    with pytest.raises(LayoutError, match="and 29 more"):
        read(whole)


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


def weights_file(path: Path, layers: list[str], more: Mapping[str, tuple[int, ...]]) -> Path:
    """A legacy file of weights of a small net, with layers without weights and layers beside it."""
    layout = find_layout("keras-applications")
    canonical = {name: Tensor.of(array) for name, array in canonical_weights(PLAIN).items()}
    tensors = from_canonical(Weights(PLAIN, canonical), layout, layout.frameworks[0])
    formats.write(
        {**tensors, **{name: Tensor.of(np.ones(shape, "f4")) for name, shape in more.items()}}, {}, path, "h5"
    )
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = np.array([*(name.encode() for name in layers), *file.attrs["layer_names"]])
        for name in layers:
            file.create_group(name).attrs["weight_names"] = np.array([], "S1")
    return path


@pytest.mark.parametrize(
    "name", ["rescaling", "normalization_1", "resizing", "lambda_2", "tf.math.truediv", "multiply", "add_1"]
)
def test_a_file_of_weights_whose_model_computes_more_says_so(tmp_path: Path, name: str) -> None:
    source = weights_file(tmp_path / "a.h5", ["input_1", name, "random_flip", "activation"], {})
    notes = denseport.convert(source, tmp_path / "b.pth", verify=False).notes
    assert [note for note in notes if f"has {name}, and" in note and "give the whole model (.keras)" in note]


def test_layers_without_an_effect_of_their_own_are_not_mentioned(tmp_path: Path) -> None:
    source = weights_file(tmp_path / "a.h5", ["input_1", "random_flip", "batch_norm", "my_rescaling", "dropout"], {})
    assert not [note for note in denseport.convert(source, tmp_path / "b.pth", verify=False).notes if "has" in note]


@pytest.mark.parametrize(("pool", "stated"), [("max", "max"), ("average", "mean")])
def test_the_pool_that_a_file_of_weights_lists_is_the_net_s(tmp_path: Path, pool: str, stated: str) -> None:
    source = weights_file(tmp_path / "a.h5", [f"global_{pool}_pooling2d"], {})
    found = denseport.inspect(source)
    assert found.config.traits.head_pool == stated
    assert found.origins["head_pool"] == "stated"


@pytest.mark.parametrize("statistics", [("mean", "variance"), ("gamma", "beta", "moving_mean", "moving_variance")])
def test_what_normalises_images_is_not_dropped_with_a_head(tmp_path: Path, statistics: tuple[str, ...]) -> None:
    source = weights_file(tmp_path / "a.h5", [], {f"before/{name}": (3,) for name in statistics})
    with pytest.raises(LayoutError, match=r"before normalises the model's images.*give the whole model \(\.keras\)"):
        denseport.convert(source, tmp_path / "b.pth", head="drop", verify=False)
