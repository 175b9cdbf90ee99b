"""The PyTorch twin against torchvision and timm, and what it takes and refuses."""

import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from test_models import CONFIGS, DEEP, PLAIN, SIZES, apart, as_mapped, images, process_of_its_own, weights

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import LayoutError
from denseport.layouts import detect
from denseport.net.config import VARIANTS, DenseNetConfig
from denseport.net.graph import shapes
from denseport.net.weights import Weights

TORCHVISION = (
    (r"^stem\.(conv|norm)\.", r"features.\g<1>0."),
    (r"^block(\d+)\.layer(\d+)\.", r"features.denseblock\1.denselayer\2."),
    (r"^transition", r"features.transition"),
    (r"^head\.norm", r"features.norm5"),
    (r"^head\.classifier", r"classifier"),
)
TIMM = (
    (r"^stem\.(conv|norm)1\.", r"features.\g<1>0."),
    (r"^stem\.(conv|norm)2\.", r"features.\g<1>1."),
    (r"^stem\.(conv|norm)3\.", r"features.\g<1>2."),
    *TORCHVISION,
)


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    with process_of_its_own("torch") as process:
        yield process


def names_and_shapes(config: DenseNetConfig) -> dict[str, tuple[int, ...]]:
    import torch

    from denseport.models import pytorch

    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in pytorch.DenseNet(config).state_dict().items()}


def differences(config: DenseNetConfig, library: str, arguments: dict[str, Any]) -> list[float]:
    """How far the twin's logits are from the library's of the same weights in float64, for images of each size."""
    import torch

    from denseport.models import pytorch

    if library == "torchvision":
        from torchvision.models import DenseNet

        reference, names = DenseNet(**arguments), TORCHVISION
    else:
        from timm import create_model

        reference, names = create_model(**arguments), TIMM
    state = {}
    for name, array in weights(config).items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        state[name] = torch.from_numpy(array)
    faults = reference.double().load_state_dict(state, strict=False)
    assert not faults.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in faults.missing_keys)

    twin = pytorch.load(config, weights(config), "float64")
    batches = [torch.from_numpy(np.moveaxis(images(config, size), -1, 1)) for size in SIZES[2]]
    with torch.no_grad():
        return [apart(twin(batch).numpy(), reference.eval()(batch).numpy()) for batch in batches]


@pytest.mark.parametrize("config", (VARIANTS | CONFIGS).values(), ids=VARIANTS | CONFIGS)
def test_names_and_shapes_are_the_architectures(config: DenseNetConfig, process: ProcessPoolExecutor) -> None:
    expected = shapes(config)
    counters = {re.sub("running_var$", "num_batches_tracked", name): () for name in expected if "running_var" in name}
    assert process.submit(names_and_shapes, config).result() == expected | counters


@pytest.mark.parametrize(
    "arguments",
    [
        {"growth_rate": 32, "block_config": (6, 12, 24, 16), "num_init_features": 64, "num_classes": 7},
        {"growth_rate": 4, "block_config": (2, 3, 2, 1), "num_init_features": 6, "num_classes": 3},
        {"growth_rate": 6, "block_config": (3, 1, 2), "num_init_features": 10, "bn_size": 2, "num_classes": 1},
        {"growth_rate": 3, "block_config": (1, 2), "num_init_features": 7, "bn_size": 1, "num_classes": 9},
    ],
    ids=lambda arguments: str(arguments["growth_rate"]),
)
def test_it_computes_what_torchvision_does(arguments: dict[str, Any], process: ProcessPoolExecutor) -> None:
    found = process.submit(differences, DenseNetConfig.bc(**arguments), "torchvision", arguments).result()
    assert max(found) < 1e-12


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("densenet121", VARIANTS["densenet121"]),
        (
            "densenetblur121d",
            VARIANTS["densenet121"].replace(stem_widths=(32, 32, 64), stem_kernel=3, stem_pool="max-blur"),
        ),
    ],
    ids=["densenet121", "densenetblur121d"],
)
def test_it_computes_what_timm_does(name: str, config: DenseNetConfig, process: ProcessPoolExecutor) -> None:
    assert max(process.submit(differences, config, "timm", {"model_name": name}).result()) < 1e-12


def stem_apart(config: DenseNetConfig, size: tuple[int, int]) -> float:
    """How far a stem without normalisation is from the functions of PyTorch and timm that do the same."""
    import torch
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.pool2d_same import MaxPool2dSame
    from torch import nn

    from denseport.models import pytorch

    stem = pytorch.load(config, weights(config), "float64").stem
    if config.traits.padding == "same":
        conv, pool = Conv2dSame(3, 8, 7, stride=2, bias=False), MaxPool2dSame(3, stride=2)
    else:
        conv, pool = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False), nn.MaxPool2d(3, stride=2, padding=1)
    conv.weight = stem.conv.weight
    with torch.no_grad():
        x = torch.from_numpy(np.moveaxis(images(config, size), -1, 1))
        return apart(stem(x).numpy(), pool(conv(x)).numpy())


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [(20, 20), (21, 21), (22, 19)])
def test_padding_never_wins_a_maximum(padding: str, size: tuple[int, int], process: ProcessPoolExecutor) -> None:
    config = PLAIN.replace(stem_norm=False, padding=padding)
    assert process.submit(stem_apart, config, size).result() < 1e-12


