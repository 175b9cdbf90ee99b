"""Files that the code bases of the ecosystem wrote: recognised, run by the twins, and written back for them to load."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import denseport

FLOAT32 = 1e-5
Script = Callable[..., Any]


@dataclass(frozen=True)
class CodeBase:
    """A script of tests/scripts, the nets that it saves, and the layout that they should be found to have.

    `folded` says that its files have scale layers, which come back as part of the normalisations before them.
    `there` names nets whose files are read but cannot be given back, since they are saved in another way than loaded.
    """

    script: str
    layout: str
    nets: tuple[str, ...]
    there: tuple[str, ...] = ()
    keras: bool = False
    folded: bool = False
    channels: int = 3
    side: int = 64


CODE_BASES = [
    CodeBase("monai_nets", "monai", ("small-2d", "small-1d", "small-3d", "densenet121-2d")),
    CodeBase("torchxrayvision_nets", "torchvision", ("small", "densenet121"), channels=1),
    CodeBase("smp_nets", "torchvision", ("small", "densenet121")),
    CodeBase("timm_nets", "torchvision", ("small", "densenet121")),
    CodeBase("timm_nets", "timm-deep", ("densenetblur121d", "small-d")),
    CodeBase("torch_cifar_nets", "gpleiss", ("gpleiss", "gpleiss-large"), side=32),
    CodeBase("torch_cifar_nets", "andreasveit", ("andreasveit", "andreasveit-basic"), side=32),
    CodeBase("torch_cifar_nets", "kuangliu", ("kuangliu",), side=32),
    CodeBase("torch_cifar_nets", "bearpaw", ("bearpaw", "bearpaw-basic"), side=32),
    CodeBase("torch_cifar_nets", "weiaicunzai", ("weiaicunzai",), side=32),
    CodeBase("keras_hub_nets", "keras-hub", ("small", "small-backbone"), keras=True),
    CodeBase("titu1994_nets", "titu1994", ("plain", "bc", "large"), ("bc-later", "bc-th", "bc-th2"), True, side=32),
    CodeBase("titu1994_nets", "titu1994-2017", (), ("bc-th1",), True, side=32),
    CodeBase("keras_contrib_nets", "keras-contrib", ("plain", "bc", "large"), keras=True, side=32),
    CodeBase("flyyufelix_nets", "flyyufelix", ("small",), keras=True, folded=True),
    CodeBase("tutorial_nets", "tutorial", ("small",), keras=True),
]


def with_images(folder: Path, base: CodeBase) -> Path:
    random = np.random.default_rng(4)
    folder.mkdir()
    for name, dimensions in (("images", 2), ("images1", 1), ("images3", 3)):
        shape = (2, *[base.side] * dimensions, base.channels)
        np.save(folder / f"{name}.npy", random.standard_normal(shape).astype(np.float32))
    return folder


def relative(a: Path, b: Path) -> float:
    first, second = np.load(a), np.load(b)
    return float(np.abs(first - second).max() / np.abs(first).max())


@pytest.mark.parametrize("base", CODE_BASES, ids=lambda base: f"{base.script}-{base.layout}")
def test_files_are_recognised_computed_and_given_back(base: CodeBase, tmp_path: Path, script: Script) -> None:
    there_and_back(base, tmp_path, script, script)


def test_files_of_keras_cv_are_recognised_computed_and_given_back(
    tmp_path: Path, script: Script, keras_2_python: str
) -> None:
    base = CodeBase("keras_cv_nets", "keras-cv", ("small", "small-backbone", "free"), keras=True)
    there_and_back(base, tmp_path, partial(script, python=keras_2_python), script)


def there_and_back(base: CodeBase, tmp_path: Path, their_script: Script, script: Script) -> None:
    """Has a code base save nets, runs them as canonical files in the other framework, and has it load them again."""
    theirs, ours = with_images(tmp_path / "theirs", base), with_images(tmp_path / "ours", base)
    their_script(base.script, "save", theirs, *base.nets, *base.there)
    own, other, back = (
        (".h5", ".safetensors", (".h5", ".weights.h5")) if base.keras else (".pth", ".h5", (".pth", ".safetensors"))
    )
    canonical = {name: ours / f"{name}{other}" for name in (*base.nets, *base.there)}
    stated = {"epsilon": 1.1e-5} if base.layout == "titu1994" else {}  # files of weights do not say it
    for name, file in canonical.items():
        report = denseport.convert(theirs / f"{name}{own}", file, to_layout="denseport", verify=False, traits=stated)
        assert report.source_layout == base.layout

    script("twin_logits", "torch" if base.keras else "keras", ours, *canonical.values())
    errors = {name: relative(theirs / f"{name}.npy", Path(f"{file}.twin.npy")) for name, file in canonical.items()}
    assert max(errors.values()) < FLOAT32, errors

    for name in base.nets:
        for suffix in back:
            target = ours / f"{name}{suffix}"
            denseport.convert(canonical[name], target, to_layout=base.layout, verify=False, force=True)
    if base.nets:
        their_script(base.script, "load", ours, *base.nets)
    for name in base.nets:
        apart = relative(theirs / f"{name}.npy", ours / f"{name}.npy")
        assert apart < FLOAT32 if base.folded else apart == 0


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize(
    "base", [base for base in CODE_BASES if base.keras and base.nets], ids=lambda base: base.script
)
def test_other_containers_of_keras_hold_the_same(base: CodeBase, suffix: str, tmp_path: Path, script: Any) -> None:
    folder = with_images(tmp_path / "theirs", base)
    script(base.script, "save", folder, base.nets[0])
    options = {"from_layout": base.layout} if suffix == ".weights.h5" else {}
    denseport.convert(folder / f"{base.nets[0]}.h5", tmp_path / "a.pth", to_layout="denseport", verify=False)
    source = folder / f"{base.nets[0]}{suffix}"
    denseport.convert(source, tmp_path / "b.pth", to_layout="denseport", verify=False, **options)
    assert not denseport.diff(tmp_path / "a.pth", tmp_path / "b.pth").different


def test_names_that_two_orders_of_concatenation_share_are_asked_about(tmp_path: Path, script: Any) -> None:
    base = CodeBase("torch_cifar_nets", "kuangliu", ("kuangliu", "kuangliu-copy"), side=32)
    folder = with_images(tmp_path / "theirs", base)
    script(base.script, "save", folder, *base.nets)
    with denseport.read(folder / "kuangliu.pth") as checkpoint:
        headless = {name: tensor for name, tensor in checkpoint.tensors.items() if "linear" not in name}
        denseport.write(denseport.Checkpoint(headless), tmp_path / "headless.pth")
    asked = r"bearpaw and kuangliu alike; they differ in concatenation.*--from-layout"
    assert re.search(asked, denseport.inspect(tmp_path / "headless.pth").problem)
    with pytest.raises(denseport.LayoutError, match=asked):
        denseport.convert(tmp_path / "headless.pth", tmp_path / "x.h5", verify=False)
    outputs = {}
    for layout in ("kuangliu", "bearpaw"):
        target = tmp_path / f"{layout}.h5"
        denseport.convert(tmp_path / "headless.pth", target, from_layout=layout, to_layout="denseport", verify=False)
        outputs[layout] = target
    assert denseport.diff(outputs["kuangliu"], outputs["bearpaw"]).different
