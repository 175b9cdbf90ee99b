"""The registry of presets says what the libraries themselves say and count; files of one's own are read or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from denseport import presets, text
from denseport.errors import UsageError
from denseport.net.config import VARIANTS, DenseNetConfig
from denseport.net.graph import multiply_adds
from denseport.preprocessing import Preprocessing
from denseport.presets import Preset
from denseport.presets.preset import class_names
from denseport.presets.registry import parse
from denseport.terminal import plain

Script = Callable[..., Any]


@pytest.fixture(scope="module")
def of_torchvision(script: Script) -> dict[str, Any]:
    told: dict[str, Any] = script("preset_torchvision")
    return told


@pytest.fixture(scope="module")
def of_timm(script: Script) -> dict[str, Any]:
    told: dict[str, Any] = script("preset_timm", *[preset.name.partition("/")[2] for preset in published_by("timm")])
    return told


@pytest.fixture(scope="module")
def of_keras(script: Script) -> dict[str, Any]:
    told: dict[str, Any] = script("preset_keras")
    return told


def published_by(publisher: str) -> list[Preset]:
    return [preset for preset in presets.known().values() if preset.name.startswith(f"{publisher}/")]


def short(preset: Preset) -> str:
    return preset.name.partition("/")[2]


def test_every_publisher_is_there() -> None:
    counts = {"torchvision": 4, "timm": 6, "keras-applications": 6, "keras-hub": 3, "keras-cv": 3, "titu1994": 6}
    assert {publisher: len(published_by(publisher)) for publisher in counts} == counts
    assert sum(counts.values()) == len(presets.known())


def test_what_is_computed_is_what_was_published() -> None:
    published = [preset for preset in presets.known().values() if preset.published_parameters]
    assert len(published) == 4 + 3 + 3
    for preset in published:
        computed = preset.parameters + (preset.statistics if preset.counts_statistics else 0)
        assert computed == preset.published_parameters, preset.name


def test_torchvision_says_the_same(of_torchvision: dict[str, Any]) -> None:
    assert {short(preset) for preset in published_by("torchvision")} == of_torchvision.keys()
    for preset in published_by("torchvision"):
        told = of_torchvision[short(preset)]
        assert preset.url == told["url"]
        assert f"-{preset.hash.removeprefix('sha256:')}.pth" in told["url"]
        assert preset.published_parameters == told["parameters"]
        assert {"acc@1": preset.top1, "acc@5": preset.top5} == told["accuracy"]
        assert preset.preprocessing == Preprocessing(
            mean=tuple(told["mean"]),
            std=tuple(told["std"]),
            crop=told["crop"],
            crop_fraction=told["crop"] / told["resize"],
            interpolation=told["interpolation"],
        )


def test_multiply_adds_are_torchs(of_torchvision: dict[str, Any]) -> None:
    for preset in published_by("torchvision"):
        told = of_torchvision[short(preset)]
        assert 2 * preset.multiply_adds == told["flops"], preset.name
        assert round(preset.multiply_adds / 1e9, 3) == told["giga_operations"], preset.name
    odd = multiply_adds(VARIANTS["densenet121"], (225, 289))
    assert 2 * odd == of_torchvision["densenet121"]["odd_flops"]


def test_timm_says_the_same(of_timm: dict[str, Any]) -> None:
    assert {short(preset) for preset in published_by("timm")} == set(of_timm["with_weights"])
    for preset in published_by("timm"):
        told = of_timm["presets"][short(preset)]
        assert preset.url.startswith(f"https://huggingface.co/{told['hub']}/resolve/")
        assert preset.parameters == told["parameters"]
        assert preset.licence.lower() == told["licence"]
        assert preset.side == told["side"]
        assert preset.preprocessing == Preprocessing(
            mean=tuple(told["mean"]),
            std=tuple(told["std"]),
            crop=told["side"],
            crop_fraction=told["crop_fraction"],
            interpolation=told["interpolation"],
        )
        # A blur pool is one [1, 2, 1] x [1, 2, 1] filter a channel over a quarter of each side; it is never learned.
        blur = 64 * 9 * (preset.side // 4) ** 2 if preset.config.traits.stem_pool == "max-blur" else 0
        assert 2 * (preset.multiply_adds + blur) == told["flops"], preset.name


def test_keras_says_the_same(of_keras: dict[str, Any]) -> None:
    assert {short(preset) for preset in published_by("keras-applications")} == of_keras["applications"].keys()
    for preset in published_by("keras-applications"):
        told = of_keras["applications"][short(preset)]
        assert (preset.url, preset.hash) == (told["url"], f"md5:{told['md5']}")
        assert preset.parameters + preset.statistics == told["parameters"]
    assert {short(preset) for preset in published_by("keras-hub")} == of_keras["hub"].keys()
    for preset in published_by("keras-hub"):
        told = of_keras["hub"][short(preset)]
        assert preset.published_parameters == told["published"] == told["parameters"]


def test_keras_cv_says_the_same(script: Script, keras_2_python: str) -> None:
    of_keras_cv = script("preset_keras_cv", python=keras_2_python)
    assert {short(preset) for preset in published_by("keras-cv")} == of_keras_cv.keys()
    for preset in published_by("keras-cv"):
        told = of_keras_cv[short(preset)]
        assert f"/models/{told['handle'].removeprefix('kaggle://')}/download/" in preset.url.replace("/api/v1", "")
        assert preset.parameters + preset.statistics == told["parameters"]


NETS = {
    "odd": (DenseNetConfig.bc(4, (2, 3), 6, num_classes=3), (37, 64)),
    "even kernel": (DenseNetConfig.bc(4, (2, 3), 6, num_classes=None, stem_kernel=4), (37, 64)),
    "same": (DenseNetConfig.bc(4, (2, 3), 6, num_classes=3, padding="same", stem_kernel=4), (37, 64)),
    "CIFAR": (
        DenseNetConfig.bc(4, (2, 2, 2), 6, num_classes=3, stem_stride=1, stem_pool="none", stem_kernel=3),
        (32, 31),
    ),
    "no bottleneck": (DenseNetConfig.bc(4, (2, 2), 6, num_classes=3, bottleneck_width=None), (45, 45)),
    "deep stem": (DenseNetConfig.bc(4, (2, 2), 6, num_classes=3, stem_widths=(5, 7, 6), stem_kernel=3), (45, 46)),
    "1-D": (DenseNetConfig.bc(4, (2, 3), 6, num_classes=3, dimensions=1), (77,)),
    "3-D": (DenseNetConfig.bc(4, (2, 3), 6, num_classes=3, dimensions=3), (37, 40, 33)),
    "flattened": (DenseNetConfig.bc(4, (1, 1), 6, num_classes=3, head_shape=(4, 5)), (32, 40)),
}


@pytest.fixture(scope="module")
def of_twins(script: Script) -> dict[str, int]:
    plain = {name: [config.to_dict(), size] for name, (config, size) in NETS.items()}
    flops: dict[str, int] = script("preset_twin_flops", json.dumps(plain))
    return flops


@pytest.mark.parametrize("name", NETS)
def test_multiply_adds_are_torchs_for_every_kind_of_net(of_twins: dict[str, int], name: str) -> None:
    assert 2 * multiply_adds(*NETS[name]) == of_twins[name]


def test_a_name_without_its_publisher() -> None:
    assert presets.find("densenet121.ra_in1k").name == "timm/densenet121.ra_in1k"
    assert presets.find("densenet121_imagenet").name == "keras-cv/densenet121_imagenet"
    with pytest.raises(UsageError, match="several presets are called so: torchvision/densenet121, keras-applications/"):
        presets.find("densenet121")
    with pytest.raises(UsageError, match=r"no such preset; near it are .*densenet121\.tv_in1k"):
        presets.find("densenet121.tv_in22k")
    with pytest.raises(UsageError, match="`denseport presets` lists them"):
        presets.find("#")
    assert presets.is_preset("densenet121")
    assert not presets.is_preset("model.pth")


def test_a_preset_as_plain_values() -> None:
    for preset in presets.known().values():
        plain = json.loads(json.dumps(preset.to_dict()))
        assert plain["multiply_adds"] == preset.multiply_adds
        assert plain["hash"] == (preset.hash or None)
        assert bool(preset.notes) == (not preset.hash)


def test_the_table_has_a_row_for_each() -> None:
    headings, *rows = plain(text.presets(presets.known().values()))
    assert headings.split() == ["preset", "parameters", "multiply-adds", "pixels", "top-1", "top-5", "hash", "licence"]
    assert len(rows) == len(presets.known())
    row = next(row for row in rows if row.startswith("torchvision/densenet121 "))
    assert row.split()[:8] == [
        "torchvision/densenet121",
        "7,978,856",
        "2.83",
        "G",
        "224x224",
        "74.43",
        "91.97",
        "sha256",
    ]


def test_class_names_are_the_libraries(of_torchvision: dict[str, Any], of_timm: dict[str, Any]) -> None:
    text = (Path(presets.__file__).parent / "imagenet-1k.txt").read_text()
    synsets = [line.split(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    names = class_names("imagenet-1k", 1000)
    assert synsets == of_timm["synsets"]
    assert [lemma.split(", ")[0] for lemma in of_timm["lemmas"]] == list(names)
    categories = of_torchvision["densenet121"]["categories"]
    assert [name for name, category in zip(names, categories, strict=True) if name != category] == ["crane", "maillot"]


def test_class_names_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\ufeffhen\n  egg \n\nkäse\n", encoding="utf-8")
    assert class_names(file, 3) == ("hen", "egg", "käse")
    with pytest.raises(UsageError, match=r"names\.txt: names 3 classes, and the net has 1,000"):
        class_names(file, 1000)
    with pytest.raises(UsageError, match="imagenet-1k: names 1,000 classes, and the net has 10"):
        class_names("imagenet-1k", 10)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"names\.txt: cannot be read \(it is no text in UTF-8\)"):
        class_names(file, 3)
    with pytest.raises(UsageError, match=r"cannot be read \(No such file"):
        class_names(tmp_path / "none.txt", 3)


OWN = """
[publishers.lab]
layout = "torchvision"
hash = "none"
preprocessing = "torch"
licence = "ours"
source = "our notes"

