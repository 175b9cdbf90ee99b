"""Predictions are those of the library that a net is from, in either framework; what cannot be predicted is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import denseport
from denseport import text
from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FormatError, UsageError, VerificationError
from denseport.prediction import Prediction, RankedClass, predict
from denseport.preprocessing import PREPROCESSING
from denseport.presets.preset import class_names
from denseport.running.workers import Workers
from denseport.terminal import plain

SIZES = {"dogs/a.png": (301, 227), "dogs/b.png": (190, 411), "c.png": (61, 50)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "dogs").mkdir()
    random = np.random.default_rng(7)
    for name, (width, height) in SIZES.items():
        coarse = Image.fromarray(random.integers(0, 256, (height // 7, width // 7, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("net") / "net.pth"


@pytest.fixture(scope="module")
def by_torchvision(script: Callable[..., Any], pictures: Path, net: Path) -> dict[str, list[tuple[int, float]]]:
    """The most probable classes of each picture, with their probabilities."""
    first = {}
    for name, logits in script("preset_predictions", pictures, net).items():
        powers = np.exp(np.array(logits) - max(logits))
        order = np.argsort(-powers)[:5]
        first[name] = [(int(index), float(powers[index] / powers.sum())) for index in order]
    return first


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as processes:
        yield processes


def close(prediction: Prediction, expected: list[tuple[int, float]]) -> bool:
    indices = [each.index for each in prediction.classes]
    probabilities = [each.probability for each in prediction.classes]
    return indices == [index for index, _ in expected] and np.allclose(
        probabilities, [probability for _, probability in expected], rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_predictions_are_the_librarys(
    framework: str, by_torchvision: dict[str, list[tuple[int, float]]], net: Path, pictures: Path
) -> None:
    told: list[tuple[int, int]] = []
    predictions = predict(
        net, [pictures, pictures / "c.png"], framework, progress=lambda done, total: told.append((done, total))
    )
    names = ["c.png", "dogs/a.png", "dogs/b.png", "c.png"]
    assert [prediction.image for prediction in predictions] == [str(pictures / name) for name in names]
    for name, prediction in zip(names, predictions, strict=True):
        assert close(prediction, by_torchvision[name]), name
        assert all(each.name == "" for each in prediction.classes)
    assert told == [(1, 2), (2, 2)]


def test_a_preset_brings_its_classes_and_its_preprocessing(
    by_torchvision: dict[str, list[tuple[int, float]]],
    net: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: Workers,
) -> None:
    preset = """
        [presets."lab/{name}"]
        variant = "densenet121"
        layout = "torchvision"
        url = "https://lab.example/net.pth"
        hash = "sha256:{digest}"
        preprocessing = "{preprocessing}"
        crop = 224
        classes = "imagenet-1k"
        licence = "ours"
        source = "a test"
    """
    digest = hashlib.sha256(net.read_bytes()).hexdigest()
    kinds = {"right": "torch", "other": "keras-cv"}
    (tmp_path / "own.toml").write_text(
        "".join(preset.format(name=name, digest=digest, preprocessing=kind) for name, kind in kinds.items())
    )
    for name in kinds:
        (tmp_path / "cache" / "lab" / name).mkdir(parents=True)
        (tmp_path / "cache" / "lab" / name / "net.pth").write_bytes(net.read_bytes())
    monkeypatch.setenv("DENSEPORT_PRESETS", str(tmp_path / "own.toml"))
    monkeypatch.setenv("DENSEPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DENSEPORT_OFFLINE", "1")
    (right,) = predict("lab/right", [pictures / "c.png"], workers=workers)
    assert close(right, by_torchvision["c.png"])
    assert [each.name for each in right.classes] == [
        class_names("imagenet-1k", 1000)[index] for index, _ in by_torchvision["c.png"]
    ]
    (other,) = predict("lab/other", [pictures / "c.png"], workers=workers)
    (asked,) = predict(net, [pictures / "c.png"], preprocess="keras-cv", workers=workers)
    assert [each.probability for each in other.classes] == [each.probability for each in asked.classes]
    assert not close(other, by_torchvision["c.png"])


@pytest.mark.usefixtures("by_torchvision")
def test_the_preprocessing_that_travels_with_the_weights_is_taken(
    net: Path, pictures: Path, tmp_path: Path, workers: Workers
) -> None:
    file = tmp_path / "net.safetensors"
    record = json.dumps(PREPROCESSING["caffe"].to_dict())
    with denseport.read(net) as checkpoint:
        denseport.write(Checkpoint(checkpoint.tensors, {"preprocessing": record}), file)
        denseport.write(Checkpoint(checkpoint.tensors, {"preprocessing": "{"}), tmp_path / "broken.safetensors")
    (recorded,) = predict(file, [pictures / "c.png"], workers=workers)
    (asked,) = predict(net, [pictures / "c.png"], preprocess="caffe", workers=workers)
    assert recorded == asked
    with pytest.raises(FormatError, match=r"broken\.safetensors: preprocessing is no JSON"):
        predict(tmp_path / "broken.safetensors", [pictures / "c.png"])


def test_arrays_are_taken_as_they_are(fixtures: Path, workers: Workers) -> None:
    images = fixtures / "digits-test.npz"
    predictions = predict(fixtures / "digits-torch.pth", [images], top=20, workers=workers)
    assert [prediction.image for prediction in predictions[:2]] == [f"{images}: images[{n}]" for n in range(2)]
    first = [prediction.classes[0].index for prediction in predictions]
    assert np.mean(np.array(first) == np.load(images)["labels"]) > 0.9
    for prediction in predictions:
        assert sorted(each.index for each in prediction.classes) == list(range(10))
        assert sum(each.probability for each in prediction.classes) == pytest.approx(1, abs=1e-12)


def test_a_net_of_sigmoids_gives_each_class_a_probability_of_its_own(
    fixtures: Path, tmp_path: Path, workers: Workers
) -> None:
    layout = tmp_path / "sigmoid.toml"
    layout.write_text('extends = "torchvision"\n[names]\n[traits]\nhead_activation = "sigmoid"\n')
    images = tmp_path / "two.npz"
    np.savez(images, images=np.load(fixtures / "digits-test.npz")["images"][:2])
    logits = np.load(fixtures / "digits-torch-logits.npy")[:2].astype(np.float64)
    predictions = predict(fixtures / "digits-torch.pth", [images], top=10, layout=layout, workers=workers)
    for prediction, row in zip(predictions, logits, strict=True):
        for each in prediction.classes:
            assert each.probability == pytest.approx(1 / (1 + np.exp(-row[each.index])), rel=1e-4)


def test_what_cannot_be_predicted_is_refused(fixtures: Path, pictures: Path, tmp_path: Path) -> None:
    file, picture = fixtures / "digits-torch.pth", pictures / "c.png"
    wrong: list[tuple[str, Any]] = [
        ("framework must be one of torch, keras", lambda: predict(file, [picture], "jax")),
        (r"device must be auto\|cpu\|cuda\|cuda:N, not 'gpu'", lambda: predict(file, [picture], device="gpu")),
        ("top must be a whole number of 1 or more, not 0", lambda: predict(file, [picture], top=0)),
        ("there are no images", lambda: predict(file, [])),
        ("there is no such file", lambda: predict(file, [tmp_path / "none.png"])),
        (
            "imagenet-1k: names 1,000 classes, and the net has 10",
            lambda: predict(file, [picture], classes="imagenet-1k"),
        ),
    ]
    for message, act in wrong:
        with pytest.raises(UsageError, match=message):
            act()
    denseport.convert(file, tmp_path / "headless.pth", head="drop", verify=False)
    with pytest.raises(UsageError, match="has no classifier, so there are no classes"):
        predict(tmp_path / "headless.pth", [picture])


def test_nan_is_no_prediction(fixtures: Path, tmp_path: Path, workers: Workers) -> None:
    with denseport.read(fixtures / "digits-torch.pth") as checkpoint:
        bias = checkpoint.tensors["classifier.bias"].read().copy()
        bias[3] = np.nan
        tensors = {**checkpoint.tensors, "classifier.bias": Tensor.of(bias)}
        denseport.write(Checkpoint(tensors), tmp_path / "nan.pth")
    images = tmp_path / "one.npz"
    np.savez(images, images=np.load(fixtures / "digits-test.npz")["images"][:1])
    with pytest.raises(VerificationError, match=r"nan\.pth: gives NaN or Inf for .*one\.npz: images\[0\]"):
        predict(tmp_path / "nan.pth", [images], workers=workers)


def test_predictions_as_text_and_as_plain_values() -> None:
    prediction = Prediction("a\x1b.png", (RankedClass(285, "Egyptian cat", 0.8731), RankedClass(7, "", 0.0301)))
    assert plain(text.predictions([prediction])) == ["a\\x1b.png", "   87.31%    285  Egyptian cat", "    3.01%      7"]
    assert json.loads(json.dumps(prediction.to_dict()))["classes"][0] == {
        "index": 285,
        "name": "Egyptian cat",
        "probability": 0.8731,
    }
