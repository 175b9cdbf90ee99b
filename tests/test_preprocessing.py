"""Preprocessing gives what the libraries' own gives, travels as JSON, and refuses what is none."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from denseport.errors import FormatError, LayoutError, UsageError
from denseport.layouts import known_layouts
from denseport.layouts.parse import known_text, parse
from denseport.preprocessing import PREPROCESSING, Preprocessing, find_preprocessing, fitted, preprocess

SIZES = {"landscape": (301, 227), "portrait": (190, 411), "square": (256, 256), "small": (61, 50)}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Neither flat nor noise: a shift by a pixel and a wrong interpolation both show."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (height // 7, width // 7, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def by_torch_libraries(script: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in SIZES.items():
        picture(*size).save(folder / name, "png")
    results = tmp_path_factory.mktemp("results") / "results.npz"
    script("preprocessing_torch", folder, results)
    return dict(np.load(results))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("library", "side", "changes"),
    [
        ("torchvision", 224, {}),
        ("timm", 224, {"interpolation": "bicubic"}),
        ("timm-288", 288, {"interpolation": "bicubic", "crop_fraction": 0.95}),
    ],
)
def test_images_are_made_as_torchvision_and_timm_make_them(
    by_torch_libraries: dict[str, np.ndarray], size: str, library: str, side: int, changes: dict[str, Any]
) -> None:
    spec = dataclasses.replace(PREPROCESSING["torch"], **changes)
    made = preprocess(fitted(picture(*SIZES[size]), side, spec)[None], spec)[0]
    expected = by_torch_libraries[f"{library}/{size}"]
    assert made.dtype == np.float32
    assert made.shape == expected.shape == (side, side, 3)
    assert np.abs(made - expected).max() < 1e-6


def test_grey_images_are_made_as_torchxrayvision_makes_them(by_torch_libraries: dict[str, np.ndarray]) -> None:
    grey = np.asarray(picture(*SIZES["square"]).convert("L"))[None, ..., None]
    made = preprocess(grey, PREPROCESSING["torchxrayvision"])[0]
    assert np.abs(made - by_torch_libraries["torchxrayvision/square"]).max() < 1e-6 * 1024


def test_images_are_made_as_keras_makes_them(script: Callable[..., Any], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    script("preprocessing_keras", tmp_path / "images.npz", tmp_path / "results.npz")
    with np.load(tmp_path / "results.npz") as found:
        by_keras = dict(found)
    wanted = {"torch": "torch", "densenet": "torch", "rescaling": "keras-cv", "caffe": "caffe"}
    for mode, name in wanted.items():
        for pixels in (images, images.astype(np.float32)):
            made = preprocess(pixels, PREPROCESSING[name])
            assert np.abs(made - by_keras[mode]).max() <= 1e-6 * np.abs(made).max(), mode
    scaled = preprocess(images, PREPROCESSING["densenet-caffe"])
    assert np.abs(scaled - by_keras["caffe"] * np.float32(0.017)).max() < 1e-6
    assert np.abs(preprocess(images, Preprocessing((0.5,), (0.5,))) - by_keras["tf"]).max() < 1e-6


def test_without_preprocessing_images_stay_as_they_are() -> None:
    images = np.random.default_rng(0).standard_normal((2, 4, 3, 3), np.float32)
    assert np.array_equal(preprocess(images, PREPROCESSING["none"]), images)
    five = np.arange(5, dtype=np.uint8).reshape(1, 1, 1, 5)
    assert np.array_equal(preprocess(five, PREPROCESSING["none"]), five)


def test_channels_are_reversed_into_contiguous_memory() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    made = preprocess(images, Preprocessing(scale=1.0, channel_order="bgr"))
    assert np.array_equal(made, images[..., ::-1])
    assert made.flags.c_contiguous


def test_a_grey_image_takes_the_average_of_the_figures() -> None:
    mean, std = PREPROCESSING["torch"].statistics(1)
    assert mean.shape == std.shape == (1,)
    assert (round(mean[0], 3), round(std[0], 3)) == (0.449, 0.226)


@pytest.mark.parametrize("images", [np.zeros((1, 2, 2, 4)), np.zeros((1, 2, 2, 3), bool), np.full((1, 2, 2, 3), "a")])
def test_what_figures_do_not_fit_is_refused(images: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"preprocessing for 3 channels does not fit 4|are no numbers"):
        preprocess(images, PREPROCESSING["torch"])


@pytest.mark.parametrize("name", PREPROCESSING)
def test_every_preprocessing_travels_as_json(name: str) -> None:
    spec = find_preprocessing(name)
    assert Preprocessing.from_dict(json.loads(json.dumps(spec.to_dict())), "x.safetensors") == spec


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "must be a table"),
        ([], "must be a table"),
        ({"means": [0]}, "has no means"),
        ({"\x1b[2J": 0}, r"has no \\x1b\[2J"),
        ({"mean": 0.5}, "mean must be one number or one a channel"),
        ({"mean": []}, "mean must be"),
        ({"mean": [0.1, 0.2]}, "mean must be"),
        ({"mean": [0.1, 0.2, "0.3"]}, "mean must be a number"),
        ({"mean": [math.nan]}, "mean must be a number"),
        ({"mean": [True]}, "mean must be a number"),
        ({"mean": [10**400]}, "mean must be a number"),
        ({"std": [0.0]}, "std must be a number"),
        ({"std": [-1.0]}, "std must be a number"),
        ({"std": [math.inf]}, "std must be a number"),
        ({"scale": 0}, "scale must be a number"),
        ({"scale": None}, "scale must be a number"),
        ({"crop": 0}, "crop must be 1 to 4096"),
        ({"crop": 100_000}, "crop must be 1 to 4096"),
        ({"crop": True}, "crop must be 1 to 4096"),
        ({"crop": 224.0}, "crop must be 1 to 4096"),
        ({"crop_fraction": 1.1}, "crop_fraction must be a number"),
        ({"crop_fraction": 1e-9}, "crop_fraction must be a number"),
        ({"channel_order": "grb"}, "channel_order must be one of rgb, bgr"),
        ({"channel_order": ["rgb"]}, "channel_order must be one of"),
        ({"interpolation": "box"}, "interpolation must be one of nearest, bilinear, bicubic, lanczos"),
    ],
)
def test_strange_metadata_is_refused(table: object, message: str) -> None:
    with pytest.raises(FormatError, match=f"^x.safetensors: preprocessing.*{message}.*metadata") as caught:
        Preprocessing.from_dict(table, "x.safetensors")
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"called imagenet; known: torch, keras-cv, caffe"):
        find_preprocessing("imagenet")


def test_layouts_say_how_their_library_prepares_images() -> None:
    said = {name: layout.preprocessing for name, layout in known_layouts().items()}
    assert {name for name, preprocessing in said.items() if preprocessing == "torch"} == {
        "torchvision",
        "torchvision-0.2",
        "timm-deep",
        "segmentation-models-pytorch",
        "keras-applications",
        "keras-applications-2",
        "keras-hub",
    }
    assert {name for name, preprocessing in said.items() if preprocessing == "densenet-caffe"} == {
        "flyyufelix",
        "titu1994",
        "keras-contrib",
    }
    assert (said["keras-cv"], said["torchxrayvision"], said["kuangliu"]) == ("keras-cv", "torchxrayvision", "none")


def test_a_layout_inherits_its_preprocessing_and_can_take_it_back() -> None:
    text = 'extends = "keras-cv"\ndetected = false\n'
    assert parse(text, "mine.toml").preprocessing == "keras-cv"
    assert parse(text + 'preprocessing = "none"\n', "mine.toml").preprocessing == "none"


@pytest.mark.parametrize("value", ['"imagenet"', "3", '["torch"]', "{ mean = [0.5] }"])
def test_a_layout_can_only_name_a_known_preprocessing(value: str) -> None:
    text = known_text("keras-cv").replace('preprocessing = "keras-cv"', f"preprocessing = {value}")
    with pytest.raises(LayoutError, match=r"mine.toml: preprocessing must be .*\(line \d+\)"):
        parse(text, "mine.toml")
