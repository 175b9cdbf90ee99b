"""Heads of several layers: read by names and shapes, written in every layout, and read again as they were."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import canonical_weights, equal

import denseport
from denseport import LayoutError
from denseport.checkpoint import Checkpoint, Tensor
from denseport.layouts import Detection, Weights, detect, find_layout, from_canonical, to_canonical
from denseport.layouts.sequential import sequential
from denseport.net.config import DenseNetConfig, HeadLayer

BODY = DenseNetConfig.bc(4, (2, 2, 2, 2), 8, num_classes=3)
F = BODY.features
RELU = HeadLayer("activation", activation="relu")
DROPOUT = HeadLayer("dropout")


def dense(width: int, *, bias: bool = True) -> HeadLayer:
    return HeadLayer("dense", width, bias)


def norm(epsilon: float = 1e-5) -> HeadLayer:
    return HeadLayer("norm", epsilon=epsilon)


def spelled(config: DenseNetConfig, layout: str, names: dict[str, str] | None = None) -> dict[str, Tensor]:
    """The tensors of a net in a layout; `names` are others for layers of its head, by their canonical names."""
    weights = Weights(config, {name: Tensor.of(array) for name, array in canonical_weights(config).items()})
    target = find_layout(layout)
    own = target.layer_names(config)
    changed = {own[layer]: name for layer, name in (names or {}).items()}
    framework = target.frameworks[0]
    found = {}
    for name, tensor in from_canonical(weights, target, framework).items():
        layer, parameter = framework.split(name)
        found[f"{changed.get(layer, layer)}{framework.separator}{parameter}"] = tensor
    return found


# What a head is, the names of its layers where those are not the layout's own, and what it is read as where its
# activations are not where they are assumed to be.
TORCH: dict[str, tuple[tuple[HeadLayer, ...], dict[str, str]]] = {
    "two dense": ((dense(6), RELU, DROPOUT, dense(3)), {}),
    "no bias": ((dense(6, bias=False), RELU, dense(3, bias=False)), {}),
    "dropout first": ((DROPOUT, dense(6), RELU, DROPOUT, dense(3)), {}),
    "nothing between": ((dense(6), dense(3)), {}),
    "a norm first": ((norm(), DROPOUT, dense(6), RELU, norm(), DROPOUT, dense(3)), {}),
    "a norm before the activation": ((dense(6), norm(), RELU, dense(3)), {}),
    "a norm last": ((dense(6), RELU, dense(3), norm()), {}),
    "named": ((dense(6), RELU, dense(3)), {"head.dense0": "fc1", "head.dense2": "fc2"}),
    "named, with norms": (
        (norm(), dense(6), norm(), RELU, dense(3)),
        {"head.norm0": "bn0", "head.dense1": "fc1", "head.norm2": "bn1", "head.dense4": "fc2"},
    ),
    "one before the classifier": ((dense(6), RELU, dense(3)), {"head.dense0": "extra", "head.dense2": "classifier"}),
}


def checkpoint(tensors: dict[str, Tensor], **more: Any) -> Checkpoint:
    return Checkpoint(tensors, **{"format": "pth", **more})


def arrays(read: Checkpoint, found: Detection) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in to_canonical(read, found).tensors.items()}


@pytest.mark.parametrize("kind", TORCH)
def test_a_head_of_several_layers_is_read(kind: str) -> None:
    head, names = TORCH[kind]
    config = BODY.replace(head_layers=head)
    read = checkpoint(spelled(config, "torchvision", names))
    found = detect(read)
    assert found.config.head_layers == head
    assert equal(arrays(read, found), canonical_weights(config))
    assert Detection.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    (note,) = (note for note in found.notes(read) if note.startswith("behind the pool stand "))
    assert ("hidden_activation relu" in note) is (RELU in head)
    shuffled = checkpoint(dict(sorted(read.tensors.items())), format="safetensors")
    assert detect(shuffled).config == found.config


def test_what_stands_between_layers_is_as_the_user_states() -> None:
    head = (dense(6), norm(2e-3), HeadLayer("activation", activation="gelu"), dense(3))
    config = BODY.replace(head_layers=head)
    read = checkpoint(spelled(config, "torchvision"))
    assert detect(read, traits={"hidden_activation": "gelu", "hidden_epsilon": 2e-3}).config.head_layers == head
    for trait in ({"hidden_activation": "tanh"}, {"hidden_epsilon": 1e-4}):
        with pytest.raises(LayoutError, match=f"--trait {next(iter(trait))}=.* leave it out"):
            detect(checkpoint(spelled(BODY, "torchvision")), traits=trait)


@pytest.mark.parametrize(
    ("layout", "suffix"),
    [
        (layout, suffix)
        for layout in ("torchvision", "keras-applications-2", "denseport", "flyyufelix", "monai")
        for suffix in (".pth", ".h5", ".weights.h5", ".safetensors")
        if "h5" not in suffix or any(framework.runs_in == "keras" for framework in find_layout(layout).frameworks)
    ],
)
def test_a_head_comes_back_as_it_was(layout: str, suffix: str, tmp_path: Path) -> None:
    """Activations, dropout and epsilons travel in the metadata, whatever the layers are called."""
    head = (norm(2e-3), dense(6, bias=False), HeadLayer("activation", activation="tanh"), DROPOUT, norm(), dense(3))
    config = DenseNetConfig.bc(32, (1, 1, 1, 1), 64, num_classes=3, head_layers=head)
    first, then, back = tmp_path / "a.safetensors", tmp_path / f"b{suffix}", tmp_path / "c.safetensors"
    tensors = spelled(config, "denseport")
    metadata = {"layout": "denseport", "head": json.dumps([dataclasses.asdict(layer) for layer in head])}
    denseport.write(Checkpoint(tensors, metadata), first)
    options: dict[str, Any] = {"verify": False, "allow_trait_mismatch": True}
    denseport.convert(first, then, to_layout=layout, **options)
    report = denseport.convert(then, back, to_layout="denseport", **options)
    assert report.source_layout == layout
    assert report.config.head_layers == head
    with denseport.read(back) as read:
        assert equal(
            {name: tensor.read() for name, tensor in read.tensors.items()}, {n: t.read() for n, t in tensors.items()}
        )


def test_a_layer_on_twice_the_features_is_asked_about() -> None:
    config = BODY.replace(head_pool="max-mean", head_layers=TORCH["two dense"][0])
    read = checkpoint(spelled(config, "torchvision"))
    with pytest.raises(
        LayoutError, match=rf"takes {2 * F} features.*--trait head_pool=mean-max or --trait head_pool=max"
    ):
        detect(read)
    found = detect(read, traits={"head_pool": "max-mean"})
    assert found.config == config
    assert equal(arrays(read, found), canonical_weights(config))
    assert detect(read, head="drop").config.traits.head_pool == "mean"


@pytest.mark.parametrize("layout", ["torchvision", "keras-applications"])
def test_a_head_on_a_whole_map_is_read_with_the_size_of_images(layout: str) -> None:
    head = (norm(find_layout(layout).frameworks[0].epsilon), dense(6), RELU, dense(3))
    config = BODY.replace(head_shape=(2, 2), head_layers=head)
    read = checkpoint(spelled(config, layout))
    found = detect(read)
    assert (found.config.head_shape, found.config.head_layers) == ((2, 2), head)
    assert equal(arrays(read, found), canonical_weights(config))
    assert any("whole last map, that of images of 64x64 pixels" in note for note in found.notes(read))


def test_a_convolution_of_one_pixel_is_a_dense_layer() -> None:
    tensors = spelled(BODY, "torchvision")
    kernel = tensors["classifier.weight"].read()
    tensors["classifier.weight"] = Tensor.of(kernel[:, :, None, None])
    read = checkpoint(tensors)
    found = detect(read)
    assert found.config == BODY
    assert equal(arrays(read, found), canonical_weights(BODY))


def test_a_classifier_without_bias_is_said_to_have_none() -> None:
    config = BODY.replace(classifier_bias=False)
    read = checkpoint(spelled(config, "torchvision"))
    found = detect(read)
    assert found.config == config
    assert "the classifier has no bias" in found.notes(read)


@pytest.mark.parametrize("name", ["features.extra", "features.norm6"])
def test_a_layer_beside_the_blocks_is_none_of_the_head(name: str) -> None:
    """It runs among them or before the pool, whatever its width."""
    config = BODY.replace(head_layers=(norm(), dense(3)))
    tensors = spelled(config, "torchvision", {"head.norm0": name, "head.dense1": "classifier"})
    with pytest.raises(LayoutError, match=f"unexpected keys {name}"):
        detect(checkpoint(tensors))


def test_layers_in_an_order_that_nothing_shows_are_refused() -> None:
    config = BODY.replace(head_layers=(dense(F), RELU, dense(F), RELU, dense(3)))
    names = {"head.dense0": "second", "head.dense2": "first", "head.dense4": "last"}
    tensors = spelled(config, "torchvision", names)
    assert detect(checkpoint(tensors)).config == config, "a state dict keeps the order of its modules"
    with pytest.raises(LayoutError, match="--head drop"):
        detect(checkpoint(dict(sorted(tensors.items())), format="safetensors"))


NUMBERED = DenseNetConfig.bc(4, (2, 2, 2), 8, num_classes=3, stem_kernel=3, stem_norm=False)


@pytest.mark.parametrize(
    "head",
    [
        (dense(6), RELU, dense(3)),
        (norm(1e-3), dense(3)),
        (norm(1e-3), dense(6), RELU, norm(1e-3), dense(3)),
    ],
    ids=["two dense", "a norm first", "norms"],
)
def test_layers_of_a_head_are_told_by_their_order_where_keras_numbers_them(head: tuple[HeadLayer, ...]) -> None:
    config = NUMBERED.replace(head_layers=head)
    read = checkpoint(spelled(config, "titu1994"), format="h5", container="Keras 2 legacy h5")
    found = detect(read)
    assert found.config.head_layers == head
    assert equal(arrays(read, found), canonical_weights(config))


@pytest.mark.parametrize(
    ("layout", "names"),
    {
        "torchvision": ["classifier.0", "classifier.1", "classifier.3"],
        "kuangliu": ["linear.0", "linear.1", "linear.3"],
        "keras-contrib": ["head_dense0", "head_norm1", "head_dense3"],
        "titu1994": ["dense", "batch_normalization_15", "dense_1"],
        "denseport": ["head.dense0", "head.norm1", "head.dense3"],
    }.items(),
)
def test_a_layout_calls_the_layers_of_a_head_as_its_framework_does(layout: str, names: list[str]) -> None:
    config = NUMBERED.replace(head_layers=TORCH["a norm before the activation"][0])
    own = find_layout(layout).layer_names(config)
    assert [own[layer] for layer in ("head.dense0", "head.norm1", "head.dense3")] == names


@pytest.mark.parametrize("kind", [kind for kind, (_, names) in TORCH.items() if not names])
def test_the_note_prints_a_sequential_that_has_the_parameters(kind: str) -> None:
    head = TORCH[kind][0]
    text = sequential(BODY.replace(head_layers=head))
    modules = text.removeprefix("nn.Sequential(").split(", nn.")
    assert len(modules) == len(head)
    assert text.count("nn.Linear(") == sum(layer.kind == "dense" for layer in head)
    widths = [layer.width for layer in head if layer.width]
    for before, after in itertools.pairwise([F, *widths]):
        assert f"nn.Linear({before}, {after}" in text


def test_converting_says_how_to_build_the_head(tmp_path: Path) -> None:
    config = BODY.replace(head_layers=TORCH["two dense"][0])
    denseport.write(checkpoint(spelled(config, "torchvision")), tmp_path / "a.pth")
    told = {}
    for target in ("b.pth", "b.h5", "c.pth"):
        options = (
            {"to_layout": "denseport"}
            if target == "c.pth"
            else {"to_layout": "keras-contrib"}
            if "h5" in target
            else {}
        )
        report = denseport.convert(
            tmp_path / "a.pth", tmp_path / target, verify=False, allow_trait_mismatch=True, **options
        )
        told[target] = [note for note in report.notes if " must stand " in note or "nn.Sequential" in note]
    sequence = f"nn.Sequential(nn.Linear({F}, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))"
    assert told == {
        "b.pth": [f"the target loads strictly into a model whose classifier is {sequence}"],
        "b.h5": [
            "behind the pool of the model that loads the target must stand head_dense0 (dense of 6 outputs), relu, "
            "dropout, head_dense3 (dense of 3 outputs)"
        ],
        "c.pth": [],
    }


def test_what_a_conversion_assumes_stays_assumed_in_what_it_writes(tmp_path: Path) -> None:
    denseport.write(checkpoint(spelled(BODY, "torchvision")), tmp_path / "a.pth")
    options: dict[str, Any] = {"verify": False, "to_layout": "denseport"}
    denseport.convert(tmp_path / "a.pth", tmp_path / "b.pth", traits={"epsilon": 2e-3, "padding": "same"}, **options)
    denseport.convert(tmp_path / "b.pth", tmp_path / "c.h5", **options)
    found = denseport.inspect(tmp_path / "c.h5")
    assert found.config is not None
    assert (found.config.traits.epsilon, found.config.traits.padding) == (2e-3, "same")
    stated = {name for name, how in found.origins.items() if how == "stated"}
    assert stated == {"epsilon", "padding"}
    assert found.config.head_shape == ()


def test_a_new_classifier_replaces_a_head_of_several_layers(tmp_path: Path) -> None:
    config = BODY.replace(head_layers=TORCH["two dense"][0])
    denseport.write(checkpoint(spelled(config, "torchvision")), tmp_path / "a.pth")
    report = denseport.convert(tmp_path / "a.pth", tmp_path / "b.pth", verify=False, classes=7)
    assert (report.config.head_layers, report.config.num_classes) == ((), 7)
    report = denseport.convert(tmp_path / "a.pth", tmp_path / "c.pth", verify=False, head="drop")
    assert (report.config.head_layers, report.config.num_classes) == ((), None)
