"""Nets under names that no layout has: found by shapes, numbers, order and statistics."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from densenets import canonical_weights

import denseport
from denseport import layouts
from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import LayoutError
from denseport.net.config import DenseNetConfig
from denseport.source import Source

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"
BC = DenseNetConfig.bc(8, (3, 4, 3), 16, num_classes=5)
CONFIGS = {
    "ImageNet": BC,
    "as wide as a bottleneck": DenseNetConfig.bc(8, (4, 4), 16, num_classes=5),
    "CIFAR": BC.replace(stem_norm=False, stem_kernel=3, stem_stride=1, stem_pool="none"),
    "plain": DenseNetConfig.bc(8, (3, 3, 3), 16, compression=1.0, num_classes=5).replace(
        bottleneck_width=None, stem_norm=False, stem_kernel=3, stem_stride=1, stem_pool="none"
    ),
    "biases": BC.replace(conv_bias=True),
    "3-D": BC.replace(dimensions=3, in_channels=1),
    "1-D": BC.replace(dimensions=1),
    "no last norm": BC.replace(final_norm=False),
    "headless": BC.without_head(),
}


def canonical(config: DenseNetConfig) -> dict[str, np.ndarray]:
    return canonical_weights(config)


def dots(name: str) -> str:
    """Everything a number: `block2.layer3.conv1.weight` as `2.3.1.weight` below a stage."""
    return re.sub(r"block(\d+)\.layer(\d+)\.(norm|conv)(\d)", r"stages.\1.units.\2.\g<3>_\4", name).replace(
        "head.", "top."
    )


def hyphens(name: str) -> str:
    return re.sub(r"block(\d+)\.layer(\d+)\.", r"body.B-\1-unit-\2.", name).replace("transition", "lists.down-")


def arithmetic(name: str) -> str:
    """Blocks count in twos, with the transitions between them; layers from zero."""
    name = re.sub(r"block(\d+)\.layer(\d+)", lambda at: f"f.{2 * int(at[1]) - 1}.n.{int(at[2]) - 1}", name)
    return re.sub(r"transition(\d+)", lambda at: f"f.{2 * int(at[1])}", name)


def flat(name: str) -> str:
    layer, _, parameter = name.rpartition(".")
    return f"{layer.replace('.', '_')}_x.{parameter}"


def file_order(names: list[str]) -> list[str]:
    return names


def transitions_last(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: name.startswith("transition"))


def head_first(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: not name.startswith("head"))


def kernels_first(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: ".norm" in name)


def renamed(
    arrays: Mapping[str, np.ndarray], naming: Callable[[str], str], order: Callable[[list[str]], list[str]] = file_order
) -> Checkpoint:
    return Checkpoint(
        {naming(name): Tensor.of(arrays[name]) for name in order(list(arrays))}, format="pth", path="x.pth"
    )


def tensors(checkpoint: Checkpoint, found: layouts.Detection) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in layouts.to_canonical(checkpoint, found).tensors.items()}


@pytest.mark.parametrize("order", [file_order, transitions_last, head_first, kernels_first])
@pytest.mark.parametrize("naming", [dots, hyphens, arithmetic, flat])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_net_is_found_whatever_its_names(
    config: DenseNetConfig, naming: Callable[[str], str], order: Callable[[list[str]], list[str]]
) -> None:
    arrays = canonical(config)
    checkpoint = renamed(arrays, naming, order)
    found = layouts.detect(checkpoint)
    assert found.layout.name == "by-shape"
    again = tensors(checkpoint, found)
    assert again.keys() == arrays.keys()
    assert not [name for name, array in arrays.items() if not np.array_equal(again[name], array)]
    assert layouts.Detection.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_what_is_assumed_is_said() -> None:
    checkpoint = renamed(canonical(BC), dots)
    notes = layouts.detect(checkpoint).notes(checkpoint)
    assert any(note.startswith("assumed, since neither the file nor its layout states it: epsilon") for note in notes)
    assert any("names are those of no known layout" in note for note in notes)


def test_a_stem_of_3x3_is_asked_for_where_nothing_shows_its_stride() -> None:
    checkpoint = renamed(canonical(BC.replace(stem_kernel=3)), dots)
    with pytest.raises(LayoutError, match=r"--trait stem_stride=1 --trait stem_pool=none$"):
        layouts.detect(checkpoint)
    found = layouts.detect(checkpoint, traits={"stem_stride": 1, "stem_pool": "none"})
    assert (found.config.traits.stem_stride, found.config.traits.stem_pool) == (1, "none")


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("block2.layer1.norm1", "block2.layer1.norm1 is missing"),
        ("block2.layer3.conv1", "takes 32 channels, where a dense layer would take 40"),
        ("transition1.conv", "channels, where a dense layer would take"),
    ],
)
def test_what_is_no_whole_net_is_refused_by_the_first_layer_that_shows_it(lost: str, reason: str) -> None:
    arrays = {name: array for name, array in canonical(BC).items() if not name.startswith(lost)}
    with pytest.raises(LayoutError, match=f"by its shapes it is no DenseNet: .*{reason}"):
        layouts.detect(renamed(arrays, dots))


def test_a_known_net_that_lacks_a_norm_is_not_taken_for_one_that_has_none() -> None:
    names = layouts.find_layout("torchvision").layer_names(BC)
    arrays = canonical(BC)
    named = {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": array for name, array in arrays.items()}
    whole = {name: Tensor.of(array) for name, array in named.items() if "norm5" not in name}
    with pytest.raises(LayoutError, match=r"missing keys features\.norm"):
        layouts.detect(Checkpoint(whole, format="pth", path="x.pth"))


def test_masks_that_let_everything_through_are_left_out_and_a_slope_is_not() -> None:
    arrays = canonical(BC)
    masks = {f"block1.layer{n}.select.indexes": np.ones(8 + 8 * n, np.float32) for n in (1, 2, 3)}
    checkpoint = renamed({**arrays, **masks}, dots)
    assert len(layouts.detect(checkpoint).dropped) == 3
    slopes = {"block1.layer1.act.weight": np.full(16, 0.25, np.float32)}
    with pytest.raises(LayoutError, match="no known layout matches"):
        layouts.detect(renamed({**arrays, **slopes}, dots))


def test_statistics_mend_what_names_mislead(fixtures: Path) -> None:
    with Source(fixtures / "digits-torch.pth") as source:
        arrays = {name: np.array(tensor.read()) for name, tensor in source.weights.tensors.items()}
    one, other = "block1.layer1.norm2", "block2.layer2.norm2"

    def misleading(name: str) -> str:
        layer, _, parameter = name.rpartition(".")
        return dots(f"{ {one: other, other: one}.get(layer, layer) }.{parameter}")

    checkpoint = renamed(arrays, misleading)
    again = tensors(checkpoint, layouts.detect(checkpoint))
    assert not [name for name, array in arrays.items() if not np.array_equal(again[name], array)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("file", ["digits-torch.pth", "digits-keras.weights.h5"])
def test_statistics_tell_layers_of_any_names_in_any_order(fixtures: Path, file: str, seed: int) -> None:
    with Source(fixtures / file) as source:
        order, config = "new-first" if seed % 2 else "old-first", source.weights.config
        weights = source.weights.concatenated(order)
        arrays = {name: np.array(tensor.read()) for name, tensor in weights.tensors.items()}
    names = sorted({name.rpartition(".")[0] for name in arrays})
    called = dict(zip(names, np.random.default_rng(seed).permutation(len(names)), strict=True))
    rename = {
        name: f"{chr(97 + called[name.rpartition('.')[0]] % 26)}x{called[name.rpartition('.')[0]] // 26}."
        for name in arrays
    }
    shuffled = sorted(arrays, key=lambda name: (rename[name], name))
    tensors_ = {rename[name] + name.rpartition(".")[2]: Tensor.of(arrays[name]) for name in shuffled}
    checkpoint = Checkpoint(tensors_, format="pth", path="x.pth")
    found = layouts.detect(checkpoint)
    assert found.config.block_config == config.block_config
    assert found.config.traits.concatenation == order
    again = tensors(checkpoint, found)
    assert not [name for name, array in arrays.items() if not np.array_equal(again[name], array)]


def test_nothing_is_written_in_a_net_s_own_names(fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="by-shape"):
        denseport.convert(fixtures / "digits-torch.pth", tmp_path / "x.pth", to_layout="by-shape", verify=False)


def test_layouts_of_one_s_own_folder_are_found_without_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = renamed(canonical(BC), dots)
    text = "\n".join(
        f'"{role}" = "{dots(role + ".")[:-1]}"' for role in layouts.find_layout("denseport").names if "{s}" not in role
    )
    text = re.sub(
        r"block\{b\}\.layer\{l\}\.(norm|conv)(\d)(?=\"$)", r"stages.{b}.units.{l}.\1_\2", text, flags=re.MULTILINE
    )
    (tmp_path / "mine.toml").write_text(f'title = "mine"\nframeworks = ["torch"]\nsource = "mine"\n[names]\n{text}\n')
    monkeypatch.setenv("DENSEPORT_LAYOUTS", str(tmp_path))
    assert layouts.detect(checkpoint).layout.name == layouts.find_layout("mine").name == "mine"
    monkeypatch.setenv("DENSEPORT_LAYOUTS", str(tmp_path / "absent"))
    with pytest.raises(LayoutError, match=r"DENSEPORT_LAYOUTS names .*absent.*, which is no folder"):
        layouts.detect(checkpoint)


@pytest.mark.skipif(not REAL.exists(), reason="../shared/real is not here")
def test_a_net_of_others_is_converted_without_a_flag(tmp_path: Path) -> None:
    report = denseport.convert(
        REAL / "plain-40-12-new-first-cifar10.pkl", tmp_path / "x.safetensors", to_layout="denseport", verify=False
    )
    assert report.origins["concatenation"] == "shown"
    assert replace(report.config.traits, concatenation="old-first").stem_pool == "none"
