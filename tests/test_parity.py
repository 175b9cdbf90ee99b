"""Parity passes for a right conversion and fails for each of the mistakes that shapes do not show."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import SMALL, canonical_weights, checkpoint

import denseport
from denseport import requirements
from denseport.net.config import DenseNetConfig
from denseport.parity.comparison import compare, disagreements, predictions, relative_error
from denseport.parity.report import Disagreement
from denseport.running.images import ImageSet

CONFIG = DenseNetConfig.bc(8, (4, 2), 16, 4, num_classes=10)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.pth"
    denseport.write(checkpoint(canonical_weights(CONFIG)), path)
    return path


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
def test_rounded_weights_may_be_as_far_off_as_rounding_alone_makes_them(
    source: Path, tmp_path: Path, dtype: Any, expected: float
) -> None:
    target = tmp_path / "x.weights.h5"
    report = denseport.convert(source, target, to_layout="denseport", dtype=dtype, device="cpu")
    assert report.parity is not None
    assert report.parity.relative_error < 1e-5
    for comparison in report.parity.comparisons:
        assert comparison.rounding_error is not None
        assert comparison.source_error is not None
        assert expected / 30 < comparison.rounding_error < expected * 10
        assert comparison.source_error == pytest.approx(comparison.rounding_error, rel=0.05)
        # One that is further from the source than rounding explains does not pass, however alike the two nets are.
        assert not dataclasses.replace(comparison, source_error=comparison.rounding_error + 2e-5).passes(1e-5)


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
    with pytest.raises(denseport.UsageError, match=r"device must be auto\|cpu\|cuda\|cuda:N, not \'tpu\'"):
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
    found = compare(ImageSet("images", (2, 4, 4, 3), labels=np.array([0, 1])), a, b)
    assert found.relative_error == 1.5 / 200
    assert found.top1_agreement == 0.5
    assert found.accuracy == (1.0, 0.5)


def test_keras_runs_on_each_backend_and_the_report_says_what_could_change_the_figures(
    source: Path, tmp_path: Path
) -> None:
    denseport.convert(source, tmp_path / "b.h5", to_layout="denseport", verify=False)
    for backend in ("torch", "jax"):
        report = denseport.verify(source, tmp_path / "b.h5", device="cpu", keras_backend=backend, allow_tf32=True)
        assert report.passed
        assert f"on {backend} " in report.b.version
        assert report.a.settings["TF32"] == report.b.settings["TF32"] == "on"
        assert {"deterministic algorithms", "CUDA", "cuDNN"} <= report.a.settings.keys()
        assert len(report.a.sha256) == len(report.b.sha256) == 64
    assert denseport.verify(source, tmp_path / "b.h5", device="cpu").b.settings["TF32"] == "off"


def test_what_cannot_be_compared_as_asked_is_refused_before_any_work(source: Path) -> None:
    for options, message in (
        ({"exact": True, "keras_backend": "jax"}, "--keras-backend tensorflow"),
        ({"train_steps": 1, "keras_backend": "torch"}, "--keras-backend tensorflow"),
        ({"keras_backend": "mxnet"}, "one of tensorflow, torch, jax"),
        ({"train_steps": -1}, "train_steps must be a whole number from 0 to 1,000, not -1"),
        ({"against": ["torchvision", "timm"]}, "both of one framework"),
        ({"against": ["caffe"]}, "one of torchvision"),
        ({"preprocess": "none", "inputs": "nowhere"}, "no such file"),
        ({"preprocess": "none"}, "give some by --inputs"),
        ({"tolerance": math.nan}, "tolerance must be a number from 0 to 1, not nan"),
    ):
        with pytest.raises(denseport.UsageError, match=message):
            denseport.verify(source, source, device="cpu", **options)  # type: ignore[arg-type]


def test_a_library_in_the_twins_place_runs_the_same_file(tmp_path: Path, script: Callable[..., Any]) -> None:
    np.save(tmp_path / "images.npy", np.zeros((1, 64, 64, 3), np.float32))
    script("torchvision_nets", "save", tmp_path, "small")
    report = denseport.convert(
        tmp_path / "small.pth", tmp_path / "x.safetensors", device="cpu", against=["torchvision"], head="keep"
    )
    assert report.parity is not None
    assert report.parity.b.model.startswith("torchvision ")
    assert (report.parity.a.framework, report.parity.b.framework) == ("keras", "torch")
    assert report.parity.relative_error < 1e-5
    assert report.parity.taps == ()
    with pytest.raises(denseport.UsageError, match="keep the head"):
        denseport.verify(tmp_path / "small.pth", tmp_path / "x.safetensors", head="drop", against=["torchvision"])
    with pytest.raises(denseport.LayoutError, match="which keras-applications does not load"):
        denseport.verify(tmp_path / "small.pth", tmp_path / "x.safetensors", against=["keras-applications"])


def test_the_options_of_a_comparison_are_those_of_verify() -> None:
    files = {"a", "b", "layout_a", "layout_b", "net_a", "net_b", "traits", "head", "same_traits"}
    assert set(inspect.signature(denseport.verify).parameters) == files | {"progress", "workers", "options"}
    with pytest.raises(denseport.UsageError, match="nonsense is no option"):
        denseport.verify("a.pth", "b.h5", nonsense=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("ends", [True, False], ids=["with a reply", "without one"])
def test_a_file_that_changes_while_it_is_run_is_named(source: Path, tmp_path: Path, ends: bool) -> None:
    changing = tmp_path / "changing.pth"
    changing.write_bytes(source.read_bytes())

    class Slow(denseport.Workers):
        def run(self, *_: Any) -> Any:
            os.utime(changing, ns=(0, 0))
            if not ends:
                raise denseport.VerificationError("torch ended before it had an output")

    with pytest.raises(denseport.FormatError, match=f"{changing}: changed while"):
        denseport.verify(source, changing, device="cpu", workers=Slow())


def test_images_on_whose_class_the_two_disagree_are_listed() -> None:
    a = np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 5.0]])
    b = np.array([[1.0, 2.0], [1.0, 3.0], [0.0, 5.0]])
    images = ImageSet("folder", (3, 4, 4, 3), names=("x.png", "y.png", "z.png"), labels=np.array([1, 0, 1]))
    assert disagreements(images, a, b) == [Disagreement("y.png", 0, 1, 0)]
    (first,) = predictions(images, a, b, 1)
    assert [n for n, _ in first.a] == [1, 0]
    assert sum(share for _, share in first.a) == pytest.approx(1)
