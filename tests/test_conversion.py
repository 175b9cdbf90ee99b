"""What a conversion changes and what it refuses: heads, traits, epsilons, dtypes, and a source that changes."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from densenets import CIFAR, SMALL, canonical_weights
from hypothesis import given, settings
from hypothesis import strategies as st

import denseport
from denseport import formats, layouts
from denseport.checkpoint import Checkpoint, Tensor
from denseport.layouts import Weights, detect, find_layout, from_canonical, known_layouts, to_canonical
from denseport.layouts.derive import derive
from denseport.layouts.descriptions.keras_functional import functional
from denseport.metadata import recorded_preprocessing
from denseport.net.config import DenseNetConfig
from denseport.preprocessing import PREPROCESSING
from denseport.source import Source, sha256

PLAIN = SMALL["four blocks"][0]


def written(path: Path, config: DenseNetConfig, layout: str, **more: np.ndarray) -> Path:
    """A file of a net in a layout, with more arrays beside it."""
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(config).items()}
    chosen = find_layout(layout)
    framework = chosen.framework_for("keras" if path.suffix == ".h5" else "torch")
    own = from_canonical(Weights(config, tensors), chosen, framework)
    denseport.write(Checkpoint({**own, **{name: Tensor.of(array) for name, array in more.items()}}), path)
    return path


def arrays(path: Path) -> dict[str, np.ndarray]:
    with denseport.read(path) as checkpoint:
        return {name: np.array(tensor.read()) for name, tensor in checkpoint.tensors.items()}


def test_a_new_head_has_zeros_for_as_many_classes(tmp_path: Path) -> None:
    source = written(tmp_path / "a.pth", PLAIN, "torchvision")
    report = denseport.convert(source, tmp_path / "b.pth", classes=3, verify=False)
    assert report.config.num_classes == 3
    head = arrays(tmp_path / "b.pth")["classifier.weight"]
    assert head.shape == (3, PLAIN.features)
    assert not head.any()


def test_layers_that_are_no_head_are_listed_and_left_out_on_request(tmp_path: Path) -> None:
    body = SMALL["no classifier"][0]
    head = {
        "classifier.0.weight": np.zeros((9, body.features), np.float32),
        "classifier.0.bias": np.zeros(9, np.float32),
        "classifier.3.weight": np.zeros((4, 8), np.float32),
        "classifier.3.bias": np.zeros(4, np.float32),
    }
    source = written(tmp_path / "a.pth", body, "torchvision", **head)
    with pytest.raises(
        denseport.LayoutError, match=r"unexpected keys classifier\.0\.weight.*classifier\.3\.bias;.*--head drop"
    ):
        denseport.convert(source, tmp_path / "b.h5", verify=False)
    report = denseport.convert(source, tmp_path / "b.h5", head="drop", device="cpu")
    assert any("left out: classifier.0.weight" in note for note in report.notes)
    assert not [name for name in arrays(tmp_path / "b.h5") if "classifier" in name]


@pytest.mark.parametrize("name", ["classifier.3", "last_linear", "fc"])
def test_a_head_of_one_layer_is_kept_under_any_name(tmp_path: Path, name: str) -> None:
    config = SMALL["no classifier"][0]
    kernel = np.arange(4 * config.features, dtype=np.float32).reshape(4, -1)
    head = {f"{name}.weight": kernel, f"{name}.bias": np.arange(4, dtype=np.float32)}
    source = written(tmp_path / "a.pth", config, "torchvision", **head)
    report = denseport.convert(source, tmp_path / "b.h5", to_layout="denseport", verify=False)
    assert any(f"{name} was taken for the classifier" in note for note in report.notes)
    np.testing.assert_array_equal(arrays(tmp_path / "b.h5")["head.classifier/kernel"], kernel.T)


def test_a_flattened_head_has_its_rows_in_the_order_in_which_keras_flattens(tmp_path: Path) -> None:
    config = SMALL["flattened head"][0]
    source = written(tmp_path / "a.pth", config, "torchvision")
    report = denseport.convert(source, tmp_path / "b.h5", to_layout="denseport", device="cpu")
    assert report.parity is not None
    assert report.parity.passed
    denseport.convert(source, tmp_path / "headless.h5", head="drop", device="cpu")
    torch_kernel = arrays(source)["classifier.weight"].reshape(10, config.features, 3, 3)
    keras_kernel = arrays(tmp_path / "b.h5")["head.classifier/kernel"].reshape(3, 3, config.features, 10)
    np.testing.assert_array_equal(keras_kernel, torch_kernel.transpose(2, 3, 1, 0))


KERAS_HUB = DenseNetConfig.bc(8, (2, 3, 1, 2), 64, num_classes=10)


def test_a_target_that_computes_something_else_is_named_before_writing(tmp_path: Path) -> None:
    source = written(tmp_path / "a.pth", KERAS_HUB, "torchvision")
    with pytest.raises(
        denseport.LayoutError, match=r"keras-hub has padding same, this net has symmetric.*--allow-trait"
    ):
        denseport.convert(source, tmp_path / "b.h5", to_layout="keras-hub", verify=False)
    assert not (tmp_path / "b.h5").exists()
    report = denseport.convert(
        source, tmp_path / "b.h5", to_layout="keras-hub", allow_trait_mismatch=True, device="cpu"
    )
    assert report.parity is not None
    assert report.parity.passed
    even, odd, _ = report.parity.comparisons
    assert even.trait_error is not None
    assert odd.trait_error is not None
    assert even.trait_error > 1e-3
    assert odd.trait_error < 1e-5
    assert any("padding" in note for note in report.notes)


def test_a_default_target_that_computes_something_else_gives_way(tmp_path: Path) -> None:
    source = written(tmp_path / "a.h5", KERAS_HUB, "keras-hub")
    report = denseport.convert(source, tmp_path / "b.pth", verify=False)
    assert report.target_layout == "denseport"
    with denseport.read(tmp_path / "b.pth") as checkpoint:
        assert json.loads(checkpoint.metadata["traits"])["padding"] == "same"
    assert denseport.inspect(tmp_path / "b.pth").config.traits.padding == "same"


def test_epsilon_moves_into_the_variances_on_request(tmp_path: Path) -> None:
    source = written(tmp_path / "a.pth", PLAIN, "torchvision")
    with pytest.raises(denseport.LayoutError, match="--compensate-epsilon"):
        denseport.convert(source, tmp_path / "b.h5", to_layout="flyyufelix", verify=False)
    denseport.convert(source, tmp_path / "b.h5", to_layout="flyyufelix", compensate_epsilon=True, verify=False)
    before, after = arrays(source), arrays(tmp_path / "b.h5")
    moved = after["conv1_bn/moving_variance"].astype(float) - before["features.norm0.running_var"]
    np.testing.assert_allclose(moved, 1e-5 - 1.1e-5, atol=1e-7)
    assert denseport.verify(source, tmp_path / "b.h5", device="cpu").relative_error < 2e-6


def test_an_epsilon_that_would_make_a_variance_negative_is_refused(tmp_path: Path) -> None:
    config = PLAIN.replace(epsilon=1e-5)
    arrays_ = canonical_weights(config)
    arrays_["head.norm.running_var"][3] = 1e-9
    source = tmp_path / "a.pth"
    denseport.write(Checkpoint({name: Tensor.of(array) for name, array in arrays_.items()}), source)
    with pytest.raises(denseport.UsageError, match=r"head\.norm\.running_var would become negative"):
        denseport.convert(source, tmp_path / "b.h5", to_layout="flyyufelix", compensate_epsilon=True, verify=False)


def test_a_dtype_too_narrow_for_a_value_is_refused_by_name(tmp_path: Path) -> None:
    arrays_ = canonical_weights(PLAIN)
    arrays_["stem.norm.running_var"][0] = 2.8e5
    denseport.write(Checkpoint({n: Tensor.of(a) for n, a in arrays_.items()}), tmp_path / "a.pth")
    with pytest.raises(denseport.UsageError, match=r"stem\.norm\.running_var has values beyond the range of float16"):
        denseport.convert(tmp_path / "a.pth", tmp_path / "b.pth", dtype="float16", verify=False)
    denseport.convert(tmp_path / "a.pth", tmp_path / "b.pth", dtype="bfloat16", verify=False)


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from denseport import formats

    source = written(tmp_path / "a.safetensors", PLAIN, "torchvision")
    honest = formats.write

    def slow(*arguments: Any, **more: Any) -> None:
        honest(*arguments, **more)
        source.touch()

    monkeypatch.setattr(formats, "write", slow)
    with pytest.raises(denseport.FormatError, match="changed while it was read"):
        denseport.convert(source, tmp_path / "b.safetensors", verify=False)
    assert not (tmp_path / "b.safetensors").exists()


def test_metadata_of_the_source_is_kept_and_the_conversion_recorded(tmp_path: Path) -> None:
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(PLAIN).items()}
    denseport.write(Checkpoint(tensors, {"author": "someone", "layout": "stale"}), tmp_path / "a.safetensors")
    report = denseport.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", verify=False)
    with denseport.read(tmp_path / "b.safetensors") as checkpoint:
        metadata = checkpoint.metadata
    assert metadata["author"] == "someone"
    assert (metadata["format"], metadata["layout"]) == ("pt", "torchvision")
    assert metadata["source_sha256"] == report.source_sha256
    assert metadata["variant"] == report.variant


@pytest.mark.parametrize(
    "recorded", ["{", "[]", '{"epsilon": "x"}', '{"epsilon": -1}', '{"nonsense": 1}', "[" * 100_000]
)
def test_recorded_traits_that_make_no_sense_are_refused(tmp_path: Path, recorded: str) -> None:
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(PLAIN).items()}
    metadata = {"layout": "denseport", "traits": recorded}
    denseport.write(Checkpoint(tensors, metadata), tmp_path / "a.safetensors")
    with pytest.raises(denseport.LayoutError, match="recorded traits"):
        denseport.convert(tmp_path / "a.safetensors", tmp_path / "b.pth", verify=False)


TORCH_LAYOUTS = [n for n, layout in known_layouts().items() if layout.frameworks[0].name == "torch" and layout.detected]


@pytest.mark.parametrize("layout", TORCH_LAYOUTS)
def test_derive_finds_the_names_of_renamed_copies(tmp_path: Path, layout: str) -> None:
    net = next(config for config, spelled_by in SMALL.values() if layout in spelled_by)
    renamed = {
        "weight": "weight",
        "features": "trunk",
        "dense": "thick",
        "conv": "filter",
        "norm": "scaler",
        "bn": "nb",
    }

    def rename(name: str) -> str:
        layer, _, parameter = name.rpartition(".")
        for old, new in renamed.items():
            layer = layer.replace(old, new)
        return f"{layer}.{parameter}"

    own = arrays(written(tmp_path / "own.pth", net, layout))
    copy = {rename(name): Tensor.of(array) for name, array in own.items()}
    denseport.write(Checkpoint(copy), tmp_path / "copy.pth")
    traits = {name: getattr(net.traits, name) for name in ("stem_stride", "stem_pool")}
    options: dict[str, Any] = {"to_layout": "denseport", "verify": False}
    report = denseport.convert(tmp_path / "copy.pth", tmp_path / "y.pth", traits=traits, **options)
    assert report.source_layout == "by-shape"
    (tmp_path / "mine.toml").write_text(denseport.derive(tmp_path / "copy.pth"))
    derived, shipped = find_layout(tmp_path / "mine.toml"), known_layouts()[layout]
    expected = {role: rename(f"{own[0].text}.x")[:-2] for role, own in shipped.names.items() if role in derived.names}
    assert {role: own[0].text for role, own in derived.names.items()} == expected
    denseport.convert(tmp_path / "copy.pth", tmp_path / "x.pth", from_layout=tmp_path / "mine.toml", **options)
    if layout != "kuangliu":  # of random statistics no order shows
        by_shape, by_layout = (arrays(tmp_path / name) for name in ("y.pth", "x.pth"))
        assert all(np.array_equal(by_shape[name], array) for name, array in by_layout.items())


def test_derive_says_which_layer_breaks_the_pattern(tmp_path: Path) -> None:
    own = canonical_weights(PLAIN)
    name = "block2.layer2.conv2.weight"
    own[name] = own[name][:5]
    denseport.write(Checkpoint({n: Tensor.of(a) for n, a in own.items()}), tmp_path / "a.pth")
    with pytest.raises(denseport.LayoutError, match=r"block2\.layer2\.conv2 adds 5 channels, where .* adds 8"):
        denseport.derive(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frameworks = [ =", "is not TOML.*line 1"),
        ("frameworks = ['torch']", "names is missing"),
        ("frameworks = ['tensorflow']\n[names]\n'stem.conv' = 'a'", r"frameworks must list.*\(line 1\)"),
        ("frameworks = ['torch']\nnonsense = 1", r"nonsense is no key of a layout.*\(line 2\)"),
        (
            "frameworks = ['torch']\n[names]\n'stem.convolution' = 'a'",
            r"stem\.convolution is no key of \[names\].*line 3",
        ),
        ("frameworks = ['torch']\n[names]\n'stem.conv' = 3", r"stem\.conv must be a string.*line 3"),
        ("frameworks = ['torch']\n[names]\n'stem.conv' = 'a{b}'", "same indices on both sides.*line 3"),
        ("frameworks = ['torch']\n[names]\n'transition{t}.conv' = 'a{x}'", "a brace that is no.*line 3"),
        ("frameworks = ['torch']\n[names]\n'transition{t}.conv' = 'a{t-2}'", "lowest shift is -1.*line 3"),
        (
            "frameworks = ['torch']\n[names]\n'block{b}.layer{l}.conv1' = 'a{b}{l}'",
            "other than a digit between.*line 3",
        ),
        ("frameworks = ['torch']\n[names]\n'stem.conv' = 'a'\n[traits]\nepsilon = 'x'", r"\[traits\]: trait epsilon"),
        (
            "frameworks = ['torch']\n[names]\n'stem.conv' = 'a'\n[architecture]\nstem_kernel = 'x'",
            "must be a int.*line 5",
        ),
        ("extends = '../../etc/passwd'", "extends must name another layout"),
        ("extends = 'nonsense'", "extends must name another layout.*not nonsense.*line 1"),
        ("extends = 'mine'", "must name another layout"),
        ("extends = 'torchvision'\ncounters = 1", "counters must be true or false.*line 2"),
    ],
)
def test_a_layout_file_that_is_wrong_is_refused_by_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(denseport.LayoutError, match=message) as caught:
        find_layout(tmp_path / "mine.toml")
    assert "mine.toml" in str(caught.value)


def test_theanos_kernels_are_verified_by_keras(tmp_path: Path) -> None:
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(SMALL["CIFAR"][0]).items()}
    theano = find_layout("keras-contrib").framework_for("theano")
    own = from_canonical(Weights(SMALL["CIFAR"][0], tensors), find_layout("keras-contrib"), theano)
    denseport.write(Checkpoint(own), tmp_path / "a.h5")
    report = denseport.convert(tmp_path / "a.h5", tmp_path / "b.pth", device="cpu")
    assert report.parity is not None
    assert (report.parity.a.framework, report.parity.b.framework) == ("keras", "torch")
    np.testing.assert_array_equal(
        arrays(tmp_path / "b.pth")["stem.conv.weight"], canonical_weights(SMALL["CIFAR"][0])["stem.conv.weight"]
    )


@pytest.mark.parametrize("value", [np.zeros(5, np.int64), np.zeros(1, np.int64), np.array(np.nan, np.float32)])
def test_a_step_counter_that_is_no_number_is_refused(tmp_path: Path, value: np.ndarray) -> None:
    source = written(tmp_path / "a.pth", PLAIN, "torchvision")
    own = arrays(source) | {"features.norm0.num_batches_tracked": value}
    denseport.write(Checkpoint({n: Tensor.of(a) for n, a in own.items()}), tmp_path / "b.pth")
    for target in ("c.pth", "c.h5"):
        with pytest.raises(denseport.LayoutError, match=r"features\.norm0\.num_batches_tracked"):
            denseport.convert(tmp_path / "b.pth", tmp_path / target, verify=False)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    own = canonical_weights(PLAIN) | {"head.classifier.bias": np.ones(10, np.int8)}
    denseport.write(Checkpoint({n: Tensor.of(a) for n, a in own.items()}), tmp_path / "a.pth")
    with pytest.raises(denseport.LayoutError, match=r"whole numbers where weights should be: head\.classifier\.bias"):
        denseport.convert(tmp_path / "a.pth", tmp_path / "b.pth", verify=False)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stem.conv.weight", np.nan, "NaN or Inf in stem.conv.weight"),
        ("head.norm.running_mean", np.inf, "NaN or Inf in head.norm.running_mean"),
        ("stem.norm.running_var", -1, "negative variances in stem.norm.running_var"),
    ],
)
def test_unsound_weights_are_refused_unless_allowed(tmp_path: Path, name: str, value: float, message: str) -> None:
    own = canonical_weights(PLAIN)
    own[name].flat[0] = value
    denseport.write(Checkpoint({n: Tensor.of(a) for n, a in own.items()}), tmp_path / "a.pth")
    with pytest.raises(denseport.UsageError, match=f"{message}.*--allow-nonfinite"):
        denseport.convert(tmp_path / "a.pth", tmp_path / "b.pth", verify=False)
    suspicion = denseport.inspect(tmp_path / "a.pth").suspicion
    assert suspicion is not None
    assert name in (*suspicion.nonfinite, *suspicion.negative_variance)
    denseport.convert(tmp_path / "a.pth", tmp_path / "b.pth", allow_nonfinite=True, verify=False)


def test_nan_does_not_hide_that_another_value_is_too_large(tmp_path: Path) -> None:
    own = canonical_weights(PLAIN)
    own["stem.norm.running_mean"][:2] = np.nan, 1e6
    denseport.write(Checkpoint({n: Tensor.of(a) for n, a in own.items()}), tmp_path / "a.pth")
    with pytest.raises(denseport.UsageError, match="beyond the range of float16"):
        denseport.convert(tmp_path / "a.pth", tmp_path / "b.pth", dtype="float16", allow_nonfinite=True, verify=False)


def test_what_was_written_in_a_layout_of_ones_own_asks_for_that_layout(tmp_path: Path) -> None:
    (tmp_path / "copy.toml").write_text('extends = "kuangliu"\n[traits]\nconcatenation = "old-first"\n')
    net = DenseNetConfig.bc(6, (2, 1, 1, 2), 12, num_classes=4, stem_kernel=3, stem_norm=False)
    net = net.replace(stem_stride=1, stem_pool="none")
    source = written(tmp_path / "a.pth", net, "kuangliu")
    denseport.convert(source, tmp_path / "b.pth", to_layout=tmp_path / "copy.toml", verify=False)
    with pytest.raises(denseport.LayoutError, match=r"b\.pth: was written in layout copy.*--from-layout"):
        denseport.convert(tmp_path / "b.pth", tmp_path / "c.h5", verify=False)
    layout = tmp_path / "copy.toml"
    denseport.convert(tmp_path / "b.pth", tmp_path / "c.pth", from_layout=layout, to_layout="kuangliu", verify=False)
    assert not denseport.diff(source, tmp_path / "c.pth").different


def test_traits_that_nobody_states_are_said_to_be_assumed(tmp_path: Path) -> None:
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(SMALL["CIFAR"][0]).items()}
    denseport.write(Checkpoint(tensors), tmp_path / "a.pth")
    inspection = denseport.inspect(tmp_path / "a.pth")
    assert any(
        "assumed" in note and "epsilon 1e-05, padding symmetric, stem_stride 1, stem_pool none" in note
        for note in inspection.notes
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"head": "x"}, "head must be one of"),
        ({"to_format": "foo"}, "to_format must be one of"),
        ({"to_format": "tf"}, "to_format must be one of"),
        ({"classes": -3}, "classes must be a whole number from 1 to 1,000,000, not -3"),
        ({"classes": 99_999_999_999}, "classes must be a whole number from 1 to 1,000,000, not 99999999999"),
        ({"keras_backend": "mxnet"}, "keras_backend must be one of tensorflow, torch, jax, not 'mxnet'"),
    ],
)
def test_options_are_checked_in_the_library_too(fixtures: Path, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(denseport.UsageError, match=message):
        denseport.convert(fixtures / "digits-torch.pth", tmp_path / "x.pth", verify=False, **options)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_tensors_of_any_shape_are_detected_or_refused(data: st.DataObject) -> None:
    net, spelled_by = data.draw(st.sampled_from(list(SMALL.values())))
    layout = data.draw(st.sampled_from(spelled_by))
    chosen = find_layout(layout)
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(net).items()}
    own = from_canonical(Weights(net, tensors), chosen, chosen.frameworks[0])
    for name in data.draw(st.lists(st.sampled_from(list(own)), min_size=1, max_size=4)):
        shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=5)))
        own[name] = Tensor.of(np.zeros(shape, np.float32))
    checkpoint = Checkpoint(own, format="h5")
    for look in (lambda: to_canonical(checkpoint, detect(checkpoint)), lambda: derive(checkpoint)):
        with contextlib.suppress(denseport.LayoutError):
            look()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"class_name": "Lambda", "config": {"name": "evil"}}, r"evil \(Lambda\)"),
        ({"class_name": "Conv2D", "module": "evil.layers", "config": {"name": "conv"}}, r"conv \(Conv2D\)"),
        (3, "lists 3 where a layer should be"),
    ],
)
def test_a_model_with_foreign_layers_is_refused(layer: Any, message: str) -> None:
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(PLAIN).items()}
    convolution = {"class_name": "Conv2D", "config": {"name": "a", "padding": "same", "strides": [2, 2]}}
    config = {"class_name": "Functional", "config": {"layers": [convolution, layer]}}
    with pytest.raises(denseport.LayoutError, match=message):
        detect(Checkpoint(tensors, description=config, described_by="keras"))


def test_what_a_models_configuration_states_comes_before_the_layout() -> None:
    spelled = from_canonical(
        Weights(PLAIN, {name: Tensor.of(array) for name, array in canonical_weights(PLAIN).items()}),
        find_layout("keras-applications"),
        find_layout("keras-applications").frameworks[0],
    )
    config = functional(PLAIN.replace(epsilon=1e-3, padding="same"), find_layout("keras-applications"))
    head_relu = next(layer for layer in config["config"]["layers"] if layer["name"] == "head_relu")
    head_relu["config"]["activation"] = "linear"
    traits = detect(Checkpoint(spelled, description=config, described_by="keras")).config.traits
    assert (traits.epsilon, traits.padding, traits.final_activation) == (0.001, "same", "none")
    read = Checkpoint(spelled, path=Path("a.keras"), description=config, described_by="keras")
    assert detect(read, traits={"epsilon": float(np.float32(1e-3))}).origins["epsilon"] == "file"
    with pytest.raises(
        denseport.LayoutError, match=r"a\.keras: states padding same itself, which --trait padding=symm"
    ):
        detect(read, traits={"padding": "symmetric"})


NUMBERED = DenseNetConfig.bc(4, (2, 2, 2), 8, num_classes=3, **CIFAR)


def numbered_file(path: Path, variance: float) -> Path:
    """A weights file of Keras whose layers have numbers for names; every running variance is about so large."""
    arrays = canonical_weights(NUMBERED)
    for name, values in arrays.items():
        if name.endswith(".running_var"):
            values *= variance
    weights = Weights(NUMBERED, {name: Tensor.of(values) for name, values in arrays.items()})
    layout = find_layout("titu1994")
    denseport.write(Checkpoint(from_canonical(weights, layout, layout.frameworks[0])), path)
    return path


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_an_epsilon_that_neither_names_nor_file_tell_is_asked_for(tmp_path: Path, suffix: str) -> None:
    source, target = numbered_file(tmp_path / f"own{suffix}", 1.0), tmp_path / "x.pth"
    for refused in (
        lambda: denseport.convert(source, target, verify=False),
        lambda: denseport.predict(source, [source]),
    ):
        with pytest.raises(
            denseport.UsageError, match=r"own.*h5: .*--trait epsilon=0\.001 or --trait epsilon=1\.1e-05$"
        ):
            refused()
    assert "--trait epsilon=0.001" in denseport.inspect(source).problem
    for epsilon in (0.001, 1.1e-5):
        report = denseport.convert(source, target, verify=False, force=True, traits={"epsilon": epsilon})
        assert report.config.traits.epsilon == epsilon
        assert report.origins["epsilon"] == "stated"
    assert denseport.inspect(target).problem == "", "what was written says it"
    assert denseport.convert(source, target, verify=False, force=True, from_layout="titu1994").notes


def test_an_epsilon_that_does_not_matter_is_not_asked_for(tmp_path: Path) -> None:
    source = numbered_file(tmp_path / "own.h5", 1e11)
    report = denseport.convert(source, tmp_path / "x.pth", verify=False)
    assert any("epsilon may be 1.1e-05 or 0.001" in note for note in report.notes)
    assert denseport.inspect(source).problem == ""


def test_how_images_are_prepared_travels_with_the_weights(fixtures: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    denseport.convert(fixtures / "digits-torch.pth", target, to_layout="denseport", verify=False)
    denseport.convert(target, tmp_path / "y.h5", to_layout="denseport", verify=False)
    for file in (target, tmp_path / "y.h5"):
        with Source(file) as source:
            assert recorded_preprocessing(source.checkpoint.metadata, file) is None, "nothing states it"
            assert source.checkpoint.metadata["preprocessing_assumed"] == "torch"
            assert source.preprocessing == PREPROCESSING["torch"], "what torchvision's layout says"
    denseport.convert(target, tmp_path / "z.pth", verify=False)
    with denseport.read(tmp_path / "z.pth") as written:
        assert "preprocessing_assumed" not in written.metadata, "torchvision's layout says it"


FAULTS: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "NaN": lambda arrays: arrays["block1.layer1.conv1.weight"].__setitem__((0, 0), np.nan),
    "a negative variance": lambda arrays: arrays["head.norm.running_var"].__setitem__(1, -1e-3),
    "a missing key": lambda arrays: arrays.pop("head.norm.bias"),
    "an unexpected key": lambda arrays: arrays.setdefault("head.norm.more", np.zeros(3, np.float32)),
    "a size mismatch": lambda arrays: arrays.update({"head.norm.bias": np.zeros(3, np.float32)}),
    "no net": lambda arrays: [arrays.pop(name) for name in [*arrays][3:]],
    "counters that are none": lambda arrays: arrays.update({"counters": np.zeros(0)}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_inspecting_a_file_says_why_converting_it_is_refused(tmp_path: Path, fault: str) -> None:
    values, metadata = canonical_weights(PLAIN), {}
    FAULTS[fault](values)
    if values.pop("counters", None) is not None:
        metadata["num_batches_tracked"] = "many"
    denseport.write(Checkpoint({n: Tensor.of(a) for n, a in values.items()}, metadata), tmp_path / "a.safetensors")
    with pytest.raises(denseport.DenseportError) as refused:
        denseport.convert(tmp_path / "a.safetensors", tmp_path / "b.pth", verify=False)
    problem = denseport.inspect(tmp_path / "a.safetensors").problem
    assert problem
    assert str(refused.value) == f"{tmp_path / 'a.safetensors'}: {problem}"


@contextlib.contextmanager
def counted(*functions: Callable[..., Any]) -> Iterator[Counter[tuple[str, str]]]:
    """How often this process calls each function on each file, whatever name it is called by."""
    names = {function.__code__: function.__name__ for function in functions}
    counts: Counter[tuple[str, str]] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in names:
            given = frame.f_locals
            file = given["checkpoint"].path if "checkpoint" in given else given.get("shown") or given["path"]
            counts[names[frame.f_code], Path(file).name] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        yield counts
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.mark.parametrize(
    ("name", "options"), [("b.pth", {}), ("b.weights.h5", {}), ("b.keras", {}), ("b", {"to_layout": "timm"})]
)
def test_each_file_is_opened_recognised_and_hashed_once(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    net = DenseNetConfig.bc(8, (2, 1), 16, num_classes=5)
    source = written(tmp_path / "a.safetensors", net, "torchvision")
    with counted(formats.read, layouts.detect, sha256) as counts:
        denseport.convert(source, tmp_path / name, device="cpu", **options)
    done = ("read", "detect", "sha256")
    assert counts == dict.fromkeys([(verb, file) for verb in done for file in ("a.safetensors", name)], 1)
