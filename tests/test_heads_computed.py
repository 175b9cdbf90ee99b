"""Heads of several layers as both frameworks compute them, beside the Keras model that a file holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from densenets import canonical_weights

import denseport
from denseport.checkpoint import Checkpoint, Tensor
from denseport.layouts import Weights, find_layout, from_canonical
from denseport.net.config import DenseNetConfig, HeadLayer
from denseport.running.workers import Workers

RELU, DROPOUT = HeadLayer("activation", activation="relu"), HeadLayer("dropout")
HEAD = (HeadLayer("dense", 6), RELU, DROPOUT, HeadLayer("norm"), HeadLayer("dense", 3))


@pytest.fixture(scope="module")
def models(script: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    script("keras_heads", folder)
    return folder


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as processes:
        yield processes


@pytest.mark.parametrize("name", ["two-dense", "norms", "relu-at-the-end", "no-bias"])
def test_a_head_of_keras_is_computed_by_torch_and_back(
    name: str, models: Path, tmp_path: Path, workers: Workers
) -> None:
    there, back = tmp_path / "a.pth", tmp_path / "b.keras"
    for source, target in ((models / f"{name}.keras", there), (there, back)):
        report = denseport.convert(source, target, device="cpu", workers=workers)
        assert report.parity is not None
        assert report.parity.relative_error < 2e-6
    assert not denseport.diff(models / f"{name}.keras", back).different


def test_dropout_that_only_one_file_counts_is_no_other_architecture(tmp_path: Path, workers: Workers) -> None:
    config = DenseNetConfig.bc(4, (2, 2, 2, 2), 8, num_classes=3, head_layers=HEAD)
    weights = Weights(config, {name: Tensor.of(array) for name, array in canonical_weights(config).items()})
    layout = find_layout("torchvision")
    source, target = tmp_path / "a.pth", tmp_path / "b.keras"
    denseport.write(Checkpoint(from_canonical(weights, layout, layout.frameworks[0])), source)
    report = denseport.convert(source, target, device="cpu", workers=workers)
    assert report.config.head_layers == HEAD
    assert report.parity is not None
    assert {"head.dense0", "head.norm3"} <= {tap.name for tap in report.parity.taps}
    assert not denseport.diff(source, target).different
