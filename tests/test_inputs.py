"""What a net makes of its images before the stem, through every conversion: carried over, folded, or said."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import canonical_weights

import denseport
from denseport import formats
from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import LayoutError, UsageError
from denseport.metadata import Record, recorded_preprocessing
from denseport.net.config import DenseNetConfig, Inputs
from denseport.net.graph import shapes
from denseport.net.weights import Weights
from denseport.preprocessing import Preprocessing, find_preprocessing, preprocess, takes_unit_pixels
from denseport.running.workers import Workers
from denseport.source import Source

CONFIG = DenseNetConfig.bc(4, (1, 2, 1, 1), 8, num_classes=5)
RESCALED = Inputs(3, (0, 1, 2), (1 / 255,) * 3, (0.0,) * 3)
NORMALISED = Inputs(3, (2, 1, 0), (1 / 58, 1 / 57, 1 / 56), (-2.1, -2.0, -1.8))
COPIED = Inputs(1, (0, 0, 0), (0.5, 0.25, 1.0), (0.0,) * 3)
EVERY = {"rescaled": RESCALED, "normalised": NORMALISED, "copied": COPIED}


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as processes:
        yield processes


def written(file: Path, inputs: Inputs | None, strings: Mapping[str, str] | None = None) -> Path:
    """A net in this project's layout, whose metadata say its inputs."""
    record = Record("denseport", vars(CONFIG.traits), "torch", inputs=dataclasses.asdict(inputs) if inputs else {})
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(CONFIG).items()}
    denseport.write(Checkpoint(tensors, record.strings() | dict(strings or {})), file)
    return file


def inputs_of(file: str | Path) -> Inputs | None:
    config = denseport.inspect(file).config
    assert config
    return config.inputs


def metadata_of(file: str | Path) -> dict[str, str]:
    with formats.read(Path(file)) as checkpoint:
        return dict(checkpoint.metadata)


@pytest.mark.parametrize("inputs", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize(
    ("target", "options"),
    [("a.keras", {}), ("a.safetensors", {"to_layout": "denseport"}), ("a.h5", {"to_layout": "denseport"})],
    ids=["keras", "safetensors", "h5"],
)
def test_a_target_that_can_holds_them(
    inputs: Inputs, target: str, options: dict[str, Any], tmp_path: Path, workers: Workers
) -> None:
    source = written(tmp_path / "source.safetensors", inputs)
    report = denseport.convert(source, tmp_path / target, workers=workers, **options)
    assert report.parity
    assert report.parity.relative_error < 5e-6
    assert inputs_of(report.target) == report.config.inputs == inputs
    assert not any("image x" in note for note in report.notes)
    back = denseport.convert(report.target, tmp_path / "back.safetensors", to_layout="denseport", verify=False)
    assert inputs_of(back.target) == inputs


@pytest.mark.parametrize("inputs", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("target", ["a.pth", "a.safetensors"])
def test_one_that_cannot_says_what_it_expects(inputs: Inputs, target: str, tmp_path: Path, workers: Workers) -> None:
    source = written(tmp_path / "source.safetensors", inputs)
    report = denseport.convert(source, tmp_path / target, workers=workers)
    assert report.target_layout == "torchvision"
    assert any(inputs.formula in note for note in report.notes)
    assert inputs_of(report.target) is None
    assert report.parity
    assert report.parity.relative_error < 5e-6
    assert (report.parity.a.prepared, report.parity.b.prepared) == ("", inputs.formula)
    recorded = recorded_preprocessing(metadata_of(report.target), target)
    if inputs is COPIED:
        assert recorded is None
    else:
        images = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3))
        assert recorded
        expected = images[..., list(inputs.order)] * inputs.scale + inputs.offset
        assert np.allclose(preprocess(images, recorded), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("inputs", [RESCALED, COPIED], ids=["rescaled", "copied"])
def test_a_scale_is_folded_where_that_is_asked_for(inputs: Inputs, tmp_path: Path, workers: Workers) -> None:
    source = written(tmp_path / "source.safetensors", inputs)
    report = denseport.convert(source, tmp_path / "a.pth", fold_inputs=True, workers=workers)
    assert report.parity
    assert report.parity.relative_error < 5e-6
    assert report.parity.b.prepared == ""
    assert (report.config.inputs, report.config.in_channels) == (None, inputs.channels)
    assert any("folded into the stem's kernel" in note for note in report.notes)


def test_what_cannot_be_folded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"source\.safetensors: its net computes .* cannot be folded"):
        denseport.convert(written(tmp_path / "source.safetensors", NORMALISED), tmp_path / "a.pth", fold_inputs=True)
    with pytest.raises(UsageError, match="does nothing to its image"):
        denseport.convert(written(tmp_path / "none.safetensors", None), tmp_path / "a.pth", fold_inputs=True)
    assert not (tmp_path / "a.pth").exists()


def test_files_with_other_inputs_part_there(tmp_path: Path, workers: Workers) -> None:
    files = [written(tmp_path / f"{name}.safetensors", EVERY[name]) for name in ("rescaled", "normalised")]
    report = denseport.verify(*files, workers=workers)
    assert not report.passed
    assert report.divergence
    assert "the first makes x / 255 of an image x and the second (x[2, 1, 0] -" in report.divergence.explanation


