"""Folders for timm and keras_hub, and archives of plain Keras layers: opened by these libraries, and read back."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import SMALL, TUTORIAL, canonical_weights

import denseport as library
from denseport import atomic, formats, layouts, text
from denseport.checkpoint import Checkpoint, Tensor
from denseport.formats import FORMATS
from denseport.formats.keras.archive import CONFIG
from denseport.layouts import descriptions
from denseport.layouts.descriptions import timm
from denseport.layouts.frameworks import KERAS
from denseport.metadata import Record
from denseport.net.config import DenseNetConfig
from denseport.net.names import TAGS, find_config
from denseport.preprocessing import PREPROCESSING, Preprocessing
from denseport.terminal import plain

PREPARED = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), crop=160, crop_fraction=0.95, interpolation="bicubic")
TIMM = DenseNetConfig.bc(8, (2, 1, 1, 2), 16, num_classes=5)
BLUR = DenseNetConfig.bc(8, (1, 2, 1), 16, num_classes=5, stem_pool="max-blur")
KERAS_HUB = DenseNetConfig.bc(8, (2, 1, 2), 64, num_classes=5, padding="same", epsilon=1.001e-5)
NETS: dict[str, dict[str, DenseNetConfig]] = {
    "timm": {
        "plain": TIMM,
        "grey": TIMM.replace(in_channels=1),
        "headless": TIMM.without_head(),
        "bottleneck": DenseNetConfig.bc(8, (2, 1), 16, 2, num_classes=5),
        "blur": BLUR,
        "deep": TIMM.replace(stem_widths=(8, 8, 16), stem_kernel=3),
        "deep-blur": BLUR.replace(stem_widths=(8, 8, 16), stem_kernel=3),
        "tiered": DenseNetConfig.bc(8, (2, 1), 16, num_classes=5, stem_kernel=3).replace(stem_widths=(6, 12, 16)),
    },
    "keras-hub": {
        "plain": KERAS_HUB,
        "headless": KERAS_HUB.without_head(),
        "compressed": DenseNetConfig.bc(
            8, (2, 3, 1), 64, num_classes=5, compression=0.4, padding="same", epsilon=1.001e-5
        ),
    },
    "keras": {
        "applications": DenseNetConfig.bc(32, (1, 1, 1, 1), 64, num_classes=5, epsilon=1.001e-5),
        "plain": SMALL["four blocks"][0],
        "headless": SMALL["no classifier"][0],
        "flattened": SMALL["flattened head"][0],
        "cifar": SMALL["CIFAR"][0],
        "cifar-without-bottleneck": SMALL["CIFAR without bottleneck"][0],
        "deep": SMALL["deep stem"][0],
        "three": SMALL["3-D"][0],
        "one": SMALL["1-D"][0],
        "tutorial": TUTORIAL,
        "same": SMALL["four blocks"][0].replace(padding="same", epsilon=1e-3),
        "biased": TIMM.replace(conv_bias=True),
    },
}
CASES = [(kind, name) for kind, nets in NETS.items() for name in nets]


def weights_of(config: DenseNetConfig) -> layouts.Weights:
    return layouts.Weights(config, {name: Tensor.of(array) for name, array in canonical_weights(config).items()})


def written(path: Path, config: DenseNetConfig, preprocessing: Preprocessing | None = None) -> Path:
    """A file of a net that says what it is, and how its images are prepared."""
    metadata = {"layout": "denseport", "traits": json.dumps(dataclasses.asdict(config.traits))}
    if preprocessing is not None:
        metadata["preprocessing"] = json.dumps(preprocessing.to_dict())
    library.write(Checkpoint(weights_of(config).tensors, metadata), path)
    return path


def images_for(config: DenseNetConfig) -> np.ndarray:
    """Two images of an even size, which shows what padding does, or of the size that a flattened head needs."""
    sides = [96] * 2 if config.head_shape else {1: [64], 2: [64, 64], 3: [32] * 3}[config.dimensions]
    return np.random.default_rng(0).standard_normal((2, *sides, config.in_channels)).astype(np.float32)


def export(kind: str, source: Path, target: Path, **options: Any) -> library.ConversionReport:
    layout = {"to_layout": kind} if FORMATS[kind].files else {}
    return library.convert(source, target, **layout, **{"verify": False, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every net's source, images and export."""
    folder = tmp_path_factory.mktemp("exports")
    for kind, name in CASES:
        config = NETS[kind][name]
        preprocessing = PREPARED if config.in_channels == 3 and config.dimensions == 2 else None
        source = written(folder / f"{kind}-{name}.safetensors", config, preprocessing)
        np.save(folder / f"{kind}-{name}.images.npy", images_for(config))
        export(kind, source, exported(folder, kind, name))
    np.save(folder / "images.npy", images_for(TIMM))
    return folder