def norm_settings(config: DenseNetConfig) -> set[tuple[float, float]]:
    from torch.nn.modules.batchnorm import _BatchNorm

    from denseport.models import pytorch

    norms = [module for module in pytorch.DenseNet(config).modules() if isinstance(module, _BatchNorm)]
    return {(norm.momentum, norm.eps) for norm in norms}


def test_norms_have_the_configs_settings(process: ProcessPoolExecutor) -> None:
    assert process.submit(norm_settings, PLAIN.replace(epsilon=2e-5)).result() == {(0.1, 2e-5)}


def recorded(config: DenseNetConfig) -> dict[str, str]:
    from denseport.models import pytorch

    return pytorch.load(config, weights(config)).metadata


@pytest.mark.parametrize("name", ["inputs", "every-head-layer", "pool-max"])
def test_its_metadata_say_the_whole_net(name: str, process: ProcessPoolExecutor) -> None:
    config = CONFIGS[name]
    tensors = {name: Tensor.of(array) for name, array in weights(config).items()}
    assert detect(Checkpoint(tensors, process.submit(recorded, config).result())).config == config


def new_features_first(config: DenseNetConfig) -> bool:
    import torch

    from denseport.models import pytorch

    layer = pytorch.load(config, weights(config)).block1.layer1
    old = torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        return torch.equal(layer(old)[:, config.growth_rate :], old)


def test_concatenation_order_is_the_traits(process: ProcessPoolExecutor) -> None:
    assert process.submit(new_features_first, PLAIN.replace(concatenation="new-first")).result()
    assert not process.submit(new_features_first, PLAIN).result()


def reordered_apart(config: DenseNetConfig) -> float:
    """How far a net's outputs are from those of the same one with features prepended, in float64."""
    import torch

    from denseport.models import pytorch

    old = Weights(config, {name: Tensor.of(array) for name, array in weights(config).items()})
    nets = [
        pytorch.load(each.config, {name: tensor.read() for name, tensor in each.tensors.items()}, "float64")
        for each in (old, old.concatenated("new-first"))
    ]
    batch = torch.from_numpy(np.moveaxis(images(config, SIZES[config.dimensions][0]), -1, 1))
    with torch.no_grad():
        return apart(*(net(batch).numpy() for net in nets))


@pytest.mark.parametrize("name", ["bottleneck", "flattened", "every-head-layer", "flattened-every-head-layer"])
def test_another_order_of_concatenation_computes_the_same(name: str, process: ProcessPoolExecutor) -> None:
    assert process.submit(reordered_apart, CONFIGS[name]).result() < 1e-12


def loaded(
    config: DenseNetConfig, arrays: dict[str, np.ndarray], dtype: str, stored: Any = np.float64
) -> dict[str, Any]:
    """The state of the twin, as float64 arrays, with its dtypes; any warning is an error."""
    import torch

    from denseport.models import pytorch

    arrays = as_mapped(arrays, stored)
    with warnings.catch_warnings(action="error"):
        model = pytorch.load(config, arrays, dtype)
    state = model.state_dict()
    return {
        "training": model.training,
        "trainable": all(parameter.requires_grad for parameter in model.parameters()),
        "dtypes": {str(tensor.dtype) for tensor in state.values()},
        "counters": {int(tensor) for name, tensor in state.items() if name.endswith("num_batches_tracked")},
        "arrays": {name: state[name].to(torch.float64).numpy() for name in shapes(config)},
    }


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("stored", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ">f4"])
def test_arrays_of_any_dtype_and_order_are_loaded(dtype: str, stored: Any, process: ProcessPoolExecutor) -> None:
    arrays = weights(DEEP)
    found = process.submit(loaded, DEEP, arrays, dtype, stored).result()
    assert (found["training"], found["trainable"], found["counters"]) == (False, True, {0})
    assert found["dtypes"] == {f"torch.{dtype}", "torch.int64"}
    for name, array in arrays.items():
        expected = array.astype(stored).astype(dtype).astype(np.float64)
        np.testing.assert_array_equal(found["arrays"][name], expected, name)


def test_counters_are_kept_where_they_are_given(process: ProcessPoolExecutor) -> None:
    arrays = weights(PLAIN)
    counters = {re.sub("running_var$", "num_batches_tracked", name): np.array(12) for name in arrays if "var" in name}
    assert process.submit(loaded, PLAIN, counters | arrays, "float32").result()["counters"] == {12}


def test_what_does_not_fit_is_refused(process: ProcessPoolExecutor) -> None:
    arrays = weights(PLAIN)
    arrays["block1.layer1.conv1.weight"] = arrays["block1.layer1.conv1.weight"][..., 0]
    arrays["fc.weight"] = arrays.pop("head.classifier.weight")
    message = (
        "missing keys head.classifier.weight; unexpected keys fc.weight; "
        "size mismatch for block1.layer1.conv1.weight (16, 8, 1) should be (16, 8, 1, 1)"
    )
    with pytest.raises(LayoutError, match=re.escape(message)):
        process.submit(loaded, PLAIN, arrays, "float32").result()
