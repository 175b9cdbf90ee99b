"""The Keras constructors that people know build their nets, save, reload, convert, and compute what their files say."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import denseport
from denseport.errors import UsageError
from denseport.layouts import find_layout
from denseport.models import architectures
from denseport.net.config import VARIANTS, DenseNetConfig, Traits
from denseport.net.graph import layers, parameters

Script = Callable[..., Any]
FLOAT32 = 1e-5
SIDES = {"backbone": 64, "rescaled": 64, "large": 64, "tutorial": 64}
LAYOUTS = {"backbone": "keras-cv", "rescaled": "keras-cv", "tutorial": "tutorial"}
NETS = ("backbone", "rescaled", "plain", "channels-first", "large", "no-top", "sigmoid", "tutorial")
WHOLE = ("DenseNet121Backbone", "DenseNetImageNet121")
OTHERS = (
    "DenseNet169Backbone",
    "DenseNet201Backbone",
    "DenseNetImageNet161",
    "DenseNetImageNet169",
    "DenseNetImageNet201",
    "DenseNetImageNet264",
    "DenseNet-40-12",
    "DenseNet-BC-100-12",
)


def relative(a: Path, b: Path) -> float:
    first, second = np.load(a), np.load(b)
    assert first.shape == second.shape
    return float(np.abs(first - second).max() / np.abs(first).max())


def folder_of_images(folder: Path, side: int) -> Path:
    folder.mkdir()
    images = np.random.default_rng(4).standard_normal((2, side, side, 3))
    np.save(folder / "images.npy", images.astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def saved(script: Script, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, Any]]:
    """The folder of each small net's files, as TensorFlow saved them, and facts of each."""
    top = tmp_path_factory.mktemp("saved")
    folders: dict[str, Path] = {}
    facts: dict[str, Any] = {}
    for side in (32, 64):
        names = [name for name in NETS if SIDES.get(name, 32) == side]
        folder = folder_of_images(top / str(side), side)
        facts |= script("constructors_keras", "save", folder, *names)
        folders |= dict.fromkeys(names, folder)
    return folders, facts


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_files_are_recognised_and_computed_by_the_other_twin(
    suffix: str, saved: tuple[dict[str, Path], dict[str, Any]], tmp_path: Path, script: Script
) -> None:
    folders, _ = saved
    for name in NETS:
        (tmp_path / str(SIDES.get(name, 32))).mkdir(exist_ok=True)
    targets = {}
    for name, folder in folders.items():
        # Keras' numbers for names do not say whose net it is, and a file of weights does not say its epsilon.
        numbered = name not in LAYOUTS
        traits = {"epsilon": 1.1e-5} if numbered and suffix == ".weights.h5" else {}
        targets[name] = target(tmp_path / folder.name, name, named=name == "rescaled" and suffix != ".weights.h5")
        source = folder / f"{name}{suffix}"
        report = denseport.convert(source, targets[name], to_layout="denseport", traits=traits, verify=False)
        assert report.source_layout in (("titu1994", "keras-numbered") if numbered else (LAYOUTS[name],))
        assert bool(report.config.inputs) is ("pixels" in targets[name].name)
    for folder in set(folders.values()):
        script("twin_logits", "torch", folder, *[targets[name] for name in NETS if folders[name] == folder])
    errors = {name: relative(folders[name] / f"{name}.npy", Path(f"{targets[name]}.twin.npy")) for name in NETS}
    assert max(errors.values()) < FLOAT32, errors


def target(folder: Path, name: str, *, named: bool) -> Path:
    """What is written of a net; called so that its twin is fed pixels where the net divides them by 255 itself."""
    return folder / f"{name}{'-pixels' if named else ''}.safetensors"


def becomes_its_twin(names: tuple[str, ...], folder: Path, script: Script) -> None:
    script("constructors_keras", "save", folder, *names)
    targets = {name: target(folder, name, named=name.endswith("Backbone")) for name in names}
    for name, written in targets.items():
        denseport.convert(folder / f"{name}.keras", written, to_layout="denseport", verify=False)
    script("twin_logits", "torch", folder, *targets.values())
    errors = {name: relative(folder / f"{name}.npy", Path(f"{file}.twin.npy")) for name, file in targets.items()}
    assert max(errors.values()) < FLOAT32, errors


def test_whole_nets_become_their_twins(tmp_path: Path, script: Script) -> None:
    becomes_its_twin(WHOLE, folder_of_images(tmp_path / "whole", 32), script)


@pytest.mark.large
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_net_becomes_its_twin(name: str, tmp_path: Path, script: Script) -> None:
    becomes_its_twin((name,), folder_of_images(tmp_path / "whole", 32), script)


def opens_the_files(backend: str, names: tuple[str, ...], folders: dict[str, Path], script: Script) -> None:
    for name in names:
        script("constructors_keras", "load", folders[name], name, KERAS_BACKEND=backend)
        assert relative(folders[name] / f"{name}.npy", folders[name] / f"{name}.{backend}.npy") < FLOAT32