@pytest.mark.parametrize("options", [{"head": "drop"}, {"classes": 3}], ids=str)
def test_another_head_leaves_them(options: dict[str, Any], tmp_path: Path) -> None:
    source = written(tmp_path / "source.safetensors", NORMALISED)
    report = denseport.convert(source, tmp_path / "a.safetensors", to_layout="denseport", verify=False, **options)
    assert inputs_of(report.target) == NORMALISED


def test_what_a_layout_usually_does_to_images_is_not_recorded(tmp_path: Path) -> None:
    report = denseport.convert(written(tmp_path / "source.safetensors", None), tmp_path / "a.pth", verify=False)
    assert report.target_layout == "torchvision"
    assert "preprocessing" not in metadata_of(report.target)
    assert "inputs" not in metadata_of(report.target)


def test_a_size_that_the_source_states_is_kept(tmp_path: Path) -> None:
    stated = json.dumps(Preprocessing(scale=1.0, crop=64).to_dict())
    source = written(tmp_path / "source.safetensors", RESCALED, {"preprocessing": stated})
    report = denseport.convert(source, tmp_path / "a.pth", verify=False)
    found = recorded_preprocessing(metadata_of(report.target), "it")
    assert found
    assert (found.crop, found.scale) == (64, 1 / 255)


@pytest.mark.parametrize(
    "recorded",
    [
        "{",
        "[]",
        '{"channels": 3}',
        '{"channels": 1, "order": [0], "scale": [1], "offset": [0]}',
        '{"channels": 3, "order": [0, 1, 3], "scale": [1, 1, 1], "offset": [0, 0, 0]}',
        '{"channels": 3, "order": [0, 1, 2.0], "scale": [1, 1, 1], "offset": [0, 0, 0]}',
        '{"channels": 3, "order": [0, 1, 2], "scale": [1, 0, 1], "offset": [0, 0, 0]}',
        '{"channels": 3, "order": [0, 1, 2], "scale": [1, NaN, 1], "offset": [0, 0, 0]}',
        '{"channels": 3, "order": [0, 1, 2], "scale": ["x", 1, 1], "offset": [0, 0, 0]}',
        '{"channels": 3, "order": [0, 1, 2], "scale": [5e-324, 1, 1], "offset": [0, 0, 0]}',
        '{"channels": 3, "order": [0, 1, 2], "scale": [1, 1, 1], "offset": [0, 0, Infinity]}',
        '{"channels": "3", "order": [0, 1, 2], "scale": [1, 1, 1], "offset": [0, 0, 0]}',
        f'{{"channels": 3, "order": [0, 1, 2], "scale": [1{"0" * 400}, 1, 1], "offset": [0, 0, 0]}}',
        "[" * 100_000,
    ],
)
def test_inputs_that_are_none_are_refused(recorded: str, tmp_path: Path) -> None:
    file = written(tmp_path / "source.safetensors", RESCALED, {"inputs": recorded})
    with Source(file) as source, pytest.raises(LayoutError, match="the recorded inputs are none of its net"):
        _ = source.detection


@pytest.mark.parametrize(
    ("inputs", "formula"),
    [
        (RESCALED, "x / 255"),
        (Inputs(3, (0, 1, 2), (1 / 127.5,) * 3, (-1.0,) * 3), "(x - 127.5) / 127.5"),
        (Inputs(3, (2, 1, 0), (1.0,) * 3, (-104.0, -117.0, -124.0)), "x[2, 1, 0] - (104, 117, 124)"),
        (Inputs(3, (2, 1, 0), (1.0,) * 3, (0.0,) * 3), "x[2, 1, 0]"),
        (COPIED, "x[0, 0, 0] / (2, 4, 1)"),
    ],
)
def test_their_figures_are_told(inputs: Inputs, formula: str) -> None:
    assert inputs.formula == formula


def test_folding_sums_the_copies_of_a_channel() -> None:
    arrays = canonical_weights(CONFIG, dtype="float64")
    weights = Weights(CONFIG.replace(inputs=COPIED), {name: Tensor.of(array) for name, array in arrays.items()})
    folded = weights.with_inputs_folded()
    kernel = arrays["stem.conv.weight"]
    expected = kernel[:, 0] * 0.5 + kernel[:, 1] * 0.25 + kernel[:, 2]
    assert np.allclose(folded.tensors["stem.conv.weight"].read()[:, 0], expected, rtol=1e-12)
    assert {name: tensor.shape for name, tensor in folded.tensors.items()} == dict(shapes(folded.config))


@pytest.mark.parametrize(
    ("scale", "offset", "unit"),
    [
        ((1 / 255,) * 3, (0.0,) * 3, False),
        ((1 / 127.5,) * 3, (-1.0,) * 3, False),
        ((1.0,) * 3, (-104.0, -117.0, -124.0), False),
        ((0.017,) * 3, (-1.77, -1.99, -2.1), False),
        ((1 / 0.229, 1 / 0.224, 1 / 0.225), (-2.118, -2.036, -1.804), True),
        ((2.0,) * 3, (-1.0,) * 3, True),
    ],
)
def test_figures_tell_the_range_of_pixels(
    scale: tuple[float, ...], offset: tuple[float, ...], unit: bool, tmp_path: Path
) -> None:
    assert takes_unit_pixels(scale, offset) is unit
    with Source(written(tmp_path / "a.safetensors", Inputs(3, (0, 1, 2), scale, offset))) as source:
        assert source.preprocessing == find_preprocessing("keras-cv" if unit else "none")
    found = Preprocessing.of_inputs((0, 1, 2), scale, offset)
    assert found
    assert (found.of_pixels() != found) is unit
