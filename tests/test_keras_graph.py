"""Whole models of Keras 2 and 3 are read as graphs: PyTorch's twin computes what Keras gave, or the layer is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import denseport
from denseport.errors import LayoutError

ANSWERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda logits: logits,
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": torch.sigmoid,
}
READ = (
    "plain", "small", "new-first", "pool-of-2", "bare-transitions", "lists", "leaky", "elu", "gelu", "swish",
    "rescaling", "normalization", "adapted", "adapted-nested", "torch-mode", "caffe-mode", "tf-mode", "arithmetic",
    "image-norm", "grey", "sequential", "max-pool", "both-pools", "mean-of-pools", "flat", "flat-two", "two",
    "normalised", "no-bias", "relu-at-the-end",
)  # fmt: skip
REFUSED = {
    "no-lambda": r"lambda\w* \((Lambda|function: a lambda)\)",
    "no-convolution-before": r"mixing \(Conv2D\)",
    "no-excitation": r"reshape\w* \(Reshape\)",
    "no-batch-statistics": r"training=True.*batch_normalization",
    "no-power": r"pow",
    "no-softmax-within": r"gate \(softmax\); --head drop takes the body alone",
    "no-two-outputs": r"several outputs: dense\w* \(Dense\), dense\w* \(Dense\)",
    "no-offset-on-zeros": r"zero_padding2d\w* \(ZeroPadding2D\)|late \(Rescaling\)",
}


@pytest.fixture(scope="module", params=["keras 3", "keras 2"])
def models(
    request: pytest.FixtureRequest, script: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("models")
    other = {"python": request.getfixturevalue("keras_2_python")} if request.param == "keras 2" else {}
    script("keras_graphs", folder, **other)
    return folder


def files(models: Path, name: str) -> list[Path]:
    found = [models / f"{name}{suffix}" for suffix in (".keras", ".h5")]
    return [file for file in found if file.exists()]


@pytest.mark.parametrize("name", READ)
def test_the_twin_computes_what_keras_gave(name: str, models: Path) -> None:
    expected = np.load(models / f"{name}.npz")
    images = torch.from_numpy(np.moveaxis(expected["x"], -1, 1).copy())
    assert files(models, name)
    for file in files(models, name):
        found = denseport.inspect(file).config
        assert found is not None, file
        with torch.no_grad():
            answer = ANSWERS[found.traits.head_activation](denseport.load_torch(file).eval()(images)).numpy()
        assert np.abs(answer - expected["y"]).max() < 5e-6 * np.abs(expected["y"]).max(), file


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_densenet_has_is_refused_by_the_layer_s_name(name: str, models: Path) -> None:
    assert files(models, name)
    for file in files(models, name):
        with pytest.raises(LayoutError, match=REFUSED[name]) as refused:
            denseport.load_torch(file)
        assert str(file) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_the_body_beside_a_head_that_cannot_be_carried_is_taken(models: Path, tmp_path: Path) -> None:
    for file in files(models, "no-excitation"):
        report = denseport.convert(file, tmp_path / "body.pth", head="drop", verify=False, force=True)
        assert report.config.num_classes is None
