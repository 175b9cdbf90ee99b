"""Objects in pickles beside the weights, and models that are such objects: records of them, and nothing that runs."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import io
import pathlib
import pickle
import random
import re
import sys
import uuid
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import denseport
from denseport.errors import FormatError, LayoutError
from denseport.formats import pth
from denseport.formats.pth import dangers

SEEN: list[str] = []


class Kind(enum.Enum):
    ONE = 1


class Attributes(dict):  # type: ignore[type-arg]
    """As Lightning's AttributeDict."""


class Listed(list):  # type: ignore[type-arg]
    pass


Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Settings:
    rate: float
    kind: Kind = Kind.ONE


class Slots:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


class Awake:
    """Would tell, were it made again."""

    def __new__(cls) -> Awake:
        SEEN.append("new")
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        SEEN.append("state")


def awake() -> Awake:
    found = Awake()
    found.x = 1  # type: ignore[attr-defined]
    return found


OBJECTS: dict[str, Any] = {
    "namespace": argparse.Namespace(lr=0.1, data=pathlib.PurePosixPath("/data")),
    "float": np.float64(0.9),
    "int": np.int64(3),
    "bool": np.bool_(True),
    "text of numpy": np.str_("x"),
    "date of numpy": np.datetime64("2020-01-01"),
    "array of texts": np.array(["a"]),
    "array of objects": np.array([None, {}]),
    "complex array": np.ones(2, np.complex64),
    "fields": np.zeros(2, [("a", "f4")]),
    "random state": np.random.get_state(),
    "generator": np.random.default_rng(0),
    "old generator": np.random.RandomState(0),
    "python's random state": random.getstate(),
    "default dict": collections.defaultdict(list, {"loss": [1.0]}),
    "ordered dict": OrderedDict(a=1),
    "deque": collections.deque([1, 2], maxlen=3),
    "dict of a class": Attributes(a=1),
    "list of a class": Listed([1]),
    "pair": Pair(1, 2),
    "dataclass": Settings(0.1),
    "enum": Kind.ONE,
    "slots": Slots(),
    "date": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "uuid": uuid.UUID(int=1),
    "complex": 1j,
    "slice": slice(1, 2),
    "range": range(3),
    "bytearray": bytearray(b"a"),
    "exception": ValueError("x"),
    "function": nn.functional.relu,
    "builtin function": len,
    "class": nn.ReLU,
    "partial": functools.partial(nn.BatchNorm2d, eps=1e-3),
    "keys": {(1, 2): 3, Kind.ONE: 4, None: 5},
    "dtype": torch.float16,
    "layout": torch.strided,
    "awake": awake(),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_beside_the_weights_are_passed_over(tmp_path: Path, kind: str, protocol: int) -> None:
    weights = {"a": torch.arange(3.0), "b": torch.ones(2)}
    SEEN.clear()
    for zipped in (True, False):
        value = {"state_dict": weights, "more": {"x": OBJECTS[kind]}, "epoch": 1}
        torch.save(value, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        with pth.read(tmp_path / "x.pth") as checkpoint:
            found = {name: tensor.read().tolist() for name, tensor in checkpoint.tensors.items()}
        assert {name: found[name] for name in ("state_dict.a", "state_dict.b")} == {
            "state_dict.a": [0, 1, 2],
            "state_dict.b": [1, 1],
        }
        assert "epoch" in checkpoint.others
        assert kind == "keys" or any(name.startswith("more") for name in (*checkpoint.others, *found))
    assert not SEEN


ARRAYS = {
    "float32": np.arange(6, dtype="f4").reshape(2, 3),
    "float64": np.arange(3.0),
    "float16": np.ones(2, "f2"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f4"),
    "slice": np.arange(10.0)[::3],
    "no axes": np.array(3.0),
    "no values": np.zeros((0, 3)),
    "int64": np.arange(3),
    "uint8": np.arange(3, dtype="u1"),
    "bool": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_tensors_in_checkpoints_and_in_plain_pickles(tmp_path: Path, protocol: int) -> None:
    torch.save({"net": ARRAYS, "t": torch.ones(1)}, tmp_path / "x.pth", pickle_protocol=protocol)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"net": ARRAYS}, protocol))
    for name in ("x.pth", "x.pkl"):
        with pth.read(tmp_path / name) as checkpoint:
            for kind, expected in ARRAYS.items():
                array = checkpoint.tensors[f"net.{kind}"].read()
                assert (array.dtype, array.shape) == (expected.dtype.newbyteorder("="), expected.shape)
                assert array.dtype == checkpoint.tensors[f"net.{kind}"].dtype
                assert np.array_equal(array, expected), kind
                assert not array.flags.writeable or array.base is None
        assert checkpoint.container == ("PyTorch zip" if name == "x.pth" else "pickle")


def test_an_array_that_is_not_what_it_claims_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"w": np.ones(5, "f4")}, 4)
    (tmp_path / "x.pkl").write_bytes(content.replace(b"K\x05\x85", b"K\x06\x85"))
    with pytest.raises(FormatError, match=r"a numpy array of shape \(6,\) has 20 bytes"):
        pth.read(tmp_path / "x.pkl")


