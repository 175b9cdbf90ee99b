"""Weights that PyTorch keeps in parts: what is computed of them is what its own modules compute."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import denseport
from denseport import formats


def densenet() -> Any:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    return torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5).eval()


def with_all(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        net: nn.Module = densenet()
        for module in list(net.modules()):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                change(module)
        net.train()
        with torch.no_grad():
            for _ in range(3):
                net(torch.rand(2, 3, 40, 40))
        return net.eval()

    return made


def pruned_bias(module: nn.Module) -> None:
    prune.random_unstructured(module, "weight", 0.3)
    if module.bias is not None:
        prune.random_unstructured(module, "bias", 0.5)


WAYS = {
    "pruned": with_all(pruned_bias),
    "weight norm": with_all(weight_norm),
    "weight norm of all": with_all(lambda module: weight_norm(module, dim=None)),
    "weight norm of another axis": with_all(lambda module: weight_norm(module, dim=1)),
    "parametrised weight norm": with_all(parametrizations.weight_norm),
    "spectral norm": with_all(spectral_norm),
    "parametrised spectral norm": with_all(parametrizations.spectral_norm),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", WAYS)
def test_weights_are_computed_as_torch_computes_them(tmp_path: Path, kind: str, suffix: str) -> None:
    from safetensors.torch import save_file

    net = WAYS[kind]()
    path = tmp_path / f"x{suffix}"
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    with torch.no_grad():
        net(torch.rand(1, 3, 40, 40))  # hooks compute the weights
    modules = dict(net.named_modules())
    with formats.read(path) as checkpoint:
        assert list(checkpoint.tensors) == list(densenet().state_dict()) or set(checkpoint.tensors) == set(
            densenet().state_dict()
        )
        for name, tensor in checkpoint.tensors.items():
            module, _, own = name.rpartition(".")
            expected = getattr(modules[module], own).detach().numpy()
            assert np.allclose(tensor.read(), expected, rtol=1e-6, atol=1e-7), name
            assert tensor.read().dtype == tensor.dtype
            assert tensor.read().shape == tensor.shape
    report = denseport.convert(path, tmp_path / "y.safetensors", verify=False)
    assert any("computed from their parts as PyTorch does" in note for note in report.notes)


PARTS = {
    "a mask of another shape": {"a.weight_orig": (2, 3), "a.weight_mask": (3, 2)},
    "a magnitude of another shape": {"a.weight_g": (3, 1), "a.weight_v": (2, 3)},
    "a part alone": {"a.weight_orig": (2, 3)},
    "the weight beside them": {"a.weight": (2, 3), "a.weight_orig": (2, 3), "a.weight_mask": (2, 3)},
    "another name": {"a.kernel_orig": (2, 3), "a.kernel_mask": (2, 3)},
    "vectors of another length": {"a.weight_orig": (2, 3), "a.weight_u": (2,), "a.weight_v": (2,)},
}


@pytest.mark.parametrize("kind", PARTS)
def test_what_does_not_fit_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    torch.save({name: torch.ones(shape) for name, shape in PARTS[kind].items()}, tmp_path / "x.pth")
    with formats.read(tmp_path / "x.pth") as checkpoint:
        assert list(checkpoint.tensors) == list(PARTS[kind])
        assert checkpoint.notes == ()


def test_a_direction_of_zeros_warns_of_nothing(tmp_path: Path) -> None:
    torch.save({"a.weight_g": torch.ones(2, 1), "a.weight_v": torch.zeros(2, 3)}, tmp_path / "x.pth")
    with formats.read(tmp_path / "x.pth") as checkpoint, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(checkpoint.tensors["a.weight"].read()).all()