def exported(folder: Path, kind: str, name: str) -> Path:
    return folder / (f"{kind}-{name}.keras" if kind == "keras" else f"{kind}-{name}")


@pytest.fixture(scope="module")
def reference(folder: Path, script: Callable[..., Any]) -> Callable[[str, str], np.ndarray]:
    """The outputs of the PyTorch twin with the source's weights."""
    requests = [
        {
            "net": "twin",
            "file": f"{folder}/{kind}-{name}.safetensors",
            "like": f"{folder}/{kind}-{name}.safetensors",
            "dtype": "float32",
            "images": f"{folder}/{kind}-{name}.images.npy",
            "output": f"{folder}/{kind}-{name}.reference.npy",
            "saves": [],
        }
        for kind, name in CASES
    ]
    (folder / "reference.json").write_text(json.dumps(requests))
    script("library_outputs", "torch", folder / "reference.json")
    return lambda kind, name: np.load(folder / f"{kind}-{name}.reference.npy")


@pytest.fixture(scope="module")
def opened(folder: Path, script: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """What each library says of what it opened; its outputs lie in FOLDER/KIND-NAME.opened.npy."""
    said = {}
    for kind, program in (("timm", "folder_timm"), ("keras-hub", "folder_keras_hub"), ("keras", "folder_keras")):
        requests = [
            {
                "model": str(exported(folder, kind, name)),
                "images": f"{folder}/{kind}-{name}.images.npy",
                "output": f"{folder}/{kind}-{name}.opened.npy",
            }
            for name in NETS[kind]
        ]
        (folder / f"{kind}.json").write_text(json.dumps(requests))
        verb = [] if kind == "keras" else ["open"]
        said[kind] = dict(zip(NETS[kind], script(program, *verb, folder / f"{kind}.json"), strict=True))
    return said


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_library_opens_it_and_agrees_with_the_source(
    kind: str, name: str, folder: Path, opened: dict[str, Any], reference: Callable[[str, str], np.ndarray]
) -> None:
    assert name in opened[kind]
    wanted, found = reference(kind, name), np.load(folder / f"{kind}-{name}.opened.npy")
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_is_read_back_with_all_that_it_was(kind: str, name: str, folder: Path, tmp_path: Path) -> None:
    config = NETS[kind][name]
    library.convert(exported(folder, kind, name), tmp_path / "back.safetensors", to_layout="denseport", verify=False)
    with library.read(tmp_path / "back.safetensors") as checkpoint:
        found = {name: tensor.read() for name, tensor in checkpoint.tensors.items() if "tracked" not in name}
        metadata = dict(checkpoint.metadata)
    wanted = canonical_weights(config)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert library.inspect(exported(folder, kind, name)).config == config
    assert ("preprocessing" in metadata) == (config.in_channels == 3 and config.dimensions == 2)


@pytest.mark.parametrize("kind", ["timm", "keras-hub", "keras"])
def test_preprocessing_travels_through_it(kind: str, folder: Path, tmp_path: Path) -> None:
    library.convert(exported(folder, kind, "plain"), tmp_path / "b.safetensors", to_layout="denseport", verify=False)
    with library.read(tmp_path / "b.safetensors") as checkpoint:
        found = Preprocessing.from_dict(json.loads(checkpoint.metadata["preprocessing"]), "b")
    # keras_hub resizes straight to the size that the net takes.
    wanted = dataclasses.replace(PREPARED, crop_fraction=1.0) if kind == "keras-hub" else PREPARED
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, wanted.std, rtol=1e-12)
    assert dataclasses.replace(found, mean=wanted.mean, std=wanted.std) == wanted


