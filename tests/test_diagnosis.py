"""Each mistake that shapes do not show is found, at the place where it is, in both directions; right files are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import canonical_weights, checkpoint

import denseport
from denseport.net.config import VARIANTS, DenseNetConfig
from denseport.parity.diagnosis import first_divergence
from denseport.parity.report import Tap
from denseport.running.workers import Workers
from denseport.testing import assert_parity

LAYER = "block1.layer3"
Arrays = dict[str, np.ndarray]

# Block 1 layer 3 sees as many channels as its bottleneck has: its 1x1 kernel is square, its norms are equally wide.
NETS = {
    "paper's stem": DenseNetConfig.bc(8, (4, 2), 16, num_classes=10),
    "deep stem": DenseNetConfig.bc(4, (3, 2, 2), 8, num_classes=5).replace(stem_widths=(6, 6, 8), stem_kernel=3),
}


def swapped(arrays: Arrays, first: str, second: str) -> Arrays:
    pairs = {name: name.replace(first, second) for name in arrays if first in name}
    both = pairs | {new: old for old, new in pairs.items()}
    return {name: arrays[both.get(name, name)] for name in arrays}


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: change(arrays[name])}


# Each mistake: what it does to the second file's arrays, the traits that it declares, where it shows, and as what.
MISTAKES: dict[str, tuple[Callable[[Arrays], Arrays], dict[str, Any], str, str]] = {
    "transpose left out at a square kernel": (
        changed(f"{LAYER}.conv1.weight", lambda kernel: kernel.swapaxes(0, 1)),
        {},
        LAYER,
        f"{LAYER}.conv1.weight is transposed",
    ),
    "kernel turned": (
        changed(f"{LAYER}.conv2.weight", lambda kernel: kernel[:, :, ::-1, ::-1]),
        {},
        LAYER,
        f"{LAYER}.conv2.weight is turned by 180 degrees",
    ),
    "norm1 and norm2 swapped": (
        lambda arrays: swapped(arrays, f"{LAYER}.norm1.", f"{LAYER}.norm2."),
        {},
        LAYER,
        f"{LAYER}.norm1.weight holds the values of {LAYER}.norm2.weight",
    ),
    "mean and variance swapped": (
        lambda arrays: swapped(arrays, f"{LAYER}.norm1.running_mean", f"{LAYER}.norm1.running_var"),
        {},
        LAYER,
        f"{LAYER}.norm1.running_mean holds the values of {LAYER}.norm1.running_var",
    ),
    "one value of a transition": (
        changed("transition1.norm.bias", lambda bias: bias + 0.01 * (np.arange(bias.size) == 3).astype(bias.dtype)),
        {},
        "transition1",
        "transition1.norm.bias holds other values",
    ),
    "classifier's rows": (
        changed("head.classifier.weight", lambda kernel: kernel[::-1]),
        {},
        "head",
        "head.classifier.weight holds the same values in another order",
    ),
    "padding shifted": (dict, {"padding": "same"}, "stem", "padding is symmetric in the"),
    "epsilon 1e-3": (dict, {"epsilon": 1e-3}, "stem", "epsilon is 1e-05 in the"),
    # The first layer sees the block's input alone; the second is the first whose channels come in another order.
    "concatenation the other way round": (
        dict,
        {"concatenation": "new-first"},
        "block1.layer2",
        "block1.layer2.norm1.weight holds the same values in another order",
    ),
}


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as running:
        yield running


@pytest.fixture(scope="module", params=NETS)
def net(request: pytest.FixtureRequest) -> DenseNetConfig:
    return NETS[request.param]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images of even sides, at which `same` padding is not symmetric."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, images=np.random.default_rng(1).standard_normal((2, 64, 48, 3), np.float32))
    return path


def in_framework(framework: str, arrays: Arrays, folder: Path, name: str, **traits: Any) -> Path:
    """A file of a framework in layout denseport, with these canonical arrays and traits."""
    folder.mkdir(exist_ok=True)
    denseport.write(checkpoint(arrays, **traits), folder / f"{name}.pth")
    if framework == "torch":
        return folder / f"{name}.pth"
    target = folder / f"{name}.h5"
    denseport.convert(folder / f"{name}.pth", target, to_layout="denseport", allow_nonfinite=True, verify=False)
    return target


@pytest.mark.parametrize("mistake", [None, *MISTAKES])
@pytest.mark.parametrize("first", ["torch", "keras"])
def test_every_mistake_is_found_where_it_is(
    net: DenseNetConfig, first: str, mistake: str | None, images: Path, tmp_path: Path, workers: Workers
) -> None:
    right = canonical_weights(net)
    change, traits, tap, finding = MISTAKES[mistake] if mistake else (dict, {}, "", "")
    second = {"torch": "keras", "keras": "torch"}[first]
    a = in_framework(first, right, tmp_path, "a")
    b = in_framework(second, change(right), tmp_path, "b", **traits)
    report = denseport.verify(a, b, device="cpu", inputs=images, workers=workers)
    assert (report.a.framework, report.b.framework) == (first, second)
    assert report.passed is (mistake is None), report.relative_error
    if mistake is None:
        assert report.divergence is None
        assert max(tap.relative_error for tap in report.taps) < 1e-5
        return
    assert report.divergence is not None
    assert report.divergence.tap == tap, report.taps
    assert finding in report.divergence.explanation
    assert report.failure.endswith(report.divergence.explanation)


def test_a_shifted_padding_shows_in_the_noise_of_even_sizes_alone(tmp_path: Path, workers: Workers) -> None:
    arrays = canonical_weights(NETS["paper's stem"])
    a = in_framework("torch", arrays, tmp_path, "a")
    b = in_framework("keras", arrays, tmp_path, "b", padding="same")
    even, odd, unequal = denseport.verify(a, b, device="cpu", workers=workers).comparisons
    assert even.relative_error > 1e-3
    assert odd.relative_error < 1e-5
    assert unequal.input_shape[1] % 2 == 0
    assert unequal.relative_error > 1e-3


def test_an_epsilon_that_float32_lets_pass_is_found_in_float64(tmp_path: Path, workers: Workers) -> None:
    arrays = canonical_weights(NETS["paper's stem"])
    a = in_framework("torch", arrays, tmp_path, "a")
    b = in_framework("keras", arrays, tmp_path, "b", epsilon=1.1e-5)
    assert denseport.verify(a, b, device="cpu", workers=workers).passed
    exact = denseport.verify(a, b, device="cpu", exact=True, workers=workers)
    assert exact.relative_error > 1e-8
    assert exact.divergence is not None
    assert exact.divergence.tap == "stem"
    assert "epsilon is 1e-05 in the first and 1.1e-05 in the second" in exact.failure


@pytest.mark.parametrize("variant", ["densenet121", "densenet161", "densenet169", "densenet201"])
def test_imagenet_nets_are_exact(variant: str, images: Path, tmp_path: Path, workers: Workers) -> None:
    config = VARIANTS[variant]
    denseport.write(checkpoint(canonical_weights(config)), tmp_path / "a.pth")
    denseport.convert(tmp_path / "a.pth", tmp_path / "b.weights.h5", to_layout="denseport", verify=False)
    report = denseport.verify(
        tmp_path / "a.pth", tmp_path / "b.weights.h5", device="cpu", exact=True, inputs=images, workers=workers
    )
    assert report.relative_error < 1e-12
    assert len(report.taps) == sum(config.block_config) + config.blocks + 2
    assert max(tap.relative_error for tap in report.taps) < 1e-12


def test_every_tap_knows_how_far_rounding_takes_each_framework(tmp_path: Path, workers: Workers) -> None:
    arrays = canonical_weights(NETS["paper's stem"])
    a, b = (in_framework(framework, arrays, tmp_path, framework) for framework in ("torch", "keras"))
    report = denseport.verify(a, b, device="cpu", workers=workers)
    for found in (*report.taps, *report.comparisons):
        assert found.reference_errors is not None
        assert all(1e-9 < error < 5e-6 for error in found.reference_errors), found
        # Both are within rounding of the same function, and cannot be further from each other than from it together.
        assert found.relative_error <= 1.01 * sum(found.reference_errors)


def test_the_assertion_for_a_teams_own_tests_says_what_is_wrong(tmp_path: Path, workers: Workers) -> None:
    arrays = canonical_weights(NETS["paper's stem"])
    a = in_framework("torch", arrays, tmp_path, "a")
    b = in_framework("keras", MISTAKES["kernel turned"][0](arrays), tmp_path, "b")
    assert assert_parity(a, a, device="cpu", workers=workers).passed
    with pytest.raises(AssertionError) as caught:
        assert_parity(a, b, device="cpu", workers=workers)
    message = str(caught.value)
    assert "they part at block1.layer3" in message
    assert "block1.layer3.conv2.weight is turned by 180 degrees" in message
    assert re.search(r"equal: .*block1\.layer3\.conv1\.weight", message)
    assert "\n  transition1 " in message


def taps(*errors: float) -> list[Tap]:
    return [Tap(f"block1.layer{n}", error) for n, error in enumerate(errors, 1)]


def test_the_first_jump_is_what_counts_and_slow_growth_is_not_one() -> None:
    found = first_divergence(taps(1e-7, 3e-7, 2e-6, 1e-3, 0.5), 1e-5, "float32")
    assert found is not None
    assert found[0].name == "block1.layer4"
    assert first_divergence(taps(1e-7, 3e-7, 2e-6, 9e-6), 1e-5, "float32") is None
    # Without a jump, the first beyond the tolerance.
    grown = first_divergence(taps(3e-6, 1e-5, 6e-5, 4e-4), 1e-4, "float32")
    assert grown is not None
    assert grown[0].name == "block1.layer4"
    assert first_divergence(taps(1e-15, 3e-10), 1e-10, "float64") is not None
    # What rounding does to the reference itself is no jump.
    noisy = [Tap("stem", 1e-4, (5e-5, 5e-5)), Tap("head", 1e-4, (5e-5, 5e-5))]
    assert first_divergence(noisy, 1e-3, "float32") is None
    assert first_divergence(taps(1e-7, float("inf")), 1e-5, "float32") is not None


def test_a_mistake_that_does_not_reach_the_outputs_is_found_all_the_same(
    images: Path, tmp_path: Path, workers: Workers
) -> None:
    """Behind a norm that lets nothing through, every net gives the same outputs."""
    arrays = canonical_weights(NETS["paper's stem"])
    arrays["head.norm.bias"] = arrays["head.norm.bias"] - np.float32(1000)
    a = in_framework("torch", arrays, tmp_path, "a")
    right = in_framework("keras", arrays, tmp_path, "right")
    b = in_framework("keras", MISTAKES["kernel turned"][0](arrays), tmp_path, "b")
    assert denseport.verify(a, right, device="cpu", inputs=images, workers=workers).passed
    for exact in (False, True):
        report = denseport.verify(a, b, device="cpu", inputs=images, exact=exact, workers=workers)
        assert report.relative_error == 0
        assert not report.passed
        assert report.divergence is not None
        assert report.divergence.tap == LAYER
        assert "; they part at block1.layer3" in report.failure


def test_another_pool_or_stride_is_found_at_the_stem_though_maps_differ_in_shape(
    images: Path, tmp_path: Path, workers: Workers
) -> None:
    arrays = canonical_weights(NETS["paper's stem"])
    a = in_framework("torch", arrays, tmp_path, "a")
    for trait, value in (("stem_pool", "none"), ("stem_stride", 1)):
        b = in_framework("keras", arrays, tmp_path / trait, "b", **{trait: value})
        report = denseport.verify(a, b, device="cpu", inputs=images, workers=workers)
        assert report.divergence is not None
        assert report.divergence.tap == "stem"
        assert f"but {trait} is" in report.failure


def test_epsilons_that_mean_the_same_count_as_one_but_where_variances_are_tiny(
    images: Path, tmp_path: Path, workers: Workers
) -> None:
    arrays = canonical_weights(NETS["paper's stem"])
    a = in_framework("torch", arrays, tmp_path, "a")
    b = in_framework("keras", arrays, tmp_path, "b", epsilon=1.001e-5)
    report = denseport.verify(a, b, device="cpu", inputs=images, exact=True, workers=workers)
    assert report.passed
    assert all(1e-12 < (comparison.trait_error or 0) < 1e-5 for comparison in report.comparisons)
    tiny = {name: array * 1e-7 if name.endswith("running_var") else array for name, array in arrays.items()}
    a = in_framework("torch", tiny, tmp_path / "tiny", "a")
    b = in_framework("keras", tiny, tmp_path / "tiny", "b", epsilon=1.001e-5)
    assert not denseport.verify(a, b, device="cpu", inputs=images, exact=True, workers=workers).passed
