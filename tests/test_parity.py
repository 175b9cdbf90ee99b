"""Parity passes for a right conversion and fails for each of the mistakes that shapes do not show."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import SMALL, canonical_weights

import denseport
from denseport import requirements
from denseport.checkpoint import Checkpoint, Tensor
from denseport.config import DenseNetConfig, Traits
from denseport.parity.report import compare, relative_error

# Block 1 layer 3 sees 16 + 2 x 8 = 32 channels, as many as its bottleneck has: its 1x1 kernel is square, and its two
# normalisations are equally wide.
CONFIG = DenseNetConfig.bc(8, (4, 2), 16, 4, num_classes=10)
LAYER = "block1.layer3"


def checkpoint(arrays: dict[str, np.ndarray], **traits: Any) -> Checkpoint:
    metadata = {"layout": "denseport", "traits": json.dumps(dataclasses.asdict(Traits(**traits)))}
    return Checkpoint({name: Tensor.of(np.ascontiguousarray(array)) for name, array in arrays.items()}, metadata)


def swapped(arrays: dict[str, np.ndarray], first: str, second: str) -> dict[str, np.ndarray]:
    pairs = {n: n.replace(first, second) for n in arrays if first in n}
    both = pairs | {new: old for old, new in pairs.items()}
    return {name: arrays[both.get(name, name)] for name in arrays}


def transpose_left_out(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    name = f"{LAYER}.conv1/kernel"
    return arrays | {name: arrays[name].transpose(0, 1, 3, 2)}


CONTROLS: dict[str, tuple[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], dict[str, Any]]] = {
    "transpose left out at a square kernel": (transpose_left_out, {}),
    "norm1 and norm2 swapped": (lambda arrays: swapped(arrays, f"{LAYER}.norm1/", f"{LAYER}.norm2/"), {}),
    "mean and variance swapped": (
        lambda arrays: swapped(arrays, f"{LAYER}.norm1/moving_mean", f"{LAYER}.norm1/moving_variance"),
        {},
    ),
    "padding shifted": (dict, {"padding": "same"}),
    "epsilon 1e-3": (dict, {"epsilon": 1e-3}),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.pth"
    denseport.write(checkpoint(canonical_weights(CONFIG)), path)
    return path


@pytest.mark.parametrize("mistake", [None, *CONTROLS])
def test_a_right_file_passes_and_every_mistake_fails(source: Path, tmp_path: Path, mistake: str | None) -> None:
    change, traits = CONTROLS[mistake] if mistake else (dict, {})
    denseport.convert(source, tmp_path / "right.h5", to_layout="denseport", verify=False)
    with denseport.read(tmp_path / "right.h5") as right:
        arrays = {name: np.array(tensor.read()) for name, tensor in right.tensors.items()}
    denseport.write(checkpoint(change(arrays), **traits), tmp_path / "changed.h5")
    report = denseport.verify(source, tmp_path / "changed.h5", device="cpu")
    assert (report.a.framework, report.b.framework) == ("torch", "keras")
    assert report.passed is (mistake is None), report.relative_error
    if mistake == "padding shifted":
        even, odd = report.comparisons
        assert even.relative_error > 1e-3
        assert odd.relative_error < 1e-5, "the two paddings are the same at odd sizes"


@pytest.mark.parametrize("net", SMALL)
def test_every_kind_of_net_computes_the_same_in_both(net: str, tmp_path: Path) -> None:
    denseport.write(checkpoint(canonical_weights(SMALL[net][0]), **vars(SMALL[net][0].traits)), tmp_path / "a.pth")
    report = denseport.convert(tmp_path / "a.pth", tmp_path / "b.h5", to_layout="denseport", device="cpu")
    assert report.parity is not None
    assert report.parity.relative_error < 2e-6


def test_the_real_cifar_net_classifies_alike_in_both(tmp_path: Path) -> None:
    real = Path(__file__).resolve().parents[2] / "shared" / "real"
    if not real.exists():
        pytest.skip(f"the trained DICE net and its images are not in {real}")
    with np.load(real / "cifar10-test-500.npz") as arrays:
        images, labels = arrays["images"][::2], arrays["labels"][::2]
    mean, deviation = np.float32([0.4914, 0.4822, 0.4465]), np.float32([0.2023, 0.1994, 0.2010])
    np.savez(tmp_path / "images.npz", images=(images / np.float32(255) - mean) / deviation, labels=labels)
    source = real / "dice-densenet-bc-100-12-cifar10.pth.tar"
    report = denseport.convert(source, tmp_path / "dice.h5", inputs=tmp_path / "images.npz", device="cpu")
    assert report.parity is not None
    (comparison,) = report.parity.comparisons
    assert comparison.accuracy is not None
    assert comparison.accuracy[0] == comparison.accuracy[1] > 0.8
    assert comparison.top1_agreement == 1


def test_a_failed_parity_leaves_the_old_file(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    target.write_bytes(b"what stood here before")
    with pytest.raises(denseport.VerificationError, match="above the tolerance") as caught:
        denseport.convert(source, target, to_layout="denseport", device="cpu", tolerance=1e-12, force=True)
    assert target.read_bytes() == b"what stood here before"
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    assert caught.value.report.parity.passed is False
    assert caught.value.report.parity.b.file == str(target)


@pytest.mark.parametrize(("dtype", "expected"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_rounded_weights_are_compared_with_weights_rounded_alike(
    source: Path, tmp_path: Path, dtype: Any, expected: float
) -> None:
    report = denseport.convert(source, tmp_path / "x.weights.h5", to_layout="denseport", dtype=dtype, device="cpu")
    assert report.parity is not None
    assert report.parity.relative_error < 1e-5
    rounding = [comparison.rounding_error for comparison in report.parity.comparisons]
    assert all(error is not None and expected / 30 < error < expected * 10 for error in rounding), rounding


def test_files_of_one_framework_are_still_run_in_two(source: Path, tmp_path: Path) -> None:
    report = denseport.convert(source, tmp_path / "x.safetensors", to_layout="denseport", head="drop", device="cpu")
    assert report.parity is not None
    assert {report.parity.a.framework, report.parity.b.framework} == {"torch", "keras"}
    assert report.config.num_classes is None


def test_trained_nets_classify_alike_in_both(fixtures: Path, tmp_path: Path) -> None:
    for name in ("digits-torch.pth", "digits-keras.h5"):
        target = tmp_path / f"{name}.safetensors"
        report = denseport.convert(fixtures / name, target, inputs=fixtures / "digits-test.npz", device="cpu")
        assert report.parity is not None
        (comparison,) = report.parity.comparisons
        assert comparison.top1_agreement == 1
        assert comparison.accuracy is not None
        assert comparison.accuracy[0] == comparison.accuracy[1] > 0.97


def test_nets_of_different_shape_are_not_compared(source: Path, tmp_path: Path) -> None:
    other = CONFIG.replace(num_classes=9)
    denseport.write(checkpoint(canonical_weights(other)), tmp_path / "other.pth")
    with pytest.raises(denseport.LayoutError, match="9 classes"):
        denseport.verify(source, tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((1, 32, 32, 3))}, "no array `images`"),
        ({"images": np.zeros((32, 32, 3))}, "do not fit"),
        ({"images": np.zeros((1, 32, 32, 4))}, "do not fit"),
        ({"images": np.zeros((0, 32, 32, 3))}, "do not fit"),
        ({"images": np.array([["a"]])}, "do not fit"),
        ({"images": np.zeros((1, 32, 32, 3), object)}, "no array `images`"),
        ({"images": np.zeros((2, 32, 32, 3)), "labels": np.zeros(3)}, "do not fit 2 images"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_any_work(
    source: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "inputs.npz", **arrays)
    with pytest.raises(denseport.UsageError, match=message):
        denseport.verify(source, source, inputs=tmp_path / "inputs.npz")


def test_a_device_that_is_none_is_refused(source: Path) -> None:
    with pytest.raises(denseport.UsageError, match="none of auto, cpu, cuda and cuda:N"):
        denseport.verify(source, source, device="tpu")


def test_a_cuda_device_that_is_not_there_is_an_error_and_no_silent_cpu_run(source: Path) -> None:
    with pytest.raises(denseport.DenseportError, match="--device cuda:7"):
        denseport.verify(source, source, device="cuda:7")


def test_a_missing_framework_is_named_with_the_extra_before_any_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda module: None if module == "keras" else True)
    with pytest.raises(denseport.FrameworkMissingError, match=r"needs keras: .*denseport\[parity\].*--no-verify"):
        denseport.convert(source, tmp_path / "x.h5")
    with pytest.raises(denseport.FrameworkMissingError, match=r"needs keras: .*denseport\[tensorflow\]"):
        denseport.load_keras(source)
    monkeypatch.setenv("KERAS_BACKEND", "no_such_backend")
    with pytest.raises(denseport.UsageError, match="KERAS_BACKEND is no_such_backend"):
        denseport.convert(source, tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []


def test_nan_and_inf_never_pass() -> None:
    good = np.ones((2, 3))
    for bad in (math.nan, math.inf):
        broken = good.copy()
        broken[0, 0] = bad
        assert relative_error(good, broken) == math.inf
        assert relative_error(broken, broken) == math.inf
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.zeros(3), np.ones(3)) == math.inf


def test_the_figure_is_relative_to_the_largest_logit() -> None:
    a = np.array([[100.0, -200.0], [1.0, 2.0]])
    b = a + np.array([[0.0, 0.0], [1.5, 0.0]])
    found = compare(a, b, (2, 4, 4, 3), np.array([0, 1]))
    assert found.relative_error == 1.5 / 200
    assert found.top1_agreement == 0.5
    assert found.accuracy == (1.0, 0.5)
