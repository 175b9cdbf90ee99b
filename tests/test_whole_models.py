"""The whole Keras model that a file holds is its side of parity: what both twins would get wrong alike shows there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
from densenets import SMALL, canonical_weights, checkpoint
from safetensors.numpy import load_file, save_file

import denseport
from denseport import text
from denseport.checkpoint import Checkpoint
from denseport.net.config import DenseNetConfig
from denseport.page import page
from denseport.parity.report import ParityReport
from denseport.parity.verification import checked_comparing, compared
from denseport.running.images import noise
from denseport.running.request import TWIN, WHOLE_MODEL
from denseport.running.runners import of_whole_model
from denseport.running.whole_models import image_size, why_not
from denseport.running.workers import Workers
from denseport.source import Source
from denseport.terminal import plain

IN_THE_FILE = "the model in the file, run by Keras"
WEIGHTS_ALONE = "denseport's twin, since the file holds weights alone"


@pytest.fixture(scope="module")
def models(script: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    script("keras_whole_models", folder)
    return folder


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as processes:
        yield processes


def converted(source: Path, target: Path, workers: Workers, **options: Any) -> ParityReport:
    report = denseport.convert(source, target, workers=workers, device="cpu", **options).parity
    assert report is not None
    return report


@pytest.mark.parametrize("name", ["nested.keras", "nested.h5", "free.keras", "softmax-layer.keras", "mixed.keras"])
def test_a_whole_model_is_run_by_keras_itself(name: str, models: Path, tmp_path: Path, workers: Workers) -> None:
    report = converted(models / name, tmp_path / "b.pth", workers)
    assert (report.a.model, report.b.model) == (WHOLE_MODEL, TWIN)
    assert (report.a.ran, report.b.ran) == (IN_THE_FILE, WEIGHTS_ALONE)
    assert report.relative_error < 2e-6
    assert "block2.layer2" in {tap.name for tap in report.taps}


def test_in_float64_too(models: Path, tmp_path: Path, workers: Workers) -> None:
    report = converted(models / "mixed.keras", tmp_path / "b.pth", workers, exact=True)
    assert report.a.model == WHOLE_MODEL
    assert report.relative_error < 1e-12


def test_rounding_weights_rounds_those_of_the_model_as_well(models: Path, tmp_path: Path, workers: Workers) -> None:
    report = converted(models / "nested.keras", tmp_path / "b.pth", workers, dtype="float16")
    assert report.a.model == WHOLE_MODEL
    assert report.relative_error < 2e-6
    assert (report.comparisons[0].rounding_error or 0) > 1e-5


def test_pooled_features_of_a_model_that_gives_its_map_are_compared(
    models: Path, tmp_path: Path, workers: Workers
) -> None:
    report = converted(models / "features.keras", tmp_path / "b.pth", workers)
    assert report.a.model == WHOLE_MODEL
    assert report.relative_error < 2e-6


def test_a_mistake_that_both_twins_share_shows(models: Path, tmp_path: Path, workers: Workers) -> None:
    denseport.convert(models / "nested.keras", tmp_path / "b.pth", verify=False)
    with Source(models / "nested.keras") as first, Source(tmp_path / "b.pth") as second:
        for source in (first, second):
            found = source.detection
            source.detection = dataclasses.replace(found, config=found.config.replace(head_pool="max"))
        report = compared(first, second, checked_comparing({"device": "cpu"}), workers=workers)
    assert not report.passed
    assert report.divergence is not None
    assert report.divergence.tap == "head"
    assert f"the model in {models / 'nested.keras'} computes there what denseport does not read" in report.failure


def test_saturated_probabilities_hide_nothing(models: Path, tmp_path: Path, workers: Workers) -> None:
    """Behind a softmax these outputs are 0 and 1, whatever the weights are."""
    assert set(np.load(models / "saturated.npy").round(6).ravel()) == {0, 1}
    other = tmp_path / "b.safetensors"
    denseport.convert(models / "saturated.keras", other, verify=False)
    tensors = load_file(other)
    tensors["classifier.weight"] = tensors["classifier.weight"] * np.float32(1.001)
    save_file(tensors, other)
    report = denseport.verify(models / "saturated.keras", other, device="cpu", workers=workers)
    assert report.a.model == WHOLE_MODEL
    assert report.relative_error == pytest.approx(1e-3, rel=0.1)


def test_noise_has_the_size_that_the_model_takes(models: Path, tmp_path: Path, workers: Workers) -> None:
    report = converted(models / "saturated.keras", tmp_path / "b.pth", workers)
    assert [(each.name, each.input_shape) for each in report.comparisons] == [("48x64", (5, 48, 64, 3))]


def test_images_of_another_size_are_run_by_the_twin_and_that_is_said(
    models: Path, tmp_path: Path, workers: Workers
) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 96, 96, 3), np.float32))
    report = converted(models / "nested.keras", tmp_path / "b.pth", workers, inputs=tmp_path / "x.npz")
    assert report.a.ran == "denseport's twin, since the model in the file takes images of 64x64 alone"
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 64, 64, 3), np.float32))
    report = converted(models / "nested.keras", tmp_path / "c.pth", workers, inputs=tmp_path / "x.npz")
    assert report.a.ran == IN_THE_FILE


def test_the_target_is_run_by_keras_where_it_holds_a_model(models: Path, tmp_path: Path, workers: Workers) -> None:
    denseport.convert(models / "nested.keras", tmp_path / "a.pth", verify=False)
    report = converted(tmp_path / "a.pth", tmp_path / "b.keras", workers)
    assert (report.a.ran, report.b.ran) == (WEIGHTS_ALONE, IN_THE_FILE)
    denseport.convert(tmp_path / "a.pth", tmp_path / "a.h5", verify=False)
    report = converted(tmp_path / "a.h5", tmp_path / "c.keras", workers)
    assert (report.a.framework, report.b.framework, report.b.ran) == ("torch", "keras", IN_THE_FILE)
    report = converted(models / "nested.keras", tmp_path / "d.keras", workers)
    assert report.b.ran == "denseport's twin, since only Keras runs the model in the file"


def test_a_model_that_keras_refuses_is_run_by_the_twin_and_that_is_said(
    models: Path, tmp_path: Path, workers: Workers
) -> None:
    shutil.copy(models / "nested.h5", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][-1]["config"]["no_such_argument"] = 1
        file.attrs["model_config"] = json.dumps(config)
    report = converted(tmp_path / "a.h5", tmp_path / "b.pth", workers)
    assert report.a.model == TWIN
    assert report.a.ran.startswith("denseport's twin, since keras 3")
    assert "does not build the model in the file (TypeError: " in report.a.ran


def test_a_head_that_takes_no_part_leaves_the_model_out(models: Path, tmp_path: Path, workers: Workers) -> None:
    report = converted(models / "nested.keras", tmp_path / "b.pth", workers, head="drop")
    assert report.a.ran == "denseport's twin, since the model's head takes no part"


def test_training_is_compared_between_twins(models: Path, tmp_path: Path, workers: Workers) -> None:
    report = converted(models / "nested.keras", tmp_path / "b.pth", workers, train_steps=1)
    assert report.a.model == WHOLE_MODEL
    assert report.training is not None
    assert report.training.passed


def test_text_and_page_say_what_ran_each_file(models: Path, tmp_path: Path, workers: Workers) -> None:
    report = converted(models / "nested.keras", tmp_path / "b.pth", workers)
    told, shown = "\n".join(plain(text.parity(report))), page(report)
    for run in (report.a, report.b):
        assert run.ran in told
        assert run.ran[1:] in shown
    assert report.to_dict()["a"]["ran"] == IN_THE_FILE


HOSTILE = {
    "a function that loads files": {"class_name": "function", "module": "keras.utils", "config": "get_file"},
    "a lambda": {"class_name": "Lambda", "module": "keras.layers", "config": {}},
    "a lambda as argument": {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}},
    "a class of another package": {"class_name": "Popen", "module": "subprocess", "config": {}},
    "a class of Keras' utilities": {"class_name": "CustomObjectScope", "module": "keras.utils", "config": {}},
    "a registered class": {"class_name": "Relu", "module": "keras.layers", "registered_name": "mine>Relu"},
    "a registered class of Keras 2": {"class_name": "mine>Relu", "config": {}},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_not_keras_own_is_never_built(kind: str) -> None:
    config = {"class_name": "Functional", "module": "keras", "config": {"layers": [{"config": {"x": [HOSTILE[kind]]}}]}}
    checkpoint = Checkpoint({}, format="keras", description=config, described_by="keras")
    assert "which is not Keras' own" in why_not(checkpoint)
    config["config"]["layers"] = []  # type: ignore[index]
    assert not why_not(checkpoint)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"class_name": "InputLayer", "config": {"batch_shape": [None, 64, None, 3]}}, (64, None)),
        ({"class_name": "Dense", "config": {"batch_input_shape": [None, 32, 32, 1]}}, (32, 32)),
        ({"class_name": "Sequential", "config": [{"class_name": "InputLayer", "config": {"batch_shape": []}}]}, ()),
        ({"class_name": "Sequential", "config": {"layers": []}}, ()),
        ({"class_name": "InputLayer", "config": {"batch_shape": [None, True, "64", 3]}}, (None, None)),
    ],
)
def test_a_models_image_size_is_read_from_its_configuration(config: dict[str, Any], size: tuple[Any, ...]) -> None:
    assert image_size(config) == size


def test_noise_of_one_free_side_varies_there_alone() -> None:
    sets = noise(DenseNetConfig.bc(8, (2, 2), 16), (64, None))
    assert [each.shape for each in sets] == [(2, 64, 224, 3), (2, 64, 225, 3), (1, 64, 197, 3)]
    assert all(each.is_of((64, None)) for each in sets)
    assert not sets[0].is_of((32, None))


@pytest.mark.parametrize(
    "layer", [{"class_name": "Permute", "config": {}}, {"class_name": "Conv2D", "data_format": "channels_first"}]
)
def test_images_whose_channels_come_first_are_not_given_to_a_model(layer: dict[str, Any]) -> None:
    checkpoint = Checkpoint({}, format="keras", description={"config": {"layers": [layer]}}, described_by="keras")
    assert why_not(checkpoint) == "the model in the file takes images whose channels come first"


def test_predictions_are_those_of_the_model_in_the_file(models: Path, workers: Workers) -> None:
    by_twin = "denseport's twin, since only Keras runs the model in the file"
    runs: dict[Literal["torch", "keras"], str] = {"keras": IN_THE_FILE, "torch": by_twin}
    for framework, ran in runs.items():
        predicted = denseport.predict(models / "free.keras", [models / "free.npz"], framework, workers=workers)
        assert {each.ran for each in predicted} == {ran}
        assert ran in "\n".join(plain(text.predictions(predicted)))
        shares = [[found.probability for found in sorted(each.classes, key=lambda c: c.index)] for each in predicted]
        np.testing.assert_allclose(shares, np.load(models / "free.npy"), atol=1e-6)


@pytest.fixture(scope="module")
def keras_2_models(script: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras-2")
    script("keras_2_whole_models", folder)
    return folder


@pytest.mark.parametrize("name", ["classifier.h5", "classifier.keras", "nested.h5", "nested.keras"])
def test_keras_3_builds_the_models_of_keras_2(
    name: str, keras_2_models: Path, tmp_path: Path, workers: Workers
) -> None:
    report = converted(keras_2_models / name, tmp_path / "b.pth", workers)
    assert report.a.ran == IN_THE_FILE
    assert report.relative_error < 2e-6


def test_a_head_activation_that_denseport_does_not_read_is_a_failure(
    models: Path, tmp_path: Path, workers: Workers
) -> None:
    denseport.convert(models / "free.keras", tmp_path / "b.pth", verify=False)
    with Source(models / "free.keras") as first, Source(tmp_path / "b.pth") as second:
        found = first.detection
        first.detection = dataclasses.replace(found, config=found.config.replace(head_activation="sigmoid"))
        with pytest.raises(denseport.VerificationError, match="ends in softmax, where denseport reads sigmoid"):
            compared(first, second, checked_comparing({"device": "cpu"}), workers=workers)


def test_three_dimensions_in_float64_are_for_the_twin(tmp_path: Path, workers: Workers) -> None:
    denseport.write(checkpoint(canonical_weights(SMALL["3-D"][0])), tmp_path / "a.pth")
    report = converted(tmp_path / "a.pth", tmp_path / "b.keras", workers)
    assert report.b.ran == IN_THE_FILE
    report = converted(tmp_path / "a.pth", tmp_path / "c.keras", workers, exact=True)
    assert report.b.ran == "denseport's twin, since TensorFlow pools no maps of 3 dimensions in float64"
    assert report.relative_error < 1e-12


def test_a_model_that_does_not_run_is_named_in_one_line() -> None:
    def predict(*_: Any) -> Any:
        raise RuntimeError("no kernel\nfor this")

    with pytest.raises(denseport.VerificationError) as caught:
        of_whole_model(predict, "a.keras")(np.zeros((1, 8, 8, 3)), False)
    told = (
        "a.keras: Keras does not run the model in the file (RuntimeError: no kernel for this); save its weights alone"
    )
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("described_by", "reason"),
    [
        ("", "the file holds weights alone"),
        ("torch", "the module in the file is code, which is never run"),
        ("timm", "the folder names a net of timm's, which --against timm runs"),
        ("keras-hub", "the folder names a net of keras_hub's, which --against keras-hub runs"),
    ],
)
def test_what_is_no_model_of_keras_is_left_to_the_twin(described_by: str, reason: str) -> None:
    assert why_not(Checkpoint({}, description={"x": {}}, described_by=described_by)) == reason