def test_torch_opens_the_files_and_computes_the_same(
    saved: tuple[dict[str, Path], dict[str, Any]], script: Script
) -> None:
    opens_the_files("torch", ("backbone", "channels-first"), saved[0], script)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_jax_opens_the_files_and_computes_the_same(
    saved: tuple[dict[str, Path], dict[str, Any]], script: Script
) -> None:
    opens_the_files("jax", ("backbone",), saved[0], script)


# A float16 has 11 bits of mantissa, a bfloat16 8; the nets are some ten layers deep.
@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 5e-3), ("mixed_bfloat16", 3e-2)])
def test_mixed_precision_is_near_and_survives_saving(
    policy: str, tolerance: float, saved: tuple[dict[str, Path], dict[str, Any]], script: Script
) -> None:
    folder = saved[0]["backbone"]
    found = script("constructors_keras", policy, folder, "backbone", "large")
    for name, facts in found.items():
        dtype = policy.removeprefix("mixed_")
        assert facts == {"policies": [policy], "variables": ["float32"], "outputs": dtype}
        assert 0 < relative(folder / f"{name}.npy", folder / f"{name}.{policy}.npy") < tolerance


def test_keras_cv_and_denseport_load_each_others_weights_by_name(
    saved: tuple[dict[str, Path], dict[str, Any]], script: Script, keras_2_python: str
) -> None:
    folders, facts = saved
    folder, ours = folders["backbone"], facts["backbone"]
    theirs = script("constructors_keras_cv", folder, python=keras_2_python)
    assert ours["layers"] == theirs["layers"]
    assert ours["pyramid"] == theirs["pyramid"]
    assert ours["momentum"] == [theirs["momentum"]]
    assert theirs["presets"] == [f"densenet{n}{trained}" for n in (121, 169, 201) for trained in ("", "_imagenet")]
    assert architectures.keras_cv([2]).traits.epsilon == theirs["epsilon"]
    assert relative(folder / "backbone.npy", folder / "backbone.cv.npy") < FLOAT32
    script("constructors_keras_from_cv", folder, json.dumps(theirs["config"]))
    assert relative(folder / "cv.npy", folder / "cv.own.npy") < FLOAT32
    assert relative(folder / "cv.npy", folder / "backbone.npy") > 0.01


def test_levels_are_two_to_their_number_smaller(saved: tuple[dict[str, Path], dict[str, Any]]) -> None:
    facts = saved[1]["rescaled"]
    assert facts["pyramid"] == {"P2": "conv2_block_0_concat", "P3": "conv3_block_1_concat"}
    assert facts["pyramid_shapes"] == {"P2": [None, 16, 16, 72], "P3": [None, 8, 8, 52]}
    assert (facts["output_shape"], facts["name"]) == ([None, 8, 8, 52], "own")
    assert saved[1]["backbone"]["output_shape"] == [None, None, None, 30]


def test_titu1994s_nets_drop_and_decay_as_upstream_does(saved: tuple[dict[str, Path], dict[str, Any]]) -> None:
    plain, bottleneck = saved[1]["plain"], saved[1]["channels-first"]
    assert plain["dropouts"] == [0.2] * 12
    assert plain["random"] is True
    assert plain["penalised"] == [[3, 3, 3, 16], [1, 1, 40, 40], [1, 1, 64, 64]]
    assert bottleneck["dropouts"] == []
    assert bottleneck["random"] is False
    assert len(bottleneck["penalised"]) == 1 + 3 * 2 + 2
    for facts in (plain, bottleneck):
        assert facts["penalty"] == pytest.approx(1e-4 * facts["squares"], rel=1e-5)
        assert facts["initializers"] == ["HeNormal"]
        assert facts["momentum"] == [0.99]
    assert saved[1]["backbone"]["initializers"] == ["GlorotUniform"]
    assert saved[1]["backbone"]["penalised"] == []


def test_numbered_nets_are_of_keras_own_layers_alone(saved: tuple[dict[str, Path], dict[str, Any]]) -> None:
    folders, facts = saved
    for name in ("plain", "channels-first", "large", "no-top", "sigmoid", "tutorial"):
        assert facts[name]["modules"] == ["keras"]
        assert b"denseport" not in (folders[name] / f"{name}.keras").read_bytes()
    assert saved[1]["plain"]["layers"][:6] == [
        "conv2d",
        "batch_normalization",
        "activation",
        "conv2d_1",
        "dropout",
        "concatenate",
    ]


def test_weights_of_presets_are_loaded(script: Script, tmp_path: Path) -> None:
    found = script("constructors_keras_presets", DENSEPORT_CACHE=str(tmp_path), DENSEPORT_OFFLINE="1")
    assert found == {
        "loaded": True,
        "rescales": True,
        "input_shape": [None, 32, 32, 3],
        "of its class": True,
        "not loaded": False,
        "titu1994": True,
        "titu1994 behind a layer": True,
        "first layer": "before",
    }


