"""DenseNets for PyTorch by name: beside timm's and torchvision's own, with feature maps, dropout and recomputation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = ("densenet121", "densenet161", "densenet169", "densenet201", "densenet264d", "densenetblur121d")
ASPECTS = ("features", "dropout", "memory", "graphs", "training_step", "pretrained")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("constructors")
    np.save(folder / "images.npy", np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def found(folder: Path, script: Callable[..., Any]) -> dict[str, Any]:
    return script("constructors_torch", folder, *ASPECTS)


@pytest.fixture(scope="module")
def named(folder: Path, script: Callable[..., Any]) -> dict[str, Any]:
    return script("constructors_torch", folder, "names")["names"]


@pytest.fixture(scope="module")
def keras_outputs(folder: Path, named: dict[str, Any], script: Callable[..., Any]) -> Callable[[str], np.ndarray]:
    files = {name: folder / f"{name}.safetensors" for name in named}
    script("twin_logits", "keras", folder, *files.values())
    return lambda name: np.load(f"{files[name]}.twin.npy")


@pytest.mark.parametrize("name", NAMES)
def test_each_name_builds_what_timm_builds(name: str, named: dict[str, Any]) -> None:
    assert named[name]["parameters"] == named[name]["timm"]
    assert named[name]["apart"] < 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_each_net_is_saved_and_loaded_again(name: str, named: dict[str, Any]) -> None:
    assert named[name]["reloaded"] is True


@pytest.mark.parametrize("name", NAMES)
def test_each_net_is_the_same_in_keras(name: str, folder: Path, keras_outputs: Callable[[str], np.ndarray]) -> None:
    ours = np.load(folder / f"{name}.npy")
    assert np.abs(keras_outputs(name) - ours).max() < 1e-5 * np.abs(ours).max()


@pytest.mark.parametrize("name", ["densenet121", "densenetblur121d"])
def test_feature_maps_are_timms(name: str, found: dict[str, Any]) -> None:
    features = found["features"][name]
    assert features["missing"] == []
    assert features["unexpected"] == ["head.classifier.weight", "head.classifier.bias"]
    assert features["info"] == features["timm"] == [[64, 256, 512, 1024, 1024], [2, 4, 8, 16, 32]]
    assert max(features["apart"]) < 1e-5


@pytest.mark.parametrize("name", ["densenet121", "densenetblur121d"])
def test_only_the_maps_asked_for_are_computed(name: str, found: dict[str, Any]) -> None:
    features = found["features"][name]
    assert features["few"] == features["timm_few"]
    assert features["few_parts"] == ["stem", "block1", "transition1", "block2"]
    assert features["few_shapes"] == [[2, 256, 16, 16], [2, 512, 8, 8]]


@pytest.mark.parametrize("where", ["layers", "head", "timm"])
def test_dropout_is_torchvisions_and_timms(where: str, found: dict[str, Any]) -> None:
    dropout = found["dropout"][where]
    assert dropout["apart"] < 1e-6
    assert dropout["off"] < 1e-6
    assert dropout["random"] > 1e-3
    assert dropout["names"] is True


def test_recomputation_keeps_less_and_changes_nothing(found: dict[str, Any]) -> None:
    usual, efficient = found["memory"]["kept"]
    assert efficient < 0.6 * usual
    assert found["memory"]["gradients"] is True
    assert found["memory"]["statistics"] is True
    assert found["memory"]["counters"] == [1]


@pytest.mark.parametrize("kind", ["plain", "blur", "same", "features", "efficient"])
def test_nets_are_compiled_whole_exported_and_run_channels_last(kind: str, found: dict[str, Any]) -> None:
    compiled, exported, channels_last = found["graphs"][kind]
    assert max(compiled, exported, channels_last) < 2e-6


def test_channels_last_stays_so_through_the_net(found: dict[str, Any]) -> None:
    assert found["graphs"]["channels_last"] == [True, True, True]


def test_a_compiled_training_step_recomputes_too(found: dict[str, Any]) -> None:
    assert found["training_step"]["gradients"] < 1e-4
    assert found["training_step"]["counters"] == [1]


def test_a_file_gives_its_traits_and_all_weights_that_fit(found: dict[str, Any]) -> None:
    taken = found["pretrained"]
    assert taken["traits"] is True
    assert taken["classes"] == [5, 3, None]
    assert taken["body"] is True
    assert taken["head_is_new"] is True
    assert taken["pooled"] == [1, 35]


def test_old_names_and_tags_are_understood(found: dict[str, Any]) -> None:
    assert found["pretrained"]["alias"] is True


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("0", "small.safetensors: holds densenet-b k=8 blocks=2-3-2 stem=12, not densenet121"),
        ("1", "small.safetensors: is for 3 channels, not 1"),
        ("2", "no DenseNet is called densenet211; is densenet201 meant?"),
        ("3", "densenet161.ra_in1k: densenet161 has no such tag; known: tv_in1k"),
        ("4", "drop_rate must be at least 0 and less than 1, not 1.0"),
        ("5", "out_indices says which feature maps to return"),
        ("6", "out_indices has 4; this net has maps 0 to 3"),
        ("7", "out_indices names no map"),
    ],
)
def test_what_cannot_be_is_refused(case: str, message: str, found: dict[str, Any]) -> None:
    assert message in found["pretrained"]["refused"][case]
