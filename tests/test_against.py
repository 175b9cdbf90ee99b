"""The libraries' own classes and loaders take the files that denseport wrote, compute what the twins do, and refuse
what they should."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from densenets import SMALL, canonical_weights

import denseport
from denseport import requirements
from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import FrameworkMissingError, LayoutError, UsageError
from denseport.net.config import DenseNetConfig
from denseport.running import libraries
from denseport.running.libraries import LIBRARIES
from denseport.source import Source

Script = Callable[..., Any]

# Each framework's float32 outputs are some 4e-7 from those in float64, which are the proof.
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
SIDES = (40, 41, 42)


@dataclass(frozen=True)
class Net:
    """A net for a library, and the file of its weights, as denseport.convert writes it in a layout."""

    library: str
    layout: str
    file: str
    config: DenseNetConfig

    @property
    def framework(self) -> str:
        return LIBRARIES[self.library].framework


def applications(**changes: Any) -> DenseNetConfig:
    return DenseNetConfig.bc(32, (1, 2, 1, 1), 64, num_classes=5).replace(**changes)


SMALL_NET = DenseNetConfig.bc(8, (2, 3, 1, 2), 16, num_classes=5)
WIDE_STEM = DenseNetConfig.bc(8, (2, 1), 18, num_classes=5)
DEEP = DenseNetConfig.bc(8, (2, 2), 16, num_classes=5, stem_kernel=3)
HUB = DenseNetConfig.bc(8, (2, 1, 1), 64, num_classes=5, compression=0.4)
NETS = {
    "torchvision pth": Net("torchvision", "torchvision", "a.pth", SMALL_NET),
    "torchvision safetensors": Net("torchvision", "torchvision", "a.safetensors", WIDE_STEM),
    "torchvision without classifier": Net("torchvision", "torchvision", "a.pth", SMALL_NET.without_head()),
    "timm pth": Net("timm", "torchvision", "a.pth", SMALL_NET.replace(in_channels=1)),
    "timm safetensors": Net("timm", "torchvision", "a.safetensors", SMALL_NET.replace(bottleneck_width=16)),
    "timm without classifier": Net("timm", "torchvision", "a.pth", SMALL_NET.without_head()),
    "timm deep": Net("timm", "timm-deep", "a.pth", DEEP.replace(stem_widths=(8, 8, 16))),
    "timm deep tiered": Net("timm", "timm-deep", "a.pth", DEEP.replace(stem_widths=(6, 12, 16))),
    "timm deep tiered narrow": Net("timm", "timm-deep", "a.pth", DEEP.replace(stem_widths=(6, 16, 16))),
    "timm deep blur": Net(
        "timm",
        "timm-deep",
        "a.pth",
        DenseNetConfig.bc(
            4, (6, 12, 24, 16), 8, num_classes=5, stem_kernel=3, stem_widths=(4, 4, 8), stem_pool="max-blur"
        ),
    ),
    "monai 1-D": Net("monai", "monai", "a.pth", SMALL["1-D"][0]),
    "monai 2-D": Net("monai", "monai", "a.safetensors", SMALL["3-D"][0].replace(dimensions=2)),
    "monai 3-D": Net("monai", "monai", "a.pth", SMALL["3-D"][0]),
    "monai without classifier": Net("monai", "monai", "a.pth", SMALL["1-D"][0].without_head()),
    "keras-applications h5": Net("keras-applications", "keras-applications", "a.h5", applications()),
    "keras-applications weights.h5": Net("keras-applications", "keras-applications", "a.weights.h5", applications()),
    "keras-applications without classifier": Net(
        "keras-applications", "keras-applications", "a.h5", applications().without_head()
    ),
    "keras-applications, one channel": Net(
        "keras-applications", "keras-applications", "a.weights.h5", applications(in_channels=1, num_classes=None)
    ),
    "keras-applications of Keras 2": Net("keras-applications", "keras-applications-2", "a.h5", applications()),
    "keras-hub h5": Net("keras-hub", "keras-hub", "a.h5", HUB),
    "keras-hub weights.h5": Net("keras-hub", "keras-hub", "a.weights.h5", HUB),
    "keras-hub without classifier": Net("keras-hub", "keras-hub", "a.h5", HUB.without_head()),
    "keras-hub without classifier, weights.h5": Net("keras-hub", "keras-hub", "a.weights.h5", HUB.without_head()),
}
CLASSES = {
    "torchvision": "torchvision.models.densenet.DenseNet",
    "timm": "timm.models.densenet.DenseNet",
    "monai": "monai.networks.nets.densenet.DenseNet",
    "keras-applications": "keras.src.models.functional.Functional",
    "keras-hub": "keras_hub.src.models.densenet.densenet_image_classifier.DenseNetImageClassifier",
}

# Nets that Keras saves again as whole models.
WHOLE = ("keras-applications h5", "keras-hub h5")
WHOLE_SUFFIXES = (".h5", ".keras")

# Nets whose files are damaged, and what their libraries then say.
MISSING_KEY = (
    'RuntimeError: Error(s) in loading state_dict for DenseNet: Missing key(s) in state_dict: "features.norm5.bias"'
)
MISSING_VARIABLE = "Layer 'conv1_bn' expected 4 variables, but received "
REASONS = {
    "torchvision pth": MISSING_KEY,
    "torchvision safetensors": MISSING_KEY,
    "timm pth": MISSING_KEY,
    "timm safetensors": MISSING_KEY,
    "monai 2-D": MISSING_KEY,
    "keras-applications h5": "KeyError: 'beta",
    "keras-applications weights.h5": MISSING_VARIABLE,
    "keras-hub h5": "KeyError: 'beta",
    "keras-hub weights.h5": MISSING_VARIABLE,
}

# Nets whose files end too early, for each container and loader.
TRUNCATED = ("torchvision pth", "torchvision safetensors", "timm safetensors", "keras-hub h5", "keras-hub weights.h5")


def written(config: DenseNetConfig, path: Path, layout: str = "denseport", **options: Any) -> Path:
    """A file of random weights that denseport.convert wrote."""
    metadata = {"layout": "denseport", "traits": json.dumps(dataclasses.asdict(config.traits))}
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(config).items()}
    source = path.with_name("source.safetensors")
    denseport.write(Checkpoint(tensors, metadata), source, force=True)
    denseport.convert(source, path, to_layout=layout, verify=False, allow_trait_mismatch=True, **options)
    return path


def require(library: str, file: Path, layout: str = "", config: DenseNetConfig | None = None) -> None:
    with Source(file) as source:
        checkpoint, found = source.checkpoint, source.detection
        LIBRARIES[library].require(checkpoint, layout or found.layout.name, config or found.config, found.wrapper)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of each net, with the images that it is to see beside it."""
    random = np.random.default_rng(5)
    made = {}
    for name, net in NETS.items():
        folder = tmp_path_factory.mktemp("net")
        shape = (2, *SIDES[: net.config.dimensions], net.config.in_channels)
        np.save(folder / "images.npy", random.standard_normal(shape))
        made[name] = written(net.config, folder / net.file, net.layout)
    return made