def test_arguments_that_make_no_sense_are_refused(script: Script) -> None:
    expected = [
        "densenet264 is no preset of DenseNetBackbone; there are densenet121, densenet169, densenet201, "
        "densenet121_imagenet, densenet169_imagenet, densenet201_imagenet",
        "densenet121 is no preset of DenseNet169Backbone; there are densenet169, densenet169_imagenet",
        "densenet121 has no weights; take densenet121_imagenet, or leave load_weights out",
        "input_tensor must be a Keras tensor, such as keras.Input gives",
        "depth must be 3 n + 4 where nb_layers_per_block is -1, not 41; give either",
        "nb_layers_per_block has 2 numbers for 3 blocks; give one for each",
        "reduction must be at least 0 and less than 1, not 1.0",
        "activation must be softmax, or sigmoid for a single class, not relu",
        "activation must be softmax, or sigmoid for a single class, not sigmoid",
        "input_tensor must be a Keras tensor, such as keras.Input gives",
        "input_shape must be (H, W, C) or (C, H, W), not (32, 32)",
        "input_shape (3, 7, 32) is too small; images need 8 x 8 pixels",
        "weights must be imagenet or None, not cifar10",
        "titu1994 published no weights of densenet k=12 blocks=12-12-12 stem=24; give weights=None",
        "the published weights have 1000 classes, not 10; give weights=None",
    ]
    assert script("constructors_keras_errors", KERAS_BACKEND="torch") == expected


# Huang et al. 2017, table 2, in millions; with a bottleneck, upstream's stem of 2 k channels is the paper's.
TABLE_2 = {
    "DenseNet-40-12": ({"depth": 40, "growth_rate": 12, "nb_filter": 16}, 1.0),
    "DenseNet-100-12": ({"depth": 100, "growth_rate": 12, "nb_filter": 16}, 7.0),
    "DenseNet-100-24": ({"depth": 100, "growth_rate": 24, "nb_filter": 16}, 27.2),
    "DenseNet-BC-100-12": ({"depth": 100, "growth_rate": 12, "bottleneck": True, "reduction": 0.5}, 0.8),
    "DenseNet-BC-250-24": ({"depth": 250, "growth_rate": 24, "bottleneck": True, "reduction": 0.5}, 15.3),
    "DenseNet-BC-190-40": ({"depth": 190, "growth_rate": 40, "bottleneck": True, "reduction": 0.5}, 25.6),
}


@pytest.mark.parametrize(("arguments", "millions"), TABLE_2.values(), ids=TABLE_2)
def test_parameters_are_those_of_the_papers_table_2(arguments: dict[str, Any], millions: float) -> None:
    assert round(parameters(architectures.titu1994(**arguments)) / 1e6, 1) == millions


def sizes(config: DenseNetConfig) -> list[int]:
    """How many parameters and running statistics there are."""
    return [parameters(config), 2 * sum(each.shapes["weight"][0] for each in layers(config) if each.kind == "norm")]


def test_built_nets_have_the_parameters_that_their_configurations_have(tmp_path: Path, script: Script) -> None:
    expected = {name: sizes(architectures.titu1994(**TABLE_2[name][0])) for name in ("DenseNet-40-12",)}
    expected |= {"DenseNet-BC-100-12": sizes(architectures.titu1994(**TABLE_2["DenseNet-BC-100-12"][0]))}
    for n in (121, 169, 201):
        expected[f"DenseNet{n}Backbone"] = sizes(VARIANTS[f"densenet{n}"].without_head())
    for n in (121, 161, 169, 201, 264):
        expected[f"DenseNetImageNet{n}"] = sizes(VARIANTS[f"densenet{n}"])
    assert script("constructors_keras", "count", tmp_path, *expected, KERAS_BACKEND="torch") == expected


def test_the_tutorials_summary_shows_its_parameters(tmp_path: Path, script: Script) -> None:
    config = architectures.tutorial()
    assert script("constructors_keras", "count", tmp_path, "tutorial", KERAS_BACKEND="torch") == {
        "tutorial": sizes(config)
    }
    assert sizes(config) == [150_666, 2_816]
    assert not find_layout("tutorial").cannot_build(config)


def test_configurations_have_the_traits_of_their_code_bases() -> None:
    assert architectures.keras_cv([6, 12, 24, 16]) == VARIANTS["densenet121"].replace(
        num_classes=None, padding="same", epsilon=1.001e-5, head_activation="softmax"
    )
    assert architectures.titu1994().traits == Traits(
        epsilon=1.1e-5, padding="same", stem_stride=1, stem_pool="none", head_activation="softmax"
    )
    large = architectures.titu1994(
        121, 4, 32, 64, [6, 12, 24, 16], bottleneck=True, reduction=0.5, subsample_initial_block=True, classes=1000
    )
    assert large == VARIANTS["densenet121"].replace(epsilon=1.1e-5, padding="same", head_activation="softmax")


def test_depth_gives_layers_as_upstream_counts_them() -> None:
    assert architectures.titu1994(22, nb_dense_block=2).block_config == (6, 6)
    assert architectures.titu1994(25, bottleneck=True).block_config == (3, 3, 3)
    assert architectures.titu1994(nb_layers_per_block=5, bottleneck=True).block_config == (5, 5, 5)
    assert architectures.titu1994(growth_rate=7).stem_widths == (14,)
    with pytest.raises(UsageError, match="depth must be 3 n"):
        architectures.titu1994(4)
