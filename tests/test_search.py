"""A net is found by its own names wherever it stands in a file; what stands beside it is left out, or refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from densenets import SMALL, canonical_weights, equal
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layouts import checkpoint, spelled

import denseport
from denseport import FormatError, LayoutError, formats, text
from denseport.checkpoint import Tensor
from denseport.layouts import Detection, detect, to_canonical
from denseport.net.config import DenseNetConfig
from denseport.terminal import Row

NET = SMALL["four blocks"][0]
WHOLE = spelled(NET, "torchvision")
BODY = {name: array for name, array in WHOLE.items() if not name.startswith("classifier")}
OTHER = {name: array + 1 for name, array in WHOLE.items()}
HEAD = {"weight": WHOLE["classifier.weight"], "bias": WHOLE["classifier.bias"]}

Arrays = dict[str, np.ndarray]


def below(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def found(arrays: Arrays, **how: Any) -> Detection:
    """The net that is found; its tensors are those of `NET`, bit by bit."""
    detection = detect(checkpoint(arrays), **how)
    weights = to_canonical(checkpoint(arrays), detection)
    expected = canonical_weights(NET)
    assert equal(
        {name: tensor.read() for name, tensor in weights.tensors.items()}, {n: expected[n] for n in weights.tensors}
    )
    return detection


def noted(arrays: Arrays, detection: Detection) -> str:
    return "; ".join(detection.notes(checkpoint(arrays)))


@pytest.mark.parametrize("layout", ["torchvision", "torchvision-0.2", "keras-applications", "denseport", "flyyufelix"])
@pytest.mark.parametrize("prefix", ["densenet121.", "trunk.visual_encoder.", "0.", "left_", "model.model.module."])
def test_any_prefix_is_taken_off_and_said(layout: str, prefix: str) -> None:
    arrays = below(prefix.replace(".", "/") if "keras" in layout else prefix, spelled(NET, layout))
    detection = found(arrays)
    assert (detection.layout.name, detection.prefix.replace("/", ".")) == (layout, prefix)
    assert f"the prefix {detection.prefix} was taken off" in noted(arrays, detection)


@pytest.mark.parametrize("prefix", ["", "features_", "0.0.", "base.", "encoder.body."])
@pytest.mark.parametrize("head", ["", "fc.", "1.2.", "classifier."])
def test_a_body_by_itself_may_stand_under_any_name(prefix: str, head: str) -> None:
    body = {name.replace("features.", prefix, 1): array for name, array in BODY.items()}
    arrays = body | (below(head, HEAD) if head else {})
    detection = found(arrays)
    assert (detection.prefix, detection.instead) == (prefix, "features.")
    assert detection.config.num_classes == (10 if head else None)
    assert not detection.dropped
    assert "features." in noted(arrays, detection)


@pytest.mark.parametrize(("around", "within"), [("_fsdp.", "_fsdp."), ("module.", "_orig_mod.module.")])
def test_modules_around_every_module_are_taken_off_and_said(around: str, within: str) -> None:
    """Of DenseNets that were sharded or compiled layer by layer."""
    arrays = {around + re.sub(r"(denselayer|transition)", rf"{within}\1", name): array for name, array in WHOLE.items()}
    detection = found(arrays)
    assert "within the names were taken off" in noted(arrays, detection)
    assert Detection.from_dict(json.loads(json.dumps(detection.to_dict()))) == detection


STRANGERS: dict[str, Arrays] = {
    "a loss's weights": {"criterion.weight": zeros(10)},
    "counts": {"n_averaged": np.zeros((), np.int64), "step": zeros(1)},
    "a queue": {"queue": zeros(10, 16), "queue_ptr": zeros(1)},
    "a projector": {"projector.0.weight": zeros(8, NET.features), "projector.0.bias": zeros(8)},
    "an optimizer": {"optimizer.state.0.exp_avg": zeros(18, 3, 7, 7), "optimizer.state.0.step": zeros()},
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_stands_outside_a_whole_net_is_left_out_and_said(kind: str) -> None:
    arrays = below("model.", WHOLE) | STRANGERS[kind]
    detection = found(arrays)
    assert set(detection.dropped) == set(STRANGERS[kind])
    assert f"left out: {next(iter(STRANGERS[kind]))}" in noted(arrays, detection)


@pytest.mark.parametrize("kind", sorted(set(STRANGERS) - {"an optimizer"}))
def test_what_no_net_reads_is_left_out_beside_its_classifier(kind: str) -> None:
    assert set(found(WHOLE | STRANGERS[kind]).dropped) == set(STRANGERS[kind])


def test_many_tensors_are_left_out_by_their_branches() -> None:
    arrays = below("model.", WHOLE) | below("momentum.", {f"{n}.weight": zeros(9, 9) for n in range(20)})
    arrays |= {f"metrics.{n}": zeros(1) for n in range(3)}
    assert "left out: momentum (20 tensors), metrics (3 tensors)" in noted(arrays, found(arrays))


def test_figures_of_the_image_that_are_left_out_are_pointed_at() -> None:
    arrays = below("model.", WHOLE) | {"mean": zeros(1, 3, 1, 1), "std": zeros(1, 3, 1, 1)}
    assert "mean and std have a value for each channel of the image" in noted(arrays, found(arrays))


PARTS: dict[str, tuple[Arrays, str]] = {
    "a segmentation model": (
        below("encoder.", BODY) | {"decoder.0.conv.weight": zeros(4, 76, 3, 3)},
        r"a DenseNet at encoder.*unexpected keys decoder\.0\.conv\.weight",
    ),
    "a convolution beside the body": (WHOLE | {"attention.weight": zeros(1, 2, 7, 7)}, r"unexpected keys attention"),
    "a layer behind the classifier": (
        below("0.", WHOLE) | {"2.weight": zeros(3, 10), "2.bias": zeros(3)},
        r"2\.weight reads as many values as its 10 outputs.*--net 0$",
    ),
    "a head that reads the body beside the one that was trained first": (
        below("model.", WHOLE) | {"classifier.add_block.0.weight": zeros(7, NET.features)},
        r"add_block\.0\.weight reads as many values as its body gives.*--net model$",
    ),
    "the exponent of a pool": (WHOLE | {"pool.p": zeros(1)}, r"unexpected keys pool\.p"),
    "a layer whose parameters have numbers for names": (
        spelled(NET, "keras-applications") | {"layer_normalization/0": zeros(76), "layer_normalization/1": zeros(76)},
        r"unexpected keys layer_normalization/0",
    ),
    "a classifier that is a convolution": (BODY | {"classifier.weight": zeros(5, NET.features, 3, 3)}, "classifier"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_of_something_larger_is_refused_and_its_body_had_by_head_drop(kind: str) -> None:
    arrays, told = PARTS[kind]
    with pytest.raises(LayoutError, match=told) as refused:
        detect(checkpoint(arrays))
    assert "--head drop" in str(refused.value)
    for path in re.findall(r"--net (\S+)", str(refused.value)):
        assert found(arrays, net=path).config.num_classes == 10
    detection = found(arrays, head="drop")
    weights = to_canonical(checkpoint(arrays), detection).without_head()
    assert equal(
        {name: tensor.read() for name, tensor in weights.tensors.items()},
        {name: array for name, array in canonical_weights(NET).items() if not name.startswith("head.classifier")},
    )


def test_a_stranger_within_the_body_is_refused_even_where_the_head_is_dropped() -> None:
    arrays = WHOLE | {"features.attention.weight": zeros(1, 2, 7, 7)}
    with pytest.raises(LayoutError, match=r"unexpected keys features\.attention\.weight"):
        detect(checkpoint(arrays), head="drop")


SEVERAL: dict[str, tuple[Arrays, dict[str, str]]] = {
    "two encoders": (
        below("module.encoder_q.", WHOLE) | below("module.encoder_k.", OTHER) | {"module.queue": zeros(10, 16)},
        {"module.encoder_q": "the query encoder", "module.encoder_k": "the key encoder"},
    ),
    "averaged weights": (
        below("state_dict.", WHOLE) | below("state_dict_ema.", OTHER),
        {"state_dict": "weights as they were trained", "state_dict_ema": "averaged weights"},
    ),
    "one at the top": (WHOLE | below("ema.", OTHER), {".": "weights as they were trained", "ema": "averaged weights"}),
    "a body and a whole net": (
        below("student.", WHOLE) | below("teacher.", {name: OTHER[name] for name in BODY}),
        {"student": "the student", "teacher": "a teacher"},
    ),
    "names that begin alike": (
        below("left_", spelled(NET, "keras-applications"))
        | below("right_", {name: array + 1 for name, array in spelled(NET, "keras-applications").items()}),
        {"left_": "", "right_": ""},
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_nets_are_refused_and_each_is_had_by_its_path(kind: str) -> None:
    arrays, paths = SEVERAL[kind]
    with pytest.raises(LayoutError, match=f"holds {len(paths)} nets") as refused:
        detect(checkpoint(arrays))
    for path, said in paths.items():
        assert f"{path} ({said}" in str(refused.value)
    remedies = re.findall(r"--net (\S+)", str(refused.value))
    assert remedies == [*paths]
    first, *others = (detect(checkpoint(arrays), net=shlex.split(path)[0]) for path in remedies)
    assert not any(set(first.roles.values()) & set(other.roles.values()) for other in others)
    assert found(arrays, net=remedies[0]).layout == first.layout


def test_inspect_draws_what_stands_where(tmp_path: Path) -> None:
    arrays, paths = SEVERAL["two encoders"]
    arrays = arrays | {f"optimizer.{n}.exp_avg": zeros(2) for n in range(9)}
    formats.write({name: Tensor.of(array) for name, array in arrays.items()}, {}, tmp_path / "a.pth", "pth")
    report = denseport.inspect(tmp_path / "a.pth")
    assert {net.path for net in report.nets} == set(paths)
    assert report.beside == "module.queue, optimizer (9 tensors)"
    rows = [(part.label, part.value) for part in text.inspection(report) if isinstance(part, Row)]
    assert ("net", f"module.encoder_q: {report.nets[0].kind}; {len(WHOLE)} tensors") in rows
    assert ("beside", report.beside) in rows
    assert denseport.inspect(tmp_path / "a.pth", net="module.encoder_k").problem == ""


def under_names_of_no_layout(arrays: Arrays) -> Arrays:
    names = {"conv0": "first", "norm0": "second", "denseblock": "stage_", "denselayer": "unit_", "transition": "shrink"}
    return {re.sub("|".join(names), lambda part: names[part[0]], name): array for name, array in arrays.items()}


@pytest.mark.parametrize("kind", ["two encoders", "averaged weights", "one at the top", "a body and a whole net"])
def test_several_nets_of_no_known_names_are_refused_and_each_is_had_by_its_path(kind: str) -> None:
    arrays, paths = SEVERAL[kind]
    arrays = under_names_of_no_layout(arrays)
    with pytest.raises(LayoutError, match=f"holds {len(paths)} nets") as refused:
        detect(checkpoint(arrays))
    remedies = re.findall(r"--net (\S+)", str(refused.value))
    assert len(remedies) == len(paths)
    first, *others = (detect(checkpoint(arrays), net=path) for path in remedies)
    assert not any(set(first.roles.values()) & set(other.roles.values()) for other in others)
    assert set(first.dropped) >= {name for other in others for name in other.roles.values()}


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_stands_outside_a_net_of_no_known_names_is_left_out_and_said(kind: str) -> None:
    arrays = under_names_of_no_layout(below("model.", WHOLE)) | STRANGERS[kind]
    assert set(found(arrays).dropped) == set(STRANGERS[kind])


def test_one_block_of_a_net_is_no_net() -> None:
    """Where something in the net is strange, so that the whole is refused."""
    config = DenseNetConfig.bc(8, (4, 4), 16, num_classes=3)
    arrays = under_names_of_no_layout(spelled(config, "torchvision"))
    arrays |= {"features.stage_2.extra.weight": zeros(24, 24, 3, 3)}
    with pytest.raises(LayoutError, match="no known layout matches"):
        detect(checkpoint(arrays))


def test_a_body_of_no_known_names_is_had_by_head_drop() -> None:
    arrays = under_names_of_no_layout(below("encoder.", BODY)) | {"decoder.0.conv.weight": zeros(4, 76, 3, 3)}
    with pytest.raises(LayoutError, match=r"unexpected keys decoder\.0\.conv\.weight.*--head drop"):
        detect(checkpoint(arrays))
    assert set(found(arrays, head="drop").dropped) == {"decoder.0.conv.weight"}


def test_the_same_net_under_two_names_is_one() -> None:
    assert found(below("model.", WHOLE) | below("backbone.", BODY)).prefix == "model."


def test_a_path_without_tensors_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"no tensor stands below encoder; .*inspect"):
        detect(checkpoint(WHOLE), net="encoder")


def test_the_way_that_a_message_names_leads_to_the_net(tmp_path: Path) -> None:
    """`layouts derive`, `--net` and `--head drop`, each followed to the letter in a file of two unknown nets."""

    def renamed(arrays: Arrays) -> Arrays:
        return {re.sub(r"denseblock(\d)\.denselayer(\d)", r"b\1.l\2", name): array for name, array in arrays.items()}

    arrays = below("q.", renamed(BODY)) | {"q.mlp.0.weight": zeros(7, NET.features + 1)} | below("k.", renamed(OTHER))
    path, target, layout = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "mine.toml"
    formats.write({name: Tensor.of(array) for name, array in arrays.items()}, {}, path, "safetensors")
    with pytest.raises(LayoutError, match=r"--net k or --net q\.features"):
        denseport.convert(path, target, verify=False)
    layout.write_text(denseport.derive(path, net="q", head="drop"))
    with pytest.raises(LayoutError, match="--net k or --net q"):
        denseport.convert(path, target, verify=False, from_layout=layout)
    with pytest.raises(LayoutError, match="--head drop"):
        denseport.convert(path, target, verify=False, from_layout=layout, net="q")
    denseport.convert(path, target, verify=False, from_layout=layout, net="q", head="drop")
    with formats.read(target) as written:
        assert equal({name: tensor.read() for name, tensor in written.tensors.items()}, BODY)


def keras_file(path: Path) -> Path:
    arrays = spelled(NET, "keras-applications")
    formats.write({name: Tensor.of(array) for name, array in arrays.items()}, {}, path, "h5")
    return path


def test_names_of_keras_that_contradict_the_paths_it_loads_by_are_refused(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "a.weights.h5")
    assert denseport.inspect(path).problem == ""
    swap = {"conv2_block1_1_bn": "conv2_block2_1_bn", "conv2_block2_1_bn": "conv2_block1_1_bn"}
    with h5py.File(path, "r+") as file:
        for layer in file["layers"].values():
            layer["vars"].attrs["name"] = swap.get(name := layer["vars"].attrs["name"], name)
    with pytest.raises(
        LayoutError,
        match=r"/layers/batch_normalization_4 is named conv2_block1_1_bn: .* save the model again",
    ):
        denseport.convert(path, tmp_path / "b.pth", verify=False)


@pytest.mark.parametrize(("layer", "first", "second"), [("bn", "gamma", "beta"), ("predictions", "kernel", "bias")])
def test_weights_in_another_order_than_keras_loads_them_are_refused(
    layer: str, first: str, second: str, tmp_path: Path
) -> None:
    path = keras_file(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        names = [*file[layer].attrs["weight_names"]]
        names[0], names[1] = names[1], names[0]
        file[layer].attrs["weight_names"] = np.array(names)
    with pytest.raises(FormatError, match=rf"layer {layer} lists {second}, {first}.*would load as {first}, {second}"):
        denseport.convert(path, tmp_path / "b.pth", verify=False)


PARTS_OF_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
PREFIXES = st.lists(PARTS_OF_NAMES, min_size=1, max_size=4).map(lambda parts: "".join(f"{part}." for part in parts))
SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    prefix=PREFIXES,
    strangers=st.dictionaries(PARTS_OF_NAMES.map("zz_{}.weight".format), SHAPES, max_size=4),
    layout=st.sampled_from(["torchvision", "torchvision-0.2", "denseport", "andreasveit"]),
    second=st.none() | st.just("") | PREFIXES,
    data=st.data(),
)
def test_wrappers_and_strangers_never_change_the_tensors_found(
    prefix: str, strangers: dict[str, tuple[int, ...]], layout: str, second: str | None, data: st.DataObject
) -> None:
    config = NET if layout != "andreasveit" else SMALL["CIFAR"][0]
    whole = spelled(config, layout)
    arrays = below(prefix, whole) | {name: zeros(*shape) for name, shape in strangers.items()}
    if second is not None and second != prefix:
        arrays |= below(second, {name: array + 1 for name, array in whole.items()})
    arrays = {name: arrays[name] for name in data.draw(st.permutations(list(arrays)))}
    if second not in (None, prefix):
        with pytest.raises(LayoutError, match="--net"):
            detect(checkpoint(arrays))
        return
    detection = detect(checkpoint(arrays), head=data.draw(st.sampled_from(["keep", "drop"])))
    assert {role: name.removeprefix(prefix) for role, name in detection.roles.items()} == detect(
        checkpoint(whole)
    ).roles