[presets."lab/tiny"]
variant = "densenet121"
architecture = { growth_rate = 8, num_classes = 7 }
url = "https://lab.example/tiny.pth"
crop = 64
interpolation = "bicubic"
"""


def test_presets_of_ones_own_stand_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    monkeypatch.setenv("DENSEPORT_PRESETS", str(tmp_path / "own.toml"))
    tiny = presets.find("tiny")
    assert (tiny.config.growth_rate, tiny.config.num_classes, tiny.side) == (8, 7, 64)
    assert (tiny.preprocessing.crop, tiny.preprocessing.interpolation) == (64, "bicubic")
    assert presets.find("densenet161.tv_in1k").side == 224
    for wrong in ("none.toml", "."):
        monkeypatch.setenv("DENSEPORT_PRESETS", str(tmp_path / wrong))
        with pytest.raises(UsageError, match=r"DENSEPORT_PRESETS is .*, which cannot be read"):
            presets.known()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[publishers.lab]", "[publishers.lab", "is no TOML"),
        ("[publishers.lab]", "[labs.lab]", "has labs; only publishers and presets"),
        ("[publishers.lab]", "[publishers]", "publishers must be tables"),
        ('"lab/tiny"', '"tiny"', "must be called publisher/name"),
        ('"lab/tiny"', '"lab/.."', "must be called publisher/name"),
        ('"lab/tiny"', '"lab/a/b"', "must be called publisher/name"),
        ("crop = 64\n", "", "has no crop"),
        ("crop = 64", "crop = 0", "crop must be 1 to 4096"),
        ("crop = 64", "crop = true", "crop must be a whole number"),
        ("crop = 64", "crops = 64\ncrop = 64", "nothing is called crops"),
        ('licence = "ours"', "licence = 3", "licence must be text"),
        ('layout = "torchvision"', 'layout = "mine"', "no layout is called mine"),
        ('variant = "densenet121"', 'variant = "resnet50"', "variant must be one of densenet121"),
        ('hash = "none"', 'hash = "sha256:12"', "hash must be sha256: or md5:"),
        ('hash = "none"', 'hash = "crc32:12345678"', "hash must be sha256: or md5:"),
        ('interpolation = "bicubic"', 'interpolation = "cubic"', "interpolation must be one of"),
        ('preprocessing = "torch"', 'preprocessing = "mine"', "no preprocessing is called mine"),
        ("growth_rate = 8", "growth = 8", "architecture has no growth"),
        ("growth_rate = 8", "traits = 8", "architecture has no traits"),
        ("growth_rate = 8", 'growth_rate = "8"', "growth_rate must be like 32"),
        ("growth_rate = 8", "growth_rate = 0", "at least one of each"),
        ("growth_rate = 8", 'block_config = ["6"]', "block_config must be like"),
        ("growth_rate = 8", "block_config = [6, 6]", "has 1 transitions, not 3"),
        ("https://lab.example/tiny.pth", "file:///etc/passwd", "url must be http or https"),
        ("https://lab.example/tiny.pth", "https:///tiny.pth", "url must be http or https"),
        ("https://lab.example/tiny.pth", "https://lab.example/a/%2e%2e", "end in a file's name"),
        ("https://lab.example/tiny.pth", "https://lab.example/a%2F..%2F.bashrc", "end in a file's name"),
        ("https://lab.example/tiny.pth", "https://[lab/tiny.pth", "url must be http or https"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, message: str) -> None:
    assert OWN.count(old) == 1
    with pytest.raises(UsageError, match=message) as caught:
        parse(OWN.replace(old, new), "own.toml")
    assert str(caught.value).startswith("own.toml: ")
    assert "\n" not in str(caught.value)
