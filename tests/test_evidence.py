"""What weights say of their own net: on trained nets, and on the same nets with a mistake made in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from densenets import canonical_weights

from denseport.checkpoint import Tensor
from denseport.evidence import Evidence, examine
from denseport.evidence.inputs import inputs
from denseport.layouts import Weights
from denseport.net.config import DenseNetConfig
from denseport.source import Source

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"
FILES = ("digits-torch.pth", "digits-keras.weights.h5")
# Three places in each of the two nets: a block's first layer, one within, and a transition.
PLACES = ("block1.layer1.norm2", "block2.layer1.norm1", "transition1.norm")


def weights_of(path: Path) -> Weights:
    """A file's weights in canonical names, all of them in memory."""
    with Source(path) as source:
        weights = source.weights
        return replace(weights, tensors={name: Tensor.of(np.array(t.read())) for name, t in weights.tensors.items()})


def evidence_of(weights: Weights) -> Evidence:
    return examine(weights.config, weights.tensors)


def values(evidence: Evidence) -> dict[str, object]:
    return {trait: shown.value for trait, shown in evidence.shown.items()}


def exchanged(weights: Weights, *pairs: tuple[str, str]) -> Weights:
    """The same weights, but for tensors that stand in each other's place."""
    tensors = dict(weights.tensors)
    for one, other in pairs:
        tensors[one], tensors[other] = tensors[other], tensors[one]
    return replace(weights, tensors=tensors)


@pytest.mark.parametrize("file", FILES)
def test_a_trained_net_shows_its_order_its_pools_and_its_images(fixtures: Path, file: str) -> None:
    evidence = evidence_of(weights_of(fixtures / file))
    assert values(evidence) == {"concatenation": "old-first", "stem_pool": "max", "transition_activation": "same"}
    assert evidence.fit.error < 0.03
    assert not evidence.damages
    assert not evidence.pooled
    with np.load(fixtures / "digits-test.npz") as digits:
        mean = digits["images"].mean()
    assert evidence.inputs is not None
    assert np.allclose(evidence.inputs.mean, mean, rtol=0.15)
    assert evidence.inputs.possible == (), "pixels of 0 to 16 are of no usual range"


@pytest.mark.parametrize("file", FILES)
def test_the_same_net_in_the_other_order_is_told(fixtures: Path, file: str) -> None:
    turned = weights_of(fixtures / file).concatenated("new-first")
    believed = replace(turned, config=turned.config.replace(concatenation="old-first"))
    evidence = evidence_of(believed)
    assert values(evidence)["concatenation"] == "new-first"
    assert evidence.fit.holds
    assert not evidence.damages


@pytest.mark.parametrize("norm", PLACES)
@pytest.mark.parametrize("file", FILES)
def test_a_swapped_scale_and_shift_is_found(fixtures: Path, file: str, norm: str) -> None:
    broken = exchanged(weights_of(fixtures / file), (f"{norm}.weight", f"{norm}.bias"))
    (damage,) = evidence_of(broken).damages
    assert damage.layers == (norm,)
    assert damage.mistake == "scale and shift are swapped"


@pytest.mark.parametrize("norm", PLACES)
@pytest.mark.parametrize("file", FILES)
def test_a_swapped_mean_and_variance_is_found(fixtures: Path, file: str, norm: str) -> None:
    broken = exchanged(weights_of(fixtures / file), (f"{norm}.running_mean", f"{norm}.running_var"))
    (damage,) = evidence_of(broken).damages
    assert damage.layers == (norm,)
    assert damage.mistake == "mean and variance are swapped"


@pytest.mark.parametrize(
    "parameters", [("running_mean", "running_var"), ("weight", "bias", "running_mean", "running_var")]
)
@pytest.mark.parametrize("layers", [("block1.layer1", "block2.layer1"), ("block2.layer1", "block3.layer1")])
@pytest.mark.parametrize("file", FILES)
def test_two_exchanged_normalisations_are_found(
    fixtures: Path, file: str, layers: tuple[str, str], parameters: tuple[str, ...]
) -> None:
    one, other = (f"{layer}.norm2" for layer in layers)
    pairs = [(f"{one}.{parameter}", f"{other}.{parameter}") for parameter in parameters]
    (damage,) = evidence_of(exchanged(weights_of(fixtures / file), *pairs)).damages
    assert set(damage.layers) == {one, other}
    assert "exchanged" in damage.mistake


def test_two_mistakes_in_two_places_are_both_found(fixtures: Path) -> None:
    weights = weights_of(fixtures / FILES[0])
    pairs = [("block1.layer2.norm2.weight", "block1.layer2.norm2.bias")]
    pairs += [("block3.layer2.norm1.running_mean", "block3.layer2.norm1.running_var")]
    damages = evidence_of(exchanged(weights, *pairs)).damages
    assert {damage.layers for damage in damages} == {("block1.layer2.norm2",), ("block3.layer2.norm1",)}


@pytest.mark.parametrize("statistics", ["fresh", "random"])
def test_statistics_of_no_net_say_nothing(statistics: str) -> None:
    config = DenseNetConfig.bc(8, (3, 4, 3), 16, num_classes=5)
    arrays = canonical_weights(config)
    if statistics == "fresh":
        for name, array in arrays.items():
            if name.endswith(("running_mean", "running_var")):
                array[:] = name.endswith("var")
    evidence = examine(config, {name: Tensor.of(array) for name, array in arrays.items()})
    assert (evidence.shown, evidence.inputs, evidence.damages) == ({}, None, ())
    assert not evidence.fit.holds


def test_blocks_of_opposite_orders_give_no_order(fixtures: Path) -> None:
    weights = weights_of(fixtures / FILES[0])
    turned = weights.concatenated("new-first").tensors
    mixed = {name: turned[name] if name.startswith("block2") else own for name, own in weights.tensors.items()}
    assert "concatenation" not in examine(weights.config, mixed).shown


@pytest.mark.parametrize(
    ("scale", "offset", "possible"),
    [(255, 0, {"0 to 255"}), (1, 0, {"0 to 1", "-1 to 1"}), (7, -3, {"normalised by mean and deviation"})],
)
def test_the_range_of_smooth_images_is_told(scale: float, offset: float, possible: set[str]) -> None:
    draw = np.random.default_rng(0)
    kernel = draw.standard_normal((24, 3, 3, 3))
    grey, own = draw.uniform(0, 1, (400, 1)), draw.uniform(0, 1, (400, 3))
    pixels = (0.8 * grey + 0.2 * own) * scale + offset  # nine alike in each window
    seen = pixels @ kernel.sum((2, 3)).T
    found = inputs(kernel, seen.mean(0), seen.var(0))
    assert found is not None
    assert np.allclose(found.mean, pixels.mean(0), atol=0.01 * scale)
    assert set(found.possible) == possible
    assert found.are_pixels is (possible == {"0 to 255"})


@pytest.mark.skipif(not REAL.exists(), reason="../shared/real is not here")
def test_a_net_that_others_trained_shows_what_its_authors_say() -> None:
    evidence = evidence_of(weights_of(REAL / "dice-densenet-bc-100-12-cifar10.pth.tar"))
    assert values(evidence) == {"concatenation": "old-first", "transition_activation": "same"}
    assert evidence.inputs is not None
    assert evidence.inputs.possible == ("normalised by mean and deviation",)
    assert not evidence.damages
