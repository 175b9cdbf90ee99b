"""What `denseport.models.pytorch.create` makes, beside timm's and torchvision's own nets: `FOLDER ASPECT...`, as JSON.

`names` also writes FOLDER/NAME.safetensors and FOLDER/NAME.npy, the logits for FOLDER/images.npy (N, H, W, C).
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
import torchvision
from timm.models.densenet import DenseNet
from torch_checkpoints import randomise

import denseport
from denseport.models import pytorch
from denseport.net.config import DenseNetConfig

NAMES = ["densenet121", "densenet161", "densenet169", "densenet201", "densenet264d", "densenetblur121d"]
SMALL = DenseNetConfig.bc(8, (2, 3, 2), 12, num_classes=5)
LONG = DenseNetConfig.bc(8, (24,), 12, num_classes=5)  # what recomputation saves grows with the square of the layers
TIMM_LAYOUT = {"densenet264d": "timm-deep", "densenetblur121d": "timm-deep"}


def images_of(folder: Path) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(np.load(folder / "images.npy"), -1, 1).copy())


def with_timms_weights(net: torch.nn.Module, name: str) -> torch.nn.Module:
    """timm's net of this name with the same weights."""
    theirs = timm.create_model(name, num_classes=net.config.num_classes).eval()
    arrays = {own: values.numpy() for own, values in net.state_dict().items()}
    translated = denseport.translate(arrays, "denseport", TIMM_LAYOUT.get(name, "torchvision"))
    theirs.load_state_dict({own: torch.from_numpy(values.copy()) for own, values in translated.items()})
    return theirs


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


@torch.inference_mode()
def names(folder: Path) -> dict[str, object]:
    """Each net saved with all that it is, loaded again, and its logits beside timm's."""
    told = {}
    for name in NAMES:
        torch.manual_seed(0)
        net = pytorch.create(name, num_classes=7)
        randomise(net)
        file = folder / f"{name}.safetensors"
        safetensors.torch.save_file(net.state_dict(), file, net.metadata)
        again = pytorch.create(name, pretrained=file)
        state = net.state_dict()
        reloaded = again.state_dict()
        logits = again.eval()(images_of(folder))
        np.save(folder / f"{name}.npy", logits.numpy())
        told[name] = {
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "timm": sum(parameter.numel() for parameter in timm.create_model(name, num_classes=7).parameters()),
            "reloaded": all(torch.equal(state[key], reloaded[key]) for key in state)
            and state.keys() == reloaded.keys(),
            "apart": apart(logits, with_timms_weights(again, name)(images_of(folder))),
        }
    return told


@torch.inference_mode()
def features(folder: Path) -> dict[str, object]:
    """Every map beside timm's, for a plain net and one with a blur pool."""
    told = {}
    for name in ("densenet121", "densenetblur121d"):
        torch.manual_seed(0)
        net = pytorch.create(name)
        randomise(net)
        maps = pytorch.create(name, features_only=True)
        lacking = maps.load_state_dict(net.state_dict(), strict=False)
        theirs = timm.create_model(name, features_only=True)
        own = maps.eval()(images_of(folder))
        few = pytorch.create(name, features_only=True, out_indices=(1, -3))
        timms_few = timm.create_model(name, features_only=True, out_indices=(1, -3))
        reference = with_timms_weights(net, name).forward_intermediates(images_of(folder), intermediates_only=True)
        told[name] = {
            "missing": lacking.missing_keys,
            "unexpected": lacking.unexpected_keys,
            "info": [maps.feature_info.channels(), maps.feature_info.reduction()],
            "timm": [theirs.feature_info.channels(), theirs.feature_info.reduction()],
            "apart": [apart(a, b) for a, b in zip(own, reference, strict=True)],
            "few": [few.feature_info.channels(), few.feature_info.reduction()],
            "timm_few": [timms_few.feature_info.channels(), timms_few.feature_info.reduction()],
            "few_parts": [part for part, _ in few.named_children()],
            "few_shapes": [list(each.shape) for each in few(images_of(folder))],
        }
    return told


def dropout(_: Path) -> dict[str, object]:
    """What a rate of dropout does beside torchvision's and timm's: under one seed the same features are dropped."""
    arguments = {"growth_rate": 8, "block_config": (2, 3, 2), "num_init_features": 16}
    config = DenseNetConfig.bc(**arguments, num_classes=5)
    timms = {"growth_rate": 8, "block_config": (2, 3, 2)}
    both = {"drop_rate": 0.3, "proj_drop_rate": 0.4}
    told = {}
    for kind, ours, theirs in (
        ("layers", {"proj_drop_rate": 0.4}, torchvision.models.DenseNet(**arguments, num_classes=5, drop_rate=0.4)),
        ("head", {"drop_rate": 0.3}, DenseNet(**timms, num_classes=5, drop_rate=0.3)),
        ("timm", both, DenseNet(**timms, num_classes=5, **both)),
    ):
        net = pytorch.create(config, **ours)
        randomise(net)
        arrays = {name: values.numpy() for name, values in net.state_dict().items()}
        translated = denseport.translate(arrays, "denseport", "torchvision")
        theirs.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in translated.items()})
        x = torch.randn(3, 3, 32, 32)
        outputs = []
        for model in (net.train(), theirs.train()):
            torch.manual_seed(7)
            outputs.append(model(x).detach())
        told[kind] = {
            "apart": apart(*outputs),
            "off": apart(net.eval()(x).detach(), theirs.eval()(x).detach()),
            "random": apart(net.train()(x).detach(), net(x).detach()),
            "names": net.state_dict().keys() == pytorch.create(config).state_dict().keys(),
        }
    return told