def test_timm_prepares_images_as_the_source_says(opened: dict[str, Any]) -> None:
    said = opened["timm"]["plain"]
    assert said["input_size"] == [3, 160, 160]
    np.testing.assert_allclose(said["mean"], PREPARED.mean)
    np.testing.assert_allclose(said["std"], PREPARED.std)
    assert (said["crop_pct"], said["interpolation"]) == (0.95, "bicubic")
    assert [name for name, each in opened["timm"].items() if each["blur"]] == ["blur", "deep-blur"]


def test_keras_hub_prepares_images_as_the_source_says(opened: dict[str, Any]) -> None:
    shape, values = opened["keras-hub"]["plain"]["prepared"]
    assert shape == [3, 160, 160, 3]
    pixels = np.array([0, 100, 255])[:, None] / 255
    np.testing.assert_allclose(values, (pixels - PREPARED.mean) / PREPARED.std, rtol=1e-4, atol=1e-4)


def test_the_archive_has_keras_own_layers_alone(opened: dict[str, Any]) -> None:
    assert all(layer.startswith("keras.") for layers in opened["keras"].values() for layer in layers)
    assert "keras.ZeroPadding3D" in opened["keras"]["three"]


def test_the_report_gives_the_size_of_what_lies_in_a_folder(tmp_path: Path) -> None:
    report = export("timm", written(tmp_path / "a.safetensors", TIMM, None), tmp_path / "out")
    size = sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) / 1e6
    assert size > 0.05  # what is shown is not 0.0
    assert plain(text.conversion(report))[-1].split() == ["folder", f"{tmp_path}/out", f"({size:.1f}", "MB)"]


@pytest.mark.parametrize("name", TAGS)
def test_timms_nets_are_called_by_their_names(name: str) -> None:
    assert timm.cannot_hold(find_config(name)) == ""
    description, _ = timm.describe(find_config(name), layouts.find_layout("torchvision"), None)
    config = description[CONFIG]
    assert config["architecture"] == name
    assert "model_args" not in config


def test_new_features_may_come_first_in_an_archive(tmp_path: Path, folder: Path, script: Callable[..., Any]) -> None:
    config = SMALL["CIFAR"][0]
    weights = weights_of(config).concatenated("new-first")
    layout = layouts.find_layout("denseport")
    description, _ = descriptions.describe("keras", weights.config, layout, None)
    tensors = layouts.from_canonical(weights, layout, KERAS)
    metadata = Record(layout.name, vars(weights.config.traits)).strings()
    formats.write(tensors, metadata, tmp_path / "a.keras", "keras", description=description)
    assert library.inspect(tmp_path / "a.keras").config == config.replace(concatenation="new-first")
    images = f"{folder}/keras-cifar.images.npy"
    requests = [
        {"model": f"{tmp_path}/a.keras", "images": images, "output": f"{tmp_path}/a.npy"},
        {"model": f"{folder}/keras-cifar.keras", "images": images, "output": f"{tmp_path}/b.npy"},
    ]
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    script("folder_keras", tmp_path / "requests.json")
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "program"), [("timm", "folder_timm"), ("keras_hub", "folder_keras_hub")])
def test_a_folder_that_the_library_wrote_is_read(
    kind: str, program: str, folder: Path, tmp_path: Path, script: Callable[..., Any]
) -> None:
    np.save(tmp_path / "images.npy", np.load(folder / "images.npy"))
    script(program, "save", tmp_path)
    script("twin_logits", "torch", tmp_path, tmp_path / kind)
    wanted, found = np.load(tmp_path / f"{kind}.npy"), np.load(f"{tmp_path / kind}.twin.npy")
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    with library.read(tmp_path / kind) as checkpoint:
        said = Preprocessing.from_dict(json.loads(checkpoint.metadata["preprocessing"]), "it")
    if kind == "timm":
        assert (said.crop, said.crop_fraction, said.interpolation) == (288, 0.95, "bicubic")
        np.testing.assert_allclose(said.mean, (0.485, 0.456, 0.406))
    else:
        assert said.crop == 96
        np.testing.assert_allclose(said.std, np.array([50, 60, 70]) / 255)
        np.testing.assert_allclose(said.mean, 2 * np.array([50, 60, 70]) / 255)


