"""The twins train alike, to rounding in float64; what trains otherwise is found, though it infers the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import SMALL, canonical_weights, checkpoint

import denseport
from denseport.parity.report import ParityReport, TrainedTensor, TrainingReport
from denseport.running.workers import Workers


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """Small images for nets of some dimensions and channels."""
    folder = tmp_path_factory.mktemp("images")

    def make(dimensions: int, channels: int) -> Path:
        path = folder / f"{dimensions}-{channels}.npz"
        np.savez(path, images=np.random.default_rng(1).standard_normal((1, *[32] * dimensions, channels), np.float32))
        return path

    return make


def trained(a: Path, b: Path, workers: Workers, **options: Any) -> ParityReport:
    return denseport.verify(a, b, device="cpu", train_steps=3, workers=workers, **options)


@pytest.mark.parametrize("net", SMALL)
def test_twins_train_alike(net: str, images: Callable[[int, int], Path], tmp_path: Path, workers: Workers) -> None:
    config = SMALL[net][0]
    denseport.write(checkpoint(canonical_weights(config), **vars(config.traits)), tmp_path / "a.pth")
    denseport.convert(tmp_path / "a.pth", tmp_path / "b.h5", to_layout="denseport", verify=False)
    options = {} if config.head_shape else {"inputs": images(config.dimensions, config.in_channels)}
    report = trained(tmp_path / "a.pth", tmp_path / "b.h5", workers, **options)
    assert report.training is not None
    assert report.passed, report.training.worst
    losses = np.array(report.training.losses)
    assert losses.shape == (3, 2)
    assert losses[-1, 0] < losses[0, 0], "three steps of descent make the loss smaller"
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-10)
    with_gradient = [tensor for tensor in report.training.tensors if tensor.gradient_error is not None]
    assert len(with_gradient) < len(report.training.tensors), "running statistics have no gradient"


def test_a_library_that_trains_otherwise_is_found(tmp_path: Path, script: Callable[..., Any], workers: Workers) -> None:
    """keras.applications infers the same, and keeps other running statistics: momentum 0.99, biased variances."""
    np.save(tmp_path / "images.npy", np.zeros((1, 64, 64, 3), np.float32))
    script("keras_nets", "save", tmp_path, "small")
    denseport.convert(tmp_path / "small.h5", tmp_path / "a.pth", to_layout="denseport", verify=False)
    twins = trained(tmp_path / "a.pth", tmp_path / "small.h5", workers)
    assert twins.passed, twins.training
    report = trained(tmp_path / "a.pth", tmp_path / "small.h5", workers, against=["keras-applications"])
    assert report.relative_error < 1e-5
    assert not report.passed
    assert report.training is not None
    apart = {tensor.name for tensor in report.training.tensors if tensor.updated_error > 1e-6}
    statistics = {tensor.name for tensor in report.training.tensors if tensor.gradient_error is None}
    assert apart == statistics, "weights train alike, running statistics do not"
    assert "after 3 steps of training" in report.failure
    assert ".running_" in report.failure


def test_running_variances_of_the_twins_are_unbiased(tmp_path: Path, script: Callable[..., Any]) -> None:
    found = script("twin_variance", tmp_path)
    assert found == {"torch": pytest.approx(found["expected"]), "keras": pytest.approx(found["expected"]), **found}


def test_the_verdict_is_the_largest_error_of_any_tensor() -> None:
    tensors = (TrainedTensor("a", 1e-12, 1e-11), TrainedTensor("b", None, 1e-10), TrainedTensor("c", 1e-8, 1e-12))
    report = TrainingReport(1, 0.01, ((1.0, 1.0),), tensors, 1e-9)
    assert report.worst.name == "c"
    assert not report.passed
    assert TrainingReport(1, 0.01, ((1.0, 1.0),), tensors[:2], 1e-9).passed
