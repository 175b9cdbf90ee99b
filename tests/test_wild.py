"""Files as people have them: what is written computes what the file's own net did, or the reason is said.

The makers of the files, and what right means, stand in ../shared/wild, where that folder is. Each of their kinds has a
test of its own elsewhere: in test_keras_graph, test_pickled_objects, test_search, test_heads_computed, test_evidence.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import denseport
from denseport.errors import DenseportError

WILD = Path(__file__).resolve().parents[2] / "shared" / "wild"
SUFFIXES = (".pth", ".h5", ".keras", ".safetensors")
Script = Callable[..., Any]

pytestmark = pytest.mark.skipif(not WILD.exists(), reason="the makers of such files, ../shared/wild, are not here")

REFUSED = {
    "encoder_of_more.pth": r"holds the body of a DenseNet at encoder.*--head drop$",
    "momentum_contrast.pth": r"--net state_dict\.module\.encoder_q or --net state_dict\.module\.encoder_k",
    "moving_average.pth.tar": r"weights as they were trained.*averaged weights.*--net state_dict or --net",
    "contradicts_itself.pth": r"negative variances in block2\.layer2\.norm1\.running_var",
    "adapted.weights.h5": r"normalization_1 normalises the model's images.*give the whole model \(\.keras\)",
    "input_norm.weights.h5": r"batch_normalization normalises the model's images.*give the whole model \(\.keras\)",
    "both_pools.weights.h5": r"--trait head_pool=mean-max or --trait head_pool=max-mean",
    "own_net.weights.h5": r"--trait epsilon=0\.001 or --trait epsilon=1\.1e-05",
}
# Files of weights that do not say what stands beside them, and the note that says so.
ASSUMED = {
    "chest.pth.tar": "would not show in a file of weights",
    "two_layer_head.pth": "assumed, since weights do not show it: hidden_activation relu",
    "rescaling.weights.h5": "a model which has rescaling",
    "augmentation.weights.h5": "a model which has rescaling",
    "normalization.weights.h5": "a model which has normalization, rescaling",
    "preprocess_input.weights.h5": "dense_4 was taken for the classifier; another pool before it, or an activation",
    "relu_output.weights.h5": "would not show in a file of weights",
    "two_dense.weights.h5": "hidden_activation relu",
    "norm_dense.weights.h5": "hidden_epsilon 0.001",
    "flatten.weights.h5": "that of images of 64x64 pixels",
    "max_pool.weights.h5": "would not show in a file of weights",
    "no_bias.weights.h5": "the classifier has no bias",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wild")
    for library in ("torch", "keras"):
        command = [sys.executable, WILD / f"make_{library}.py", folder / library]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def converted(file: Path, folder: Path, suffix: str) -> Path | None:
    """What is written of a file, or None where it is refused or noted as it should be."""
    target = folder / f"{file.name}{suffix}"
    layout = {} if suffix == ".keras" else {"to_layout": "denseport"}
    if file.name in REFUSED:
        with pytest.raises(DenseportError, match=REFUSED[file.name]):
            denseport.convert(file, target, verify=False, **layout)  # type: ignore[arg-type]
        return None
    report = denseport.convert(file, target, verify=False, **layout)  # type: ignore[arg-type]
    if file.name in ASSUMED:
        assert any(ASSUMED[file.name] in note for note in report.notes), report.notes
    return None if file.name in ASSUMED and file.name.endswith(".weights.h5") else target


def errors(files: Mapping[str, tuple[Path, Path]], framework: str, script: Script) -> dict[str, float]:
    """How far the framework's twin of each file is from the outputs that are known."""
    # The sigmoid behind a chest X-ray net's classifier has no weights.
    behind = {name: "sigmoid" if name.startswith("chest") else "" for name in files}
    pairs = (f"{name}={file}={known}={behind[name]}" for name, (file, known) in files.items())
    return dict(script("wild_outputs", framework, *pairs))


@pytest.mark.parametrize(("library", "other"), [("torch", "keras"), ("keras", "torch")])
def test_every_kind_is_computed_by_the_other_framework_or_refused_or_noted(
    library: str, other: str, made: Path, tmp_path: Path, script: Script
) -> None:
    written = {}
    for file in sorted((made / library).iterdir()):
        reference = made / library / f"{file.name.partition('.')[0]}.npz"
        for suffix in (".h5",) if library == "torch" else SUFFIXES:
            if file.suffix != ".npz" and (target := converted(file, tmp_path, suffix)) is not None:
                written[target.name] = (target, reference)
    found = errors(written, other, script)
    assert len(found) >= 10
    assert {name: error for name, error in found.items() if not error < 5e-6} == {}