@pytest.mark.parametrize("kind", ["timm", "keras-hub", "keras"])
def test_the_command_line_writes_it_and_proves_it(
    kind: str, folder: Path, tmp_path: Path, denseport: Callable[..., Any]
) -> None:
    target = exported(tmp_path, kind, "new")
    arguments = ["--to-layout", kind] if FORMATS[kind].files else ["--to", kind]
    done = denseport(
        "convert", "--json", "--device", "cpu", *arguments, folder / f"{kind}-plain.safetensors", f"{target}"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["parity"]["passed"] is True
    assert report["target_format"] == kind
    assert sorted(tmp_path.iterdir()) == [target]


def test_the_same_weights_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    export("keras", folder / "keras-plain.safetensors", tmp_path / "again.keras")
    assert (tmp_path / "again.keras").read_bytes() == exported(folder, "keras", "plain").read_bytes()


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        ("timm", DenseNetConfig.bc(8, (2, 1), 12), "have stems of 16 channels, this net has 12"),
        ("timm", TIMM.replace(stem_widths=(4, 8, 16), stem_kernel=3), "no stem of 4-8-16 channels"),
        ("timm", TIMM.replace(head_shape=(2, 2)), "no head behind a flattened map"),
        ("timm", SMALL["3-D"][0], "layout torchvision has dimensions 2, this net has 3"),
        ("timm", TIMM.replace(epsilon=1e-3), "layout torchvision has epsilon 1e-05, this net has 0.001"),
        ("keras-hub", TIMM, r"layout keras-hub has stem_widths \(64,\)"),
        ("keras-hub", KERAS_HUB.replace(padding="symmetric"), "keras-hub has padding same, this net has symmetric"),
        ("keras-hub", KERAS_HUB.replace(transition_widths=(70, 20)), "one ratio of compression"),
        ("keras", BLUR, "no layer that reflects borders"),
        ("keras", TIMM.replace(stem_norm=False), "pads a maximum of negative values"),
    ],
)
def test_what_a_library_cannot_compute_is_refused(
    kind: str, config: DenseNetConfig, reason: str, tmp_path: Path
) -> None:
    source = written(tmp_path / "a.safetensors", config)
    with pytest.raises(library.LayoutError, match=reason):
        export(kind, source, exported(tmp_path, kind, "b"))
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("preprocessing", "note"),
    [(PREPROCESSING["caffe"], "cannot prepare images as this net takes them"), (None, "nothing says how")],
)
@pytest.mark.parametrize(("kind", "config"), [("timm", TIMM), ("keras-hub", KERAS_HUB)])
def test_a_preprocessing_that_the_library_cannot_do_is_told(
    kind: str, config: DenseNetConfig, preprocessing: Preprocessing | None, note: str, tmp_path: Path
) -> None:
    source = written(tmp_path / "a.safetensors", config, preprocessing)
    report = export(kind, source, tmp_path / "b")
    assert any(note in each for each in report.notes)
    stated = json.loads((tmp_path / "b" / "config.json").read_text())
    assert "mean" not in stated.get("pretrained_cfg", {})
    assert not (tmp_path / "b" / "preprocessor.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to_layout": "timm", "to_format": "pth"}, "writes a folder, not a pth file"),
        ({"to_layout": "timm", "dst": None}, "writes a folder; give its name"),
        ({"to_layout": "torchvision", "dst": "b.keras"}, "is none of Keras'"),
    ],
)
def test_options_that_contradict_a_folder_are_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = written(tmp_path / "a.safetensors", TIMM)
    dst = arguments.pop("dst", "b")
    with pytest.raises(library.DenseportError, match=message):
        library.convert(source, None if dst is None else tmp_path / dst, verify=False, **arguments)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_keras_hubs_names_still_go_to_a_file_where_the_target_is_one(suffix: str, tmp_path: Path) -> None:
    report = export("keras-hub", written(tmp_path / "a.safetensors", KERAS_HUB), tmp_path / f"b{suffix}")
    assert (report.target_format, report.target_layout) == ("h5", "keras-hub")


