"""Evidence over several hundred nets of known truth: no alarm and no wrong statement, and damages are found."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from denseport.checkpoint import Tensor
from denseport.evidence import Evidence, examine
from denseport.net.config import DenseNetConfig

NETS = 280
SOUND = ("average", "momentum", "half", "drop")
RANGES = {
    "unit": "0 to 1",
    "pixels": "0 to 255",
    "signed": "-1 to 1",
    "normalised": "normalised by mean and deviation",
    "caffe": "0 to 255, less a mean",
}
STATISTICS = ("running_mean", "running_var")
AFFINE = ("weight", "bias")
DAMAGES = ("affine", "statistics", "both", "transposed", "exchanged", "exchanged statistics")


@dataclass(frozen=True)
class Net:
    """A net, what is true of it, and its configuration as names and shapes alone give it."""

    arrays: dict[str, np.ndarray]
    truth: dict[str, Any]

    @property
    def config(self) -> DenseNetConfig:
        config = DenseNetConfig.from_dict(self.truth["config"])
        return config.replace(concatenation="old-first", stem_pool="max" if config.stem_norm else "none")

    @property
    def expected(self) -> dict[str, object]:
        stem_pool = self.truth["config"]["traits"]["stem_pool"]
        return {
            "concatenation": self.truth["order"],
            "stem_pool": "none" if stem_pool == "none" else "max",
            "transition_activation": "none" if self.truth["transition"] == "no-relu" else "same",
        }

    def evidence(self, arrays: dict[str, np.ndarray] | None = None) -> Evidence:
        return examine(self.config, {name: Tensor.of(array) for name, array in (arrays or self.arrays).items()})


@pytest.fixture(scope="module")
def nets(script: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[Net]:
    folder = tmp_path_factory.mktemp("nets")
    script("evidence_nets", folder, 0, NETS)
    found = []
    for number in range(NETS):
        with safe_open(folder / f"{number}.safetensors", "numpy") as file:
            truth = json.loads(file.metadata()["truth"])
            found.append(Net({name: file.get_tensor(name) for name in file.keys()}, truth))  # noqa: SIM118
    return found


def test_nothing_wrong_is_said_of_any_net(nets: list[Net]) -> None:
    said = Counter[str]()
    for number, net in enumerate(nets):
        evidence = net.evidence()
        which = f"net {number}: {net.truth['architecture']}, {net.truth['state']}, {net.truth['fed']}"
        assert not evidence.damages, which
        assert {name: net.expected[name] for name in evidence.shown} == {
            name: shown.value for name, shown in evidence.shown.items()
        }, which
        assert not evidence.pooled or net.truth["transition"] == "max", which
        if evidence.inputs:
            assert RANGES[net.truth["fed"]] in evidence.inputs.possible, which
        said.update(evidence.shown.keys())
        said["fit"] += evidence.fit.holds
        said["inputs"] += evidence.inputs is not None
    sound = sum(net.truth["state"] in SOUND for net in nets)
    assert said["concatenation"] >= sound, "the order of every sound net is shown"
    assert all(said[each] > 0.7 * sound for each in ("fit", "inputs", "stem_pool", "transition_activation")), said


def test_statistics_of_fresh_and_random_nets_say_nothing(nets: list[Net]) -> None:
    silent = [net for net in nets if net.truth["state"] in ("fresh", "random")]
    assert len(silent) > 20
    for net in silent:
        evidence = net.evidence()
        assert (evidence.shown, evidence.inputs, evidence.damages) == ({}, None, ())


def test_damages_are_found_and_none_is_blamed_for_another(nets: list[Net]) -> None:
    found, made = Counter[str](), Counter[str]()
    sound = [net for net in nets if net.truth["state"] in SOUND and net.evidence().fit.holds]
    for number, net in enumerate(sound):
        for damage, arrays, layers in damaged(net, random.Random(number)):
            evidence = net.evidence(arrays)
            blamed = {layer for each in evidence.damages for layer in each.layers}
            assert blamed in (set(), layers), f"{damage} of {layers} in net {number}: {evidence.damages}"
            assert {name: net.expected[name] for name in evidence.shown} == {
                name: shown.value for name, shown in evidence.shown.items()
            }
            made[damage] += 1
            found[damage] += bool(blamed)
    assert all(found[damage] > 0.9 * made[damage] > 20 for damage in DAMAGES), (found, made)


def damaged(net: Net, choose: random.Random) -> Iterator[tuple[str, dict[str, np.ndarray], set[str]]]:
    """The net's arrays with each kind of mistake that it can have, in a place drawn by lot, and the layers of it."""
    names = [name.removesuffix(".running_mean") for name in net.arrays if name.endswith("running_mean")]
    norms = [name for name in names if not name.startswith(("stem", "head"))]  # what feeds or follows these is unseen
    square = [name for name, array in net.arrays.items() if is_square(name, array)]
    for damage in DAMAGES:
        arrays = dict(net.arrays)
        if damage == "transposed":
            if square:
                kernel = choose.choice(square)
                arrays[kernel] = np.ascontiguousarray(arrays[kernel].swapaxes(0, 1))
                yield damage, arrays, {kernel.removesuffix(".weight")}
            continue
        one = choose.choice(norms)
        if damage.startswith("exchanged"):
            if others := [n for n in norms if n != one and arrays[f"{n}.bias"].shape == arrays[f"{one}.bias"].shape]:
                other = choose.choice(others)
                for parameter in STATISTICS if damage.endswith("statistics") else (*STATISTICS, *AFFINE):
                    exchange(arrays, f"{one}.{parameter}", f"{other}.{parameter}")
                yield damage, arrays, {one, other}
            continue
        for pair in {"affine": (AFFINE,), "statistics": (STATISTICS,)}.get(damage, (AFFINE, STATISTICS)):
            exchange(arrays, *(f"{one}.{parameter}" for parameter in pair))
        yield damage, arrays, {one}


def is_square(name: str, array: np.ndarray) -> bool:
    """Whether a tensor is the kernel of a 1x1 convolution with as many outputs as inputs."""
    return name.endswith(".conv1.weight") and array.shape[0] == array.shape[1] and array.shape[-1] == 1


def exchange(arrays: dict[str, np.ndarray], one: str, other: str) -> None:
    arrays[one], arrays[other] = arrays[other], arrays[one]
