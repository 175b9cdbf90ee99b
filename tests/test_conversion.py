"""What a conversion changes and what it refuses: heads, traits, epsilons, dtypes, and a source that changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import SMALL, canonical_weights

import denseport
from denseport.checkpoint import Checkpoint, Tensor
from denseport.config import DenseNetConfig
from denseport.layouts import Weights, find_layout, from_canonical, known_layouts

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


def test_a_head_of_several_layers_is_listed_and_left_out_on_request(tmp_path: Path) -> None:
    body = SMALL["no classifier"][0]
    head = {
        "classifier.0.weight": np.zeros((9, body.features), np.float32),
        "classifier.0.bias": np.zeros(9, np.float32),
        "classifier.3.weight": np.zeros((4, 9), np.float32),
        "classifier.3.bias": np.zeros(4, np.float32),
    }
    source = written(tmp_path / "a.pth", body, "torchvision", **head)
    with pytest.raises(denseport.LayoutError, match=r"unexpected classifier\.0\.weight.*classifier\.3\.bias"):
        denseport.convert(source, tmp_path / "b.h5", verify=False)
    report = denseport.convert(source, tmp_path / "b.h5", head="drop", verify=False)
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
    denseport.convert(source, tmp_path / "b.h5", to_layout="denseport", verify=False)
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
    even, odd = report.parity.comparisons
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

    def slow(*arguments: Any) -> None:
        honest(*arguments)
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


@pytest.mark.parametrize("layout", ["torchvision", "kuangliu", "andreasveit", "timm-deep", "monai"])
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
    with pytest.raises(denseport.LayoutError):
        denseport.convert(tmp_path / "copy.pth", tmp_path / "x.pth", verify=False)
    (tmp_path / "mine.toml").write_text(denseport.derive(tmp_path / "copy.pth"))
    derived, shipped = find_layout(tmp_path / "mine.toml"), known_layouts()[layout]
    expected = {role: rename(f"{own[0].text}.x")[:-2] for role, own in shipped.names.items() if role in derived.names}
    assert {role: own[0].text for role, own in derived.names.items()} == expected
    options: dict[str, Any] = {"from_layout": tmp_path / "mine.toml", "to_layout": "denseport", "verify": False}
    denseport.convert(tmp_path / "copy.pth", tmp_path / "x.pth", **options)


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
        ("extends = 'nonsense'", "no layout that ships"),
        ("extends = 'mine'", "must name another layout"),
        ("extends = 'torchvision'\ncounters = 1", "counters must be true or false.*line 2"),
    ],
)
def test_a_layout_file_that_is_wrong_is_refused_by_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(denseport.LayoutError, match=message) as caught:
        find_layout(tmp_path / "mine.toml")
    assert "mine.toml" in str(caught.value)