def test_a_folder_is_replaced_only_with_force_and_only_if_it_is_one_of_its_kind(tmp_path: Path) -> None:
    source = written(tmp_path / "a.safetensors", TIMM)
    target = tmp_path / "b"
    target.mkdir()
    export("timm", source, target)  # an empty folder is free
    with pytest.raises(library.UsageError, match="b: exists already; give --force"):
        export("timm", source, target)
    before = (target / "config.json").read_bytes()
    export("timm", written(tmp_path / "c.safetensors", TIMM.replace(num_classes=3)), target, force=True)
    assert (target / "config.json").read_bytes() != before
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(library.UsageError, match=r"b: holds thesis\.txt, which --force does not remove"):
        export("timm", source, target, force=True)
    assert sorted(each.name for each in target.iterdir()) == ["config.json", "model.safetensors", "thesis.txt"]
    with pytest.raises(library.UsageError, match="is a file, where a folder is to be written"):
        export("timm", source, tmp_path / "c.safetensors", force=True)
    with pytest.raises(library.UsageError, match="does not exist; make it first"):
        export("timm", source, tmp_path / "none" / "b")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.safetensors", "b", "c.safetensors"]


def test_a_failure_leaves_the_old_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "b"
    target.mkdir()
    (target / "config.json").write_text("old")

    with (
        pytest.raises(ZeroDivisionError),
        atomic.replacing(target, force=True, files=("config.json",)) as new,
    ):
        (new / "config.json").write_text("new")
        raise ZeroDivisionError
    monkeypatch.setattr(atomic, "_exchanged", lambda *_: False)
    with (
        pytest.raises(library.UsageError, match="cannot exchange two folders"),
        atomic.replacing(target, force=True, files=("config.json",)) as new,
    ):
        (new / "config.json").write_text("new")
    assert (target / "config.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "is a folder without config.json and model.safetensors or model.weights.h5"),
        ("{", "config.json: is no JSON"),
        ("[]", "config.json: is no JSON object"),
        ('{"pretrained_cfg": {"mean": ["x"], "std": [1]}}', "config.json: preprocessing: mean must be a number"),
        ('{"pretrained_cfg": {"mean": {"a": 1}, "std": [1]}}', "config.json: preprocessing: mean must be one number"),
        (" " * (1 << 20) + "{}", "config.json: is longer than the 1048576 bytes"),
    ],
)
def test_a_broken_folder_is_told(config: str | None, message: str, tmp_path: Path) -> None:
    export("timm", written(tmp_path / "a.safetensors", TIMM), tmp_path / "b")
    (tmp_path / "b" / "config.json").unlink()
    if config is not None:
        (tmp_path / "b" / "config.json").write_text(config)
    with pytest.raises(library.DenseportError, match=message):
        library.read(tmp_path / "b")


@pytest.mark.parametrize("scale", ["1e-9", str(10**400), "NaN", "[1, 2]", "[0.1, Infinity, 0.1]"])
def test_a_preprocessing_of_keras_hub_beyond_reason_is_told(scale: str, tmp_path: Path) -> None:
    export("keras-hub", written(tmp_path / "a.safetensors", KERAS_HUB, PREPARED), tmp_path / "b")
    (tmp_path / "b" / "image_converter.json").write_text(f'{{"config": {{"scale": {scale}}}}}')
    for call in (library.read, library.inspect):
        with pytest.raises(library.FormatError, match=r"b/image_converter\.json: preprocessing: (mean|std) must be"):
            call(tmp_path / "b")