def memory(_: Path) -> dict[str, object]:
    """Bytes that the forward pass keeps for the backward pass, and whether anything else is different."""
    torch.manual_seed(0)
    nets = [pytorch.create(LONG, proj_drop_rate=0.2, memory_efficient=efficient) for efficient in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(2, 3, 64, 64)
    told = {}
    kept = []
    for net in nets:
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = net(x)
        logits.square().sum().backward()
        kept.append(sum(storages.values()))
    told["kept"] = kept
    told["gradients"] = all(
        torch.equal(a.grad, b.grad) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True)
    )
    told["statistics"] = all(torch.equal(a, b) for a, b in zip(nets[0].buffers(), nets[1].buffers(), strict=True))
    told["counters"] = sorted({int(values) for name, values in nets[1].named_buffers() if "tracked" in name})
    return told


def graphs(_: Path) -> dict[str, object]:
    """Compiled whole, exported for batches of any size, and in channels-last order."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    told: dict[str, object] = {}
    blur = DenseNetConfig.bc(4, (1, 2), 8, num_classes=5, stem_kernel=3).replace(stem_widths=(4, 4, 8))
    for kind, net in (
        ("plain", pytorch.create(SMALL)),
        ("blur", pytorch.create(blur.replace(stem_pool="max-blur"))),
        ("same", pytorch.create(blur.replace(padding="same"))),
        ("features", pytorch.create(blur, features_only=True)),
        ("efficient", pytorch.create(blur, memory_efficient=True)),
    ):
        randomise(net)
        net.eval()
        wanted = net(x)
        compiled = torch.compile(net, fullgraph=True, backend="eager")(x)
        exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()(x[:1])
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        alone = net(x[:1])
        pairs = ((compiled, wanted), (exported, alone), (last, wanted))
        told[kind] = [apart(*(each[-1] if kind == "features" else each for each in pair)) for pair in pairs]
        if isinstance(last, list):
            told["channels_last"] = [each.is_contiguous(memory_format=torch.channels_last) for each in last]
    return told


def training_step(_: Path) -> dict[str, object]:
    """One compiled training step of a net that recomputes its layers, beside the same step without a compiler."""
    torch.manual_seed(0)
    config = DenseNetConfig.bc(4, (2,), 8, num_classes=5)
    nets = [pytorch.create(config, memory_efficient=True) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(2, 3, 32, 32)
    for net in (nets[0], torch.compile(nets[1], fullgraph=True, backend="aot_eager")):
        net(x).square().sum().backward()
    parameters = zip(nets[0].parameters(), nets[1].parameters(), strict=True)
    return {
        "gradients": max(apart(b.grad, a.grad) for a, b in parameters),
        "counters": sorted({int(values) for name, values in nets[1].named_buffers() if "tracked" in name}),
    }


def pretrained(folder: Path) -> dict[str, object]:
    """Nets that take what they can of a file, and refuse it where it is of another architecture."""
    config = SMALL.replace(padding="same", concatenation="new-first")
    net = pytorch.create(config)
    randomise(net)
    file = folder / "small.safetensors"
    safetensors.torch.save_file(net.state_dict(), file, net.metadata)
    own = pytorch.create(SMALL, pretrained=file)
    tuned = pytorch.create(SMALL, pretrained=file, num_classes=3)
    pooled = pytorch.create(SMALL, pretrained=file, num_classes=0)
    refused = {}
    for arguments in (
        {"name_or_config": "densenet121", "pretrained": file},
        {"name_or_config": SMALL, "pretrained": file, "in_channels": 1},
        {"name_or_config": "densenet211"},
        {"name_or_config": "densenet161.ra_in1k"},
        {"name_or_config": "densenet121", "drop_rate": 1.0},
        {"name_or_config": "densenet121", "out_indices": (0,)},
        {"name_or_config": SMALL, "features_only": True, "out_indices": (4,)},
        {"name_or_config": SMALL, "features_only": True, "out_indices": ()},
    ):
        try:
            pytorch.create(**arguments)
            refused[str(len(refused))] = "nothing"
        except denseport.DenseportError as error:
            refused[str(len(refused))] = str(error)
    return {
        "traits": own.config.traits == config.traits,
        "classes": [own.config.num_classes, tuned.config.num_classes, pooled.config.num_classes],
        "body": all(
            torch.equal(values, net.state_dict()[name])
            for name, values in tuned.state_dict().items()
            if not name.startswith("head.classifier")
        ),
        "head_is_new": not tuned.head.classifier.bias.any() and bool(tuned.head.classifier.weight.any()),
        "pooled": list(pooled.eval()(torch.randn(1, 3, 32, 32)).shape),
        "alias": pytorch.create("tv_densenet121", in_channels=1).config
        == pytorch.create("densenet121.tv_in1k", in_channels=1).config
        == DenseNetConfig.bc(in_channels=1),
        "refused": refused,
    }


ASPECTS = {aspect.__name__: aspect for aspect in (names, features, dropout, memory, graphs, training_step, pretrained)}

if __name__ == "__main__":
    # timm says which of its own names are old; torch's compiler warns of its own internals.
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    print(json.dumps({aspect: ASPECTS[aspect](Path(sys.argv[1])) for aspect in sys.argv[2:]}))