def small(**more: Any) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net: nn.Module = torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5, **more)
    return net.eval()


class Holder:
    """A trainer, say, which is no module."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", ["bare", "under a key", "data parallel", "in an object", "in a list"])
def test_whole_models_have_the_tensors_of_their_state_dict(tmp_path: Path, wrapped: str, zipped: bool) -> None:
    net = small()
    value, prefix = {
        "bare": (net, ""),
        "under a key": ({"epoch": 1, "model": net}, "model."),
        "data parallel": (nn.DataParallel(net), "module."),
        "in an object": (Holder(net), "net."),
        "in a list": ([net, 1], "0."),
    }[wrapped]
    torch.save(value, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pth.read(tmp_path / "x.pth") as checkpoint:
        expected = {prefix + name: tensor for name, tensor in net.state_dict().items()}
        assert list(checkpoint.tensors) == list(expected)
        for name, tensor in checkpoint.tensors.items():
            assert np.array_equal(tensor.read(), expected[name].numpy())


def test_buffers_that_are_not_saved_are_left_out(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    net.register_buffer("passing", torch.ones(1), persistent=False)
    net.register_buffer("staying", torch.ones(1))
    torch.save(net, tmp_path / "x.pth")
    with pth.read(tmp_path / "x.pth") as checkpoint:
        assert list(checkpoint.tensors) == list(net.state_dict())


def activation(change: str) -> nn.Module:
    return nn.LeakyReLU(0.3) if change == "leaky" else nn.SiLU()


def altered(change: str) -> nn.Module:
    net: nn.Module = small()
    features: Any = net.features
    if change == "epsilon":
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eps = 1e-3
    elif change == "two epsilons":
        features.norm0.eps = 1e-3
    elif change == "stem stride":
        features.conv0.stride = (1, 1)
    elif change == "no stem pool":
        features.pool0 = nn.Identity()
    elif change == "small stem pool":
        features.pool0 = nn.MaxPool2d(5, 2, 2)
    elif change == "mean stem pool":
        features.pool0 = nn.AvgPool2d(3, 2, 1)
    elif change == "rounded up":
        features.pool0.ceil_mode = True
    elif change == "padding":
        features.conv0.padding = (0, 0)
    elif change == "padding mode":
        features.conv0.padding_mode = "reflect"
    elif change == "dilated":
        features.denseblock1.denselayer1.conv2.dilation = (2, 2)
        features.denseblock1.denselayer1.conv2.padding = (2, 2)
    elif change == "transition pool":
        features.transition1.pool = nn.MaxPool2d(2, 2)
    elif change == "transition without activation":
        features.transition1.relu = nn.Identity()
    elif change == "one silu":
        features.denseblock1.denselayer1.relu1 = nn.SiLU()
    elif change in ("silu", "leaky", "silu and a ReLU in code"):
        for name, module in list(features.named_modules()):
            if isinstance(module, nn.ReLU):
                parent, _, child = name.rpartition(".")
                setattr(features.get_submodule(parent), child, activation(change))
        if change in ("silu", "leaky"):  # where torchvision's own code calls ReLU
            behind = {"last": activation(change), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
            net = nn.Sequential(OrderedDict({"features": features, **behind, "classifier": net.classifier}))
    elif change == "silu in the dense layers alone":
        for name, layer in features.named_modules():
            if name.split(".")[-1].startswith("denselayer"):
                layer.relu1 = layer.relu2 = nn.SiLU()
    return net


STATED = {
    "nothing": {"epsilon": 1e-5, "stem_stride": 2, "stem_pool": "max", "padding": "symmetric", "activation": "relu"},
    "epsilon": {"epsilon": 1e-3},
    "stem stride": {"stem_stride": 1},
    "no stem pool": {"stem_pool": "none"},
    "transition without activation": {"transition_activation": "none"},
    "silu": {"activation": "silu"},
    "leaky": {"activation": "leaky-relu", "negative_slope": 0.3},
}
REFUSED = {
    "two epsilons": r"BatchNorm2d features\.\S+ has an epsilon of 1e-05, another has 0\.001",
    "small stem pool": r"MaxPool2d features\.pool0 stands behind the stem, with kernel, stride and padding 5, 2, 2",
    "mean stem pool": r"AvgPool2d features\.pool0 stands behind the stem",
    "rounded up": r"MaxPool2d features\.pool0 rounds sizes up",
    "padding": r"Conv2d features\.conv0 has a kernel of 7 and padding \[0, 0\]",
    "padding mode": r"Conv2d features\.conv0 (pads with reflect|has a kernel of 7 and padding \[0, 0\])",
    "dilated": r"Conv2d features\.denseblock1\.denselayer1\.conv2 is dilated",
    "transition pool": r"MaxPool2d features\.transition1\.pool stands in a transition",
    "one silu": r"ReLU features\.\S+ stands beside another activation, silu",
    "silu in the dense layers alone": r"ReLU features\.relu0 stands beside another activation, silu",
    "silu and a ReLU in code": r"BatchNorm2d features\.norm5 has no module behind it that is a silu",
}


@pytest.mark.parametrize("change", STATED)
def test_modules_state_traits(tmp_path: Path, change: str) -> None:
    torch.save(nn.DataParallel(altered(change)), tmp_path / "x.pth")
    found = denseport.inspect(tmp_path / "x.pth")
    assert found.problem == ""
    assert found.config is not None
    assert {name: getattr(found.config.traits, name) for name in STATED[change]} == STATED[change]
    assert all(found.origins[name] == "stated" for name in STATED[change])


@pytest.mark.parametrize("change", REFUSED)
def test_modules_that_no_net_has_are_refused_by_name_until_the_state_dict_is_saved(tmp_path: Path, change: str) -> None:
    net = altered(change)
    torch.save(net, tmp_path / "x.pth")
    with pytest.raises(LayoutError, match=rf"x\.pth: its {REFUSED[change]}.*torch\.save\(model\.state_dict"):
        denseport.convert(tmp_path / "x.pth", tmp_path / "x.safetensors", verify=False)
    torch.save(net.state_dict(), tmp_path / "x.pth")
    denseport.convert(tmp_path / "x.pth", tmp_path / "x.safetensors", verify=False)


def with_module(behind: str, module: nn.Module) -> nn.Module:
    net: Any = small()
    children = list(net.features.named_children())
    place = next(n for n, (name, _) in enumerate(children) if name == behind) + 1
    net.features = nn.Sequential(OrderedDict([*children[:place], ("odd", module), *children[place:]]))
    return net.eval()


def with_changed(path: str, module: nn.Module) -> nn.Module:
    net: nn.Module = small()
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)
    return net.eval()


ODD = {
    "InstanceNorm2d features.odd": lambda: with_module("pool0", nn.InstanceNorm2d(16)),
    "ZeroPad2d features.odd": lambda: with_module("relu0", nn.ZeroPad2d(1)),
    "Upsample features.odd": lambda: with_module("transition1", nn.Upsample(scale_factor=2)),
    "LocalResponseNorm features.odd": lambda: with_module("norm5", nn.LocalResponseNorm(3)),
    "MaxPool2d features.odd": lambda: with_module("denseblock1", nn.MaxPool2d(3, 1, 1)),
    "ReLU features.odd": lambda: with_module("denseblock1", nn.ReLU()),
    "BatchNorm2d features.norm0": lambda: with_changed("features.relu0", nn.Identity()),
    "Conv2d features.denseblock1.denselayer1.conv1": lambda: with_changed(
        "features.denseblock1.denselayer1.relu1", nn.Identity()
    ),
    "Identity features.transition1.pool": lambda: with_changed("features.transition1.pool", nn.Identity()),
    "AvgPool2d features.transition1.pool rounds": lambda: with_changed(
        "features.transition1.pool", nn.AvgPool2d(2, 2, ceil_mode=True)
    ),
    "AvgPool2d features.transition1.pool divides by 3": lambda: with_changed(
        "features.transition1.pool", nn.AvgPool2d(2, 2, divisor_override=3)
    ),
    "LayerNorm classifier.0": lambda: with_changed(
        "classifier", nn.Sequential(nn.LayerNorm(32, elementwise_affine=False), nn.Linear(32, 5))
    ),
    "Softmax classifier.1 goes over axis 0": lambda: with_changed(
        "classifier", nn.Sequential(nn.Linear(32, 5), nn.Softmax(0))
    ),
}


@pytest.mark.parametrize("named", ODD)
def test_no_module_between_the_stem_and_the_answer_is_passed_over(tmp_path: Path, named: str) -> None:
    torch.save(ODD[named](), tmp_path / "x.pth")
    with pytest.raises(LayoutError, match=rf"x\.pth: its {re.escape(named)}"):
        denseport.convert(tmp_path / "x.pth", tmp_path / "x.safetensors", verify=False)


def program(net: nn.Module, how: str) -> Any:
    if how == "scripted":
        return torch.jit.script(net)
    return torch.jit.trace(net, torch.zeros(1, 3, 32, 32))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("how", ["scripted", "traced"])
@pytest.mark.parametrize("change", [*STATED, *REFUSED])
def test_programs_state_the_same_and_hold_the_same_tensors(tmp_path: Path, change: str, how: str) -> None:
    net = altered(change)
    program(net, how).save(str(tmp_path / "x.pt"))
    with pth.read(tmp_path / "x.pt") as checkpoint:
        assert {name: tensor.read().tolist() for name, tensor in checkpoint.tensors.items()} == {
            name: tensor.tolist() for name, tensor in net.state_dict().items()
        }
    found = denseport.inspect(tmp_path / "x.pt")
    if change in REFUSED:
        assert re.search(REFUSED[change], found.problem)
        return
    assert found.problem == ""
    assert found.config is not None
    assert {name: getattr(found.config.traits, name) for name in STATED[change]} == STATED[change]
    assert all(found.origins[name] == "stated" for name in STATED[change])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "x.pt2"
    torch.export.save(torch.export.export(small().eval(), (torch.zeros(1, 3, 32, 32),)), path)
    return path


def test_an_exported_program_holds_the_same_tensors_and_says_that_it_was_not_read(exported: Path) -> None:
    with pth.read(exported) as checkpoint:
        assert {name: tensor.read().tolist() for name, tensor in checkpoint.tensors.items()} == {
            name: tensor.tolist() for name, tensor in torch.export.load(exported).state_dict.items()
        }
    found = denseport.inspect(exported)
    assert found.problem == ""
    assert any("a program of torch.export, whose weights alone are read" in note for note in found.notes)
    assert found.origins["epsilon"] == "assumed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{", "["), "is no index of tensors"),
        (('"use_pickle": false', '"use_pickle": true'), r"is pickled, sparse.*torch\.export\.load\(path\)\.state_dict"),
        (('"dtype": 7', '"dtype": 10'), "is pickled, sparse or of a rare dtype"),
        (('"layout": 7', '"layout": 1'), "is pickled, sparse or of a rare dtype"),
        (('"weight_0"', '"weight_x"'), "has its values in weight_x, which is not there"),
        (('{"as_int": 3}', '{"as_int": 30000}'), "outside its storage"),
        (('{"as_int": 3}', '{"as_int": "3"}'), "no natural number"),
        (('"sizes"', '"size"'), "is no index of tensors"),
    ],
)
def test_an_exported_program_with_another_index_is_refused(
    exported: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(tmp_path / "x.pt2", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("model_weights_config.json"):
                content = content.decode().replace(*change, 1).encode()
            new.writestr(name, content)
    with pytest.raises(FormatError, match=message):
        pth.read(tmp_path / "x.pt2")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_frozen_program_has_no_tensors_by_name(tmp_path: Path) -> None:
    torch.jit.freeze(torch.jit.script(small())).save(str(tmp_path / "x.pt"))
    with pytest.raises(FormatError, match="holds no tensors"):
        pth.read(tmp_path / "x.pt")


class Normalize(nn.Module):
    """As people write it."""

    def __init__(self, as_buffers: bool) -> None:
        super().__init__()
        mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
        if as_buffers:
            self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        else:
            self.mean, self.std = mean, std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.as_tensor(value).view(1, 3, 1, 1) for value in (self.mean, self.std))
        return (x - mean) / std


def image_norm() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    norm.running_mean, norm.running_var = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    norm.weight.data, norm.bias.data = torch.tensor([1.1, 0.9, 1.0]), torch.tensor([0.0, 0.1, -0.1])
    return norm.eval()


BEFORE = {
    "lists": lambda: [Normalize(as_buffers=False)],
    "buffers": lambda: [Normalize(as_buffers=True)],
    "an image norm": lambda: [image_norm()],
    "two": lambda: [Normalize(as_buffers=True), nn.Identity(), image_norm()],
}


@pytest.mark.parametrize("kind", BEFORE)
def test_what_prepares_images_before_the_net_is_its_inputs(tmp_path: Path, kind: str) -> None:
    from denseport.load import load_torch

    model = nn.Sequential(*BEFORE[kind](), small(), nn.Softmax(1)).eval()
    torch.save(model, tmp_path / "x.pth")
    twin = load_torch(tmp_path / "x.pth", dtype="float64")
    images = torch.rand(2, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        expected, given = model.double()(images), torch.softmax(twin(images), 1)
    assert (expected - given).abs().max() < 1e-6
    found = denseport.inspect(tmp_path / "x.pth")
    assert found.config is not None
    assert found.config.traits.head_activation == "softmax"
    assert found.problem == ""


def with_pool(net: Any) -> nn.Module:
    layers = [net.features, nn.ReLU(), nn.LPPool2d(2, 3), nn.Flatten(), net.classifier]
    return nn.Sequential(*layers)


AROUND = {
    "another pool": (with_pool, "its LPPool2d 2 stands between the last map and the classifier"),
    "before": (lambda net: nn.Sequential(nn.ReflectionPad2d(2), net), "its module 0 stands before the net"),
    "behind": (lambda net: nn.Sequential(net, nn.ReLU()), "its ReLU 1 stands behind the classifier"),
    "two behind": (lambda net: nn.Sequential(net, nn.ReLU(), nn.Softmax(1)), "its ReLU 1 stands behind the classifier"),
}


@pytest.mark.parametrize("kind", AROUND)
def test_what_else_runs_before_or_behind_the_net_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    wrap, message = AROUND[kind]
    torch.save(wrap(small()), tmp_path / "x.pth")
    assert message in denseport.inspect(tmp_path / "x.pth").problem


class Custom(nn.Module):
    """A head of modules that the class itself runs."""

    def __init__(self, width: int, *, apart: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 16)
        if not apart:
            self.act = nn.ELU()
        self.fc2 = nn.Linear(16, 5)
        if apart:
            self.act = nn.ELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fc2(self.act(self.fc1(x)))
        return found


def norm1d() -> nn.Module:
    norm = nn.BatchNorm1d(16, eps=0.1)
    norm.running_mean, norm.running_var = torch.rand(16), torch.rand(16) + 0.5
    return norm


HEADS = {
    "tanh": lambda width: nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Dropout(), nn.Linear(16, 5)),
    "nothing between": lambda width: nn.Sequential(nn.Linear(width, 16), nn.Linear(16, 5)),
    "only dropout": lambda width: nn.Sequential(nn.Linear(width, 16), nn.Dropout(), nn.Linear(16, 5)),
    "norm": lambda width: nn.Sequential(nn.Linear(width, 16), norm1d(), nn.LeakyReLU(0.3), nn.Linear(16, 5)),
    "dropout first": lambda width: nn.Sequential(nn.Dropout(), nn.Linear(width, 5)),
    "custom": lambda width: Custom(width, apart=False),
    "custom, apart": lambda width: Custom(width, apart=True),
}


@pytest.mark.parametrize("kind", HEADS)
def test_heads_are_what_their_modules_say(tmp_path: Path, kind: str) -> None:
    from denseport.load import load_torch

    net: Any = small()
    net.classifier = HEADS[kind](net.classifier.in_features)
    torch.save(net.eval(), tmp_path / "x.pth")
    twin = load_torch(tmp_path / "x.pth", dtype="float64")
    images = torch.rand(2, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        assert (net.double()(images) - twin(images)).abs().max() < 1e-9
    assert not any("assumed, since weights" in note for note in denseport.inspect(tmp_path / "x.pth").notes)


def test_a_sequential_of_all_layers_states_pool_and_last_activation(tmp_path: Path) -> None:
    from denseport.load import load_torch

    net: Any = small()
    width = net.classifier.in_features
    for relu in ([nn.ReLU()], []):
        layers = [net.features, *relu, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(width, 5)]
        torch.save(nn.Sequential(*layers).eval(), tmp_path / "x.pth")
        images = torch.rand(2, 3, 40, 40)
        with torch.no_grad():
            expected, given = nn.Sequential(*layers)(images), load_torch(tmp_path / "x.pth")(images)
        assert (expected - given).abs().max() < 1e-5


class OwnLayer(nn.Module):
    """A dense layer under names that no layout has."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.a, self.b = nn.BatchNorm2d(width, eps=1e-3), nn.Conv2d(width, 4 * growth, 1, bias=False)
        self.c, self.d = nn.BatchNorm2d(4 * growth, eps=1e-3), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.before, self.between = nn.LeakyReLU(0.1), nn.LeakyReLU(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.d(self.between(self.c(self.b(self.before(self.a(x))))))], 1)