@dataclass(frozen=True)
class Run:
    """What became of one request: the net's class or its error, and its outputs."""

    file: Path
    net_class: str
    error: str
    kind: str
    outputs: np.ndarray


def run(
    script: Script, framework: str, requests: Mapping[str, dict[str, Any]], folder: Path, **environment: str
) -> dict[str, Run]:
    """Runs nets in one process; a request names `net`, `file`, `dtype`, and perhaps `like` and `saves`."""
    complete = []
    for n, request in enumerate(requests.values()):
        like = request.get("like", request["file"])
        own = {"like": like, "images": like.with_name("images.npy"), "output": folder / f"{n}.npy", "saves": []}
        complete.append(own | request)
    (folder / "requests.json").write_text(json.dumps(complete, default=str))
    # Nets this small are slower on several threads.
    answers = script("library_outputs", framework, folder / "requests.json", OMP_NUM_THREADS="1", **environment)
    return {
        name: Run(
            request["file"],
            answer.get("class", ""),
            answer.get("error", ""),
            answer.get("kind", ""),
            np.empty(0) if "error" in answer else np.load(request["output"]),
        )
        for name, request, answer in zip(requests, complete, answers, strict=True)
    }


@pytest.fixture(scope="module")
def twins(files: dict[str, Path], script: Script, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every file as the PyTorch twin runs it in float64."""
    requests = {name: {"net": "twin", "file": file, "dtype": "float64"} for name, file in files.items()}
    return run(script, "torch", requests, tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def runs(files: dict[str, Path], script: Script, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every file as its library runs it, by name and dtype; what it says to copies that are broken, `NAME damaged` and
    `NAME truncated`; and, as `NAME SUFFIX`, the same net from the whole model that Keras saved."""
    found: dict[str, Run] = {}
    for framework in ("torch", "keras"):
        folder = tmp_path_factory.mktemp(framework)
        requests: dict[str, dict[str, Any]] = {}
        for name in (name for name, net in NETS.items() if net.framework == framework):
            own = {"net": NETS[name].library, "file": files[name], "like": files[name]}
            requests |= {f"{name} {dtype}": {**own, "dtype": dtype} for dtype in TOLERANCES}
            if name in REASONS:
                damaged = without_a_tensor(files[name], tmp_path_factory.mktemp("damaged"))
                requests[f"{name} damaged"] = {**own, "file": damaged, "dtype": "float32"}
            if name in TRUNCATED:
                truncated = tmp_path_factory.mktemp("truncated") / files[name].name
                truncated.write_bytes(files[name].read_bytes()[:-1000])
                requests[f"{name} truncated"] = {**own, "file": truncated, "dtype": "float32"}
            if name in WHOLE:
                saved = {suffix: files[name].with_name(f"whole{suffix}") for suffix in WHOLE_SUFFIXES}
                requests[f"{name} float32"]["saves"] = list(saved.values())
                requests |= {f"{name} {s}": {**own, "file": path, "dtype": "float32"} for s, path in saved.items()}
        found |= run(script, framework, requests, folder)
    return found


def without_a_tensor(file: Path, folder: Path) -> Path:
    """A copy that lacks one shift: that of the last normalisation, where names tell which it is."""
    damaged = folder / file.name
    if file.suffix != ".h5":
        with denseport.read(file) as checkpoint:
            tensors = {name: t for name, t in checkpoint.tensors.items() if name != "features.norm5.bias"}
            assert len(tensors) == len(checkpoint.tensors) - 1
            denseport.write(Checkpoint(tensors), damaged)
        return damaged
    damaged.write_bytes(file.read_bytes())
    with h5py.File(damaged, "r+") as tree:
        names: list[str] = []
        tree.visit(names.append)
        del tree[next(name for name in names if name.endswith(("bn/beta", "/batch_normalization/vars/1")))]
    return damaged


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", NETS)
def test_a_librarys_own_net_computes_what_the_twin_does(
    name: str, dtype: str, runs: dict[str, Run], twins: dict[str, Run]
) -> None:
    net, library, twin = NETS[name], runs[f"{name} {dtype}"], twins[name]
    require(net.library, library.file)
    assert not library.error
    assert not twin.error
    assert library.outputs.dtype == dtype
    assert library.outputs.shape == (2, net.config.num_classes or net.config.features)
    assert np.abs(library.outputs - twin.outputs).max() / np.abs(twin.outputs).max() <= TOLERANCES[dtype]
    if net.config.num_classes:
        assert library.net_class == CLASSES[net.library], "another class than the library's own"


@pytest.mark.parametrize("name", REASONS)
def test_a_file_that_the_library_refuses_is_a_finding_with_its_reason(name: str, runs: dict[str, Run]) -> None:
    found = runs[f"{name} damaged"]
    assert_refused(found, NETS[name])
    assert REASONS[name] in found.error


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_truncated_file_is_a_finding_too(name: str, runs: dict[str, Run]) -> None:
    assert_refused(runs[f"{name} truncated"], NETS[name])


def assert_refused(found: Run, net: Net) -> None:
    assert found.kind == "VerificationError", found
    assert found.error.startswith(f"{found.file}: {LIBRARIES[net.library].version()} does not load it (")
    assert found.error.isprintable()
    assert len(found.error) < 500 + len(str(found.file))


@pytest.mark.parametrize("suffix", WHOLE_SUFFIXES)
@pytest.mark.parametrize("name", WHOLE)
def test_the_weights_in_a_whole_model_that_keras_saved_are_loaded(name: str, suffix: str, runs: dict[str, Run]) -> None:
    found = runs[f"{name} {suffix}"]
    require(NETS[name].library, found.file)
    assert not found.error
    assert np.array_equal(found.outputs, runs[f"{name} float32"].outputs)


LAYOUTS = [
    ("torchvision", SMALL_NET, "monai", "torchvision"),
    ("timm", SMALL_NET, "denseport", "torchvision"),
    ("timm", DEEP.replace(stem_widths=(8, 8, 16)), "denseport", "timm-deep"),
    ("monai", SMALL_NET, "torchvision", "monai"),
    ("keras-applications", applications(), "keras-hub", "keras-applications"),
    ("keras-hub", HUB, "denseport", "keras-hub"),
]


@pytest.mark.parametrize(("library", "config", "layout", "remedy"), LAYOUTS, ids=[f"{n[0]} {n[2]}" for n in LAYOUTS])
def test_another_layout_is_refused_with_the_one_to_convert_to(
    library: str, config: DenseNetConfig, layout: str, remedy: str, tmp_path: Path
) -> None:
    file = written(config, tmp_path / ("a.h5" if layout.startswith("keras") else "a.pth"), layout)
    with pytest.raises(LayoutError) as refused:
        require(library, file)
    assert str(refused.value) == (
        f"{file}: has layout {layout}, which {library} does not load; convert it with --to-layout {remedy} first"
    )


FORMATS = [
    ("torchvision", SMALL_NET, "torchvision", "a.h5", "is a h5 file", "convert it with --to pth first"),
    ("keras-hub", HUB, "keras-hub", "a.safetensors", "is a safetensors file", "convert it with --to h5 first"),
]


@pytest.mark.parametrize(("library", "config", "layout", "name", "what", "remedy"), FORMATS, ids=["torch", "keras"])
def test_another_format_is_refused_with_the_one_to_convert_to(
    library: str, config: DenseNetConfig, layout: str, name: str, what: str, remedy: str, tmp_path: Path
) -> None:
    file = written(config, tmp_path / name, layout)
    with pytest.raises(UsageError, match=f"^{re.escape(str(file))}: {what}, which {library} does not load; {remedy}$"):
        require(library, file)


BUILDS = [
    ("torchvision", SMALL_NET.replace(in_channels=1), "takes images of 3 channels, this net of 1"),
    ("torchvision", SMALL["flattened head"][0], "averages the map before the classifier, this net flattens it"),
    ("timm", WIDE_STEM, "has no stem of 18 at k=8"),
    ("monai", HUB, "has compression 0.5, this net has 0.4"),
    ("keras-applications", SMALL_NET, "has growth_rate 32, this net has 8"),
    ("keras-hub", HUB.replace(transition_widths=(40, 30)), "compresses alike in every transition, this net does not"),
]


@pytest.mark.parametrize(("library", "config", "reason"), BUILDS, ids=[f"{n[0]}: {n[2]}" for n in BUILDS])
def test_an_architecture_that_the_class_cannot_build_is_refused(
    library: str, config: DenseNetConfig, reason: str, fixtures: Path
) -> None:
    own = LIBRARIES[library]
    file = fixtures / ("digits-torch.pth" if own.framework == "torch" else "digits-keras.h5")
    with pytest.raises(LayoutError, match=f"{re.escape(str(file))}: {library} cannot build it: .*{reason}; choose "):
        require(library, file, own.layouts[0], config)


def test_tensors_are_refused_where_a_loader_does_not_look(fixtures: Path) -> None:
    file = fixtures / "digits-torch-legacy.pth"
    with pytest.raises(UsageError, match=r"has its tensors under state_dict, where torchvision does not look; convert"):
        require("torchvision", file)
    require("timm", file, "torchvision", SMALL_NET)


@pytest.mark.parametrize(
    ("library", "missing", "remedy"),
    [
        ("torchvision", "torchvision", "pip install torchvision"),
        ("timm", "timm", "pip install timm"),
        ("monai", "monai", "pip install monai"),
        ("keras-hub", "keras_hub", "pip install keras-hub"),
    ],
)
def test_a_missing_library_is_named_with_what_to_install(
    library: str, missing: str, remedy: str, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = LIBRARIES[library]
    file = fixtures / ("digits-torch.safetensors" if own.framework == "torch" else "digits-keras.h5")
    monkeypatch.setattr(libraries, "find_spec", lambda module: None if module == missing else True)
    with pytest.raises(FrameworkMissingError, match=f"--against {library} needs .*: {remedy}$"):
        require(library, file, own.layouts[0], SMALL_NET)


@pytest.mark.parametrize(("library", "missing"), [("timm", "torch"), ("keras-applications", "keras")])
def test_a_missing_framework_is_named_with_the_extra(
    library: str, missing: str, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda module: None if module == missing else True)
    with pytest.raises(FrameworkMissingError, match=rf"this needs {missing}: pip install 'denseport\["):
        require(library, fixtures / "digits-torch.pth", "torchvision", SMALL_NET)


def test_asking_whether_a_library_takes_a_file_imports_none_of_it(fixtures: Path) -> None:
    code = (
        "import sys; from denseport import DenseNetConfig, read;"
        "from denseport.running.libraries import LIBRARIES;"
        "[library.version() for library in LIBRARIES.values()];"
        "LIBRARIES['torchvision'].require(read(sys.argv[1]), 'torchvision', DenseNetConfig());"
        "LIBRARIES['keras-hub'].require(read(sys.argv[2]), 'keras-hub', DenseNetConfig());"
        "print(*{'torch', 'torchvision', 'timm', 'monai', 'keras', 'keras_hub', 'tensorflow'} & sys.modules.keys())"
    )
    files = fixtures / "digits-torch.pth", fixtures / "digits-keras.h5"
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_float64_is_refused_where_keras_would_round_in_secret(
    files: dict[str, Path], script: Script, tmp_path: Path
) -> None:
    request = {"net": "keras-applications", "file": files["keras-applications h5"], "dtype": "float64"}
    (found,) = run(script, "keras", {"": request}, tmp_path, KERAS_BACKEND="torch").values()
    assert found.kind == "UsageError"
    assert "float64 on TensorFlow only, not on torch" in found.error
