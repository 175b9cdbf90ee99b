"""What weights show, in use: before a layout's usual traits, against what is stated, and in what users are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import denseport
from denseport import formats, layouts, text
from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import LayoutError
from denseport.layouts.shown import as_shown
from denseport.metadata import LAYOUT, TRAITS
from denseport.source import Source
from denseport.terminal import Row

NORM = "block1.layer2.norm1"


@pytest.fixture(scope="module")
def canonical(fixtures: Path) -> layouts.Weights:
    with Source(fixtures / "digits-torch.pth") as source:
        weights = source.weights
        return replace(weights, tensors={name: Tensor.of(np.array(t.read())) for name, t in weights.tensors.items()})


@pytest.fixture(scope="module")
def new_first(canonical: layouts.Weights) -> Checkpoint:
    """The same function under torchvision's names, as code computes it that puts new features first."""
    return in_torchvision(canonical.concatenated("new-first").tensors, canonical)


def in_torchvision(
    tensors: Mapping[str, Tensor], weights: layouts.Weights, metadata: Mapping[str, str] = {}
) -> Checkpoint:
    names = layouts.find_layout("torchvision").layer_names(weights.config)
    split = {name: name.rpartition(".") for name in tensors}
    named = {f"{names[split[name][0]]}.{split[name][2]}": tensor for name, tensor in tensors.items()}
    return Checkpoint(named, metadata, format="safetensors", path="net.safetensors")


def written(checkpoint: Checkpoint, path: Path) -> Path:
    formats.write(dict(checkpoint.tensors), dict(checkpoint.metadata), path, "safetensors", {}, path, {})
    return path


def test_what_the_weights_show_goes_before_the_layout(new_first: Checkpoint) -> None:
    found = layouts.detect(new_first)
    assert found.layout.name == "torchvision"
    assert found.config.traits.concatenation == "new-first"
    assert found.known_as["concatenation"] == found.known_as["stem_pool"] == "shown"
    assert found.known_as["epsilon"] == "assumed"
    assert any("new-first, not old-first as in layout torchvision" in note for note in found.notes(new_first))


def test_whole_numbers_beside_the_net_do_not_silence_its_weights(new_first: Checkpoint) -> None:
    nested = {f"model.{name}": tensor for name, tensor in new_first.tensors.items()}
    counts = {"metrics.confusion": Tensor.of(np.zeros((10, 10), np.int64))}
    found = layouts.detect(replace(new_first, tensors=nested | counts))
    assert found.dropped == ("metrics.confusion",)
    assert found.config.traits.concatenation == "new-first"


def test_a_net_that_puts_new_features_first_is_converted_into_the_same_function(
    new_first: Checkpoint, canonical: layouts.Weights, tmp_path: Path
) -> None:
    source = written(new_first, tmp_path / "copy.safetensors")
    report = denseport.convert(source, tmp_path / "out.safetensors", to_layout="denseport", verify=False)
    assert report.origins["concatenation"] == "shown"
    with Source(tmp_path / "out.safetensors") as target:
        for name, tensor in canonical.tensors.items():
            assert np.array_equal(target.weights.tensors[name].read(), tensor.read()), name


def test_what_agrees_with_the_layout_is_shown_without_a_note(fixtures: Path) -> None:
    with Source(fixtures / "digits-torch.pth") as source:
        assert source.detection.known_as["concatenation"] == "shown"
        assert not [note for note in source.detection.findings if "layout torchvision:" in note]


def test_what_the_user_states_is_taken_and_the_contradiction_said(new_first: Checkpoint) -> None:
    found = layouts.detect(new_first, traits={"concatenation": "old-first"})
    assert found.config.traits.concatenation == "old-first"
    assert any("as --trait states, though the weights show new-first" in note for note in found.findings)


@pytest.mark.parametrize("remedy", ["old-first", "new-first"])
def test_recorded_traits_that_the_weights_deny_are_refused(canonical: layouts.Weights, remedy: str) -> None:
    metadata = {LAYOUT: "torchvision", TRAITS: json.dumps({"concatenation": "old-first"})}
    checkpoint = in_torchvision(canonical.concatenated("new-first").tensors, canonical, metadata)
    with pytest.raises(LayoutError, match=r"states concatenation old-first, and its weights show new-first: .*--trait"):
        layouts.detect(checkpoint)
    assert layouts.detect(checkpoint, traits={"concatenation": remedy}).config.traits.concatenation == remedy


def test_a_description_that_the_weights_deny_is_refused(new_first: Checkpoint) -> None:
    believed = layouts.detect(new_first, traits={"concatenation": "old-first"})
    described = replace(believed, origins={**believed.origins, "concatenation": "file"})
    with pytest.raises(LayoutError, match="file states concatenation old-first, and its weights show new-first"):
        as_shown(described, new_first)


def test_a_mistake_in_the_weights_is_named_by_the_files_own_names(canonical: layouts.Weights, tmp_path: Path) -> None:
    tensors = dict(canonical.tensors)
    for one, other in (("weight", "bias"), ("running_mean", "running_var")):
        tensors[f"{NORM}.{one}"], tensors[f"{NORM}.{other}"] = tensors[f"{NORM}.{other}"], tensors[f"{NORM}.{one}"]
    report = denseport.inspect(written(in_torchvision(tensors, canonical), tmp_path / "broken.safetensors"))
    (note,) = [note for note in report.notes if "contradict themselves" in note]
    assert f"in features.denseblock1.denselayer2.norm1 ({NORM}): scale and shift are swapped, and so are mean" in note


def test_layouts_alike_but_for_a_trait_are_told_apart_by_the_weights(new_first: Checkpoint, tmp_path: Path) -> None:
    """A layout of one's own with torchvision's names does not stand in the way of torchvision's."""
    own = tmp_path / "copies.toml"
    own.write_text(
        'extends = "torchvision"\ntitle = "copies"\nsource = "mine"\n[traits]\nconcatenation = "new-first"\n'
    )
    found = layouts.detect(new_first, own)
    assert not [note for note in found.findings if "layout copies:" in note]


def test_images_of_another_range_than_the_layouts_are_said(fixtures: Path) -> None:
    report = denseport.inspect(fixtures / "digits-torch.pth")
    assert any("which layout torchvision assumes, gives others" in note for note in report.notes)
    assert report.evidence["inputs"].startswith("mean ")
    rows = [row for row in text.inspection(report) if isinstance(row, Row)]
    assert any(row.label == "evidence" and "pairs of normalisations agree" in row.value for row in rows)


def test_a_detection_with_evidence_travels_as_json(new_first: Checkpoint) -> None:
    found = layouts.detect(new_first)
    again = layouts.Detection.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert again.evidence is None