def test_modules_state_traits_of_nets_under_names_of_no_layout(tmp_path: Path) -> None:
    from denseport.load import load_torch

    torch.manual_seed(0)
    dense = [OwnLayer(width, 8) for width in (16, 24, 16, 24)]
    transition = [nn.BatchNorm2d(32, eps=1e-3), nn.LeakyReLU(0.1), nn.Conv2d(32, 16, 1, bias=False), nn.AvgPool2d(2)]
    head = [nn.BatchNorm2d(32, eps=1e-3), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)]
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), *dense[:2], *transition, *dense[2:], *head)
    images = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(4, 3, 24, 24))
        torch.save(net.eval(), tmp_path / "x.pth")
        assert (net(images) - load_torch(tmp_path / "x.pth")(images)).abs().max() < 1e-5
    net[6] = nn.MaxPool2d(2)
    torch.save(net, tmp_path / "x.pth")
    with pytest.raises(LayoutError, match="MaxPool2d 6 stands in a transition"):
        load_torch(tmp_path / "x.pth")


def callables() -> list[tuple[str, str]]:
    """What fickling and picklescan call dangerous, and ways in which attacks spell it."""
    listed = {(name.rpartition(".")[0] or name, name.rpartition(".")[2]) for name in dangers.BELOW}
    listed |= {(name, "system") for name in dangers.BELOW | dangers.ANYWHERE}
    for name in ("eval", "exec", "compile", "open", "getattr", "setattr", "__import__", "breakpoint", "apply", "input"):
        listed |= {("builtins", name), ("__builtin__", name)}
    listed |= {("torch", f"{path}.system") for path in ("os", "hub.os", "serialization.os", "utils.data.sys.modules")}
    return sorted(listed)


def test_no_dangerous_callable_runs_and_each_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        pth.read(_archive(tmp_path, b"\x80\x04}."))
    imported = set(sys.modules)
    for module, name in callables():
        spelled = {
            "line": f"c{module}\n{name}\n".encode(),
            "stack": _text(module) + _text(name) + b"\x93",
        }
        for reference in spelled.values():
            for made in (_text("touch canary") + b"\x85R", b")\x81", b")}\x92", b")R}b"):
                path = _archive(tmp_path, b"\x80\x04}(" + _text("x") + reference + made + b"u.")
                with pytest.raises(FormatError, match="code that denseport never runs"):
                    pth.read(path)
    assert not set(sys.modules) - imported
    assert not (tmp_path / "canary").exists()


def _text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def _archive(folder: Path, data: bytes) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    path = folder / "x.pth"
    path.write_bytes(buffer.getvalue())
    return path
