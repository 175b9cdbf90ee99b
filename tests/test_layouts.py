"""Every layout spells every net's tensors, is detected by them alone, and gives them back bit by bit."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from densenets import CIFAR, SMALL, canonical_weights, equal

from denseport import LayoutError, translate
from denseport.checkpoint import Checkpoint, Tensor
from denseport.layouts import (
    Detection,
    Weights,
    detect,
    find_layout,
    from_canonical,
    known_layouts,
    known_text,
    to_canonical,
)
from denseport.layouts.frameworks import KERAS, TORCH
from denseport.layouts.traits import decide
from denseport.net.config import TRAIT_NAMES, VARIANTS, DenseNetConfig, Traits

ROWS = [(net, layout) for net, (_, spelled_by) in SMALL.items() for layout in spelled_by]
PAIRS = [(net, *pair) for net, (_, spelled_by) in SMALL.items() for pair in itertools.permutations(spelled_by, 2)]
PLAIN = SMALL["four blocks"][0]


def spelled(config: DenseNetConfig, layout: str, framework: str = "") -> dict[str, np.ndarray]:
    """The arrays of a net in a layout, made by the layout itself."""
    tensors = {name: Tensor.of(array) for name, array in canonical_weights(config).items()}
    chosen = find_layout(layout)
    written = from_canonical(Weights(config, tensors), chosen, chosen.framework_for(framework))
    return {name: tensor.read() for name, tensor in written.items()}


def checkpoint(arrays: dict[str, np.ndarray], **facts: object) -> Checkpoint:
    return Checkpoint({name: Tensor.of(array) for name, array in arrays.items()}, **facts)


@pytest.mark.parametrize(("net", "layout"), ROWS)
def test_a_layout_is_detected_with_its_configuration(net: str, layout: str) -> None:
    config = SMALL[net][0]
    found = detect(checkpoint(spelled(config, layout)))
    assert found.layout.name == layout
    traits = known_layouts()[layout].traits_of(config)
    assert found.config.replace(traits=config.traits) == config
    assert {name: getattr(found.config.traits, name) for name in traits} == traits


@pytest.mark.parametrize(("net", "layout"), ROWS)
def test_a_detection_travels_as_json(net: str, layout: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(known_text(layout))
    arrays = {f"module.{name}": array for name, array in spelled(SMALL[net][0], layout).items()}
    for backend, asked in (("", layout), ("theano", layout), ("", tmp_path / "mine.toml")):
        found = detect(checkpoint(arrays, backend=backend), asked)
        assert Detection.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(("net", "source", "target"), PAIRS)
def test_every_layout_translates_to_every_other_and_back(net: str, source: str, target: str) -> None:
    config = SMALL[net][0]
    there = translate(spelled(config, source), source, target)
    back = translate(there, target, source)
    expected = spelled(config, source, detect(checkpoint(there), target).framework.name)
    assert equal(back, expected)


def test_every_layout_is_in_the_table() -> None:
    asked_for = {name for name, layout in known_layouts().items() if not layout.detected}
    assert {layout for _, layout in ROWS} | asked_for == set(known_layouts())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variants_have_the_tensors_that_torchvision_counts(variant: str) -> None:
    entries = {"densenet121": 727, "densenet161": 967, "densenet169": 1015, "densenet201": 1207, "densenet264": 1591}
    config = VARIANTS[variant]
    assert len(spelled_names(config)) == entries[variant]


def spelled_names(config: DenseNetConfig) -> list[str]:
    tensors = {name: Tensor(np.dtype("f4"), (), lambda: np.zeros(())) for name in canonical_shapes(config)}
    return list(from_canonical(Weights(config, tensors), find_layout("torchvision"), TORCH))


def canonical_shapes(config: DenseNetConfig) -> dict[str, tuple[int, ...]]:
    from denseport.net.graph import shapes

    return shapes(config)


def test_kernels_are_transposed_even_where_no_shape_would_show_it() -> None:
    config = DenseNetConfig.bc(8, (3,), 16, 4, num_classes=40)
    arrays = canonical_weights(config)
    square = arrays["block1.layer3.conv1.weight"]
    assert square.shape == (32, 32, 1, 1)
    keras = translate(arrays, "denseport", "keras-applications")
    np.testing.assert_array_equal(keras["conv2_block3_1_conv/kernel"][0, 0], square[:, :, 0, 0].T)
    assert not np.array_equal(keras["conv2_block3_1_conv/kernel"][0, 0], square[:, :, 0, 0])
    assert arrays["head.classifier.weight"].shape == (40, 40)
    np.testing.assert_array_equal(keras["predictions/kernel"], arrays["head.classifier.weight"].T)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "module.model._orig_mod."]
)
def test_prefixes_are_taken_off_and_said(prefix: str) -> None:
    arrays = {prefix + name: array for name, array in spelled(PLAIN, "torchvision").items()}
    read = checkpoint(arrays)
    found = detect(read)
    assert found.prefix == prefix
    assert found.notes(read) == [f"the prefix {prefix} was taken off"]
    assert to_canonical(read, found).tensors.keys() == canonical_weights(PLAIN).keys()


def test_half_prefixed_names_are_refused_by_name() -> None:
    arrays = spelled(PLAIN, "torchvision")
    names = list(arrays)
    mixed = {f"module.{name}" if n > 12 else name: arrays[name] for n, name in enumerate(names)}
    with pytest.raises(
        LayoutError, match=r"the prefix module\. stands before 114 keys, but not before features\.conv0"
    ):
        detect(checkpoint(mixed))


def test_a_head_beside_a_wrapped_body_is_found() -> None:
    arrays = spelled(PLAIN, "torchvision")
    body = {f"backbone.{name}": array for name, array in arrays.items() if not name.startswith("classifier")}
    head = {"fc.weight": arrays["classifier.weight"], "fc.bias": arrays["classifier.bias"]}
    found = detect(checkpoint(body | head))
    assert (found.prefix, found.head, found.config.num_classes) == ("backbone.", "fc", 10)


def test_a_layer_that_is_no_head_is_refused() -> None:
    arrays = spelled(SMALL["no classifier"][0], "torchvision")
    arrays |= {"fc.weight": np.zeros((3, 5), np.float32), "fc.bias": np.zeros(3, np.float32)}
    with pytest.raises(LayoutError, match=r"unexpected keys fc\.weight, fc\.bias"):
        detect(checkpoint(arrays))


def test_the_head_of_2018_is_read_and_todays_is_written() -> None:
    arrays = spelled(PLAIN, "keras-applications-2")
    old = {name.replace("predictions", "fc1000"): array for name, array in arrays.items()}
    assert "fc1000/kernel" in old
    assert equal(translate(old, None, "keras-applications-2"), arrays)


def test_missing_unexpected_and_misshapen_tensors_are_all_named_at_once() -> None:
    arrays = spelled(PLAIN, "torchvision")
    del arrays["features.norm5.running_var"]
    arrays["features.extra.weight"] = np.zeros(3, np.float32)
    arrays["features.transition1.conv.weight"] = arrays["features.transition1.conv.weight"][:, 1:]
    with pytest.raises(LayoutError) as caught:
        detect(checkpoint(arrays))
    message = str(caught.value)
    assert "closest: torchvision (42 of 43 layers)" in message
    assert "missing keys features.norm5.running_var;" in message
    assert "unexpected keys features.extra.weight;" in message
    assert "size mismatch for features.transition1.conv.weight (17, 33, 1, 1) should be (17, 34, 1, 1);" in message
    assert "denseport layouts derive FILE -o mine.toml" in message


@pytest.mark.parametrize(
    ("layout", "stem"),
    [
        ("torchvision", "features.conv0.weight"),
        ("keras-applications", "conv1_conv/kernel"),
        ("denseport", "stem.conv."),
    ],
)
def test_a_missing_stem_is_named_with_all_else_that_is_missing(layout: str, stem: str) -> None:
    arrays = spelled(PLAIN, layout)
    first, last = next(iter(arrays)), [name for name in arrays if name.endswith("_mean")][-1]
    assert first.startswith(stem)
    del arrays[first], arrays[last]
    with pytest.raises(LayoutError, match=rf"closest: {layout} .*: missing keys {first}, {last};"):
        detect(checkpoint(arrays))


def test_a_missing_first_convolution_of_a_deep_stem_is_named() -> None:
    arrays = spelled(SMALL["deep stem"][0], "timm-deep")
    first = next(iter(arrays))
    del arrays[first]
    with pytest.raises(LayoutError, match=f"closest: timm-deep .*: missing keys {first};"):
        detect(checkpoint(arrays))


@pytest.mark.parametrize(
    ("shape", "should"),
    [
        ((18, 3, 7), "should be"),
        ((18, 3, 7, 7, 7), "should be"),
        ((17, 3, 7, 7), r"should be \(18, 3, 7, 7\);"),
        ((18, 3, 7, 5), r"should be \(18, 3, 7, 7\);"),
        ((18,), "which no such layer has"),
        ((18, 0, 7, 7), "which no such layer has"),
    ],
)
def test_a_misshapen_stem_is_named_alone(shape: tuple[int, ...], should: str) -> None:
    arrays = spelled(PLAIN, "torchvision") | {"features.conv0.weight": np.zeros(shape, np.float32)}
    with pytest.raises(LayoutError, match=rf"size mismatch for features\.conv0\.weight .*{should}") as caught:
        detect(checkpoint(arrays))
    assert str(caught.value).count("should be") <= 1


def test_a_misshapen_stem_without_a_norm_is_named_alone() -> None:
    arrays = spelled(SMALL["CIFAR"][0], "gpleiss")
    name = next(iter(arrays))
    arrays[name] = arrays[name][1:]
    with pytest.raises(LayoutError, match=rf"size mismatch for {name} \(11, 3, 3, 3\) should be \(12, 3, 3, 3\);"):
        detect(checkpoint(arrays))


def test_a_misshapen_transition_is_named_alone() -> None:
    arrays = spelled(PLAIN, "torchvision")
    name = "features.transition1.conv.weight"
    arrays[name] = arrays[name][1:]
    with pytest.raises(LayoutError, match=r"size mismatch for features\.transition1\.conv\.weight \(16, 34") as caught:
        detect(checkpoint(arrays))
    assert str(caught.value).count("should be") == 1


def test_a_head_without_outputs_is_refused() -> None:
    arrays = spelled(SMALL["no classifier"][0], "torchvision")
    features = arrays["features.norm5.weight"].size
    arrays |= {"fc.weight": np.zeros((0, features), np.float32), "fc.bias": np.zeros(0, np.float32)}
    with pytest.raises(LayoutError, match=r"unexpected keys fc\.weight, fc\.bias"):
        detect(checkpoint(arrays))


def test_at_most_twenty_names_are_listed_and_the_rest_counted() -> None:
    arrays = spelled(VARIANTS["densenet121"], "torchvision")
    kept = {name: array for name, array in arrays.items() if "denseblock3" not in name or name.endswith("conv2.weight")}
    with pytest.raises(LayoutError, match=r"and \d+ more") as caught:
        detect(checkpoint(kept))
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("gone", ["features.norm5", "features.norm0", "features.denseblock2.denselayer1"])
def test_what_a_layout_must_have_is_missed_and_not_explained_away(gone: str) -> None:
    arrays = spelled(PLAIN, "torchvision")
    kept = {name: array for name, array in arrays.items() if not name.startswith(gone)}
    with pytest.raises(LayoutError, match="missing"):
        detect(checkpoint(kept))


def test_tensors_of_something_else_are_refused() -> None:
    with pytest.raises(
        LayoutError, match=r"no known layout matches: its keys are layer1\.0.*denseport layouts derive FILE"
    ):
        detect(checkpoint({"layer1.0.conv1.weight": np.zeros((3, 3, 3, 3))}))


def test_two_tensors_of_one_role_are_refused() -> None:
    arrays = spelled(PLAIN, "keras-applications-2")
    again = {name.replace("predictions", "fc1000"): array for name, array in arrays.items() if "predictions" in name}
    with pytest.raises(LayoutError, match=r"fc1000/kernel stands for head\.classifier\.weight a second time"):
        detect(checkpoint(arrays | again))


def test_no_tensors_are_refused() -> None:
    with pytest.raises(LayoutError, match="holds no tensors"):
        detect(checkpoint({}))


def nameless(config: DenseNetConfig) -> tuple[Checkpoint, dict[str, np.ndarray]]:
    """A net of keras.applications' kind without its layers' names, and the same arrays by their names there."""
    arrays = spelled(config, "keras-applications")
    counts: dict[str, dict[str, int]] = {}
    numbered = {}
    for name, array in arrays.items():
        layer, parameter = name.split("/")
        parameters = {n.split("/")[1] for n in arrays if n.startswith(f"{layer}/")}
        kind = "batch_normalization" if "gamma" in parameters else "dense" if "bias" in parameters else "conv2d"
        number = counts.setdefault(kind, {}).setdefault(layer, len(counts.get(kind, {})))
        numbered[f"{kind}_{number}/{parameter}"] = array
    by_class = dict(sorted(numbered.items(), key=lambda item: item[0].split("_")[0]))
    return checkpoint(by_class, nameless=True), arrays


KERAS_SMALL = DenseNetConfig.bc(32, (2, 1, 1, 2), 64, num_classes=7)


@pytest.mark.parametrize("config", [KERAS_SMALL, VARIANTS["densenet121"], KERAS_SMALL.replace(num_classes=None)])
def test_layers_without_names_are_told_by_class_and_order(config: DenseNetConfig) -> None:
    read, arrays = nameless(config)
    found = detect(read)
    assert found.layout.name == "keras-applications"
    assert "no layer names" in found.notes(read)[0]
    roles = {role: read.tensors[name].read() for role, name in found.roles.items()}
    expected = {role: arrays[name] for role, name in detect(checkpoint(arrays)).roles.items()}
    assert equal(roles, expected)


def test_layers_without_names_that_keras_applications_cannot_build_are_asked_about() -> None:
    read, _ = nameless(PLAIN)
    with pytest.raises(
        LayoutError, match=r"matches .*keras-hub.* alike; they differ in epsilon and .*padding.*--from-layout keras"
    ) as asked:
        detect(read)
    # Followed literally, as a user of other code would.
    layout, epsilon = re.findall(r"--from-layout (\S+);.*--trait epsilon=(\S+)$", str(asked.value))[0]
    assert detect(read, layout, traits={"epsilon": float(epsilon)}).config.traits.epsilon == 1e-3
    assert detect(read, "keras-hub").config.replace(traits=PLAIN.traits) == PLAIN


def test_both_frameworks_spellings_of_the_canonical_layout_are_told_apart() -> None:
    names = canonical_weights(PLAIN)
    found = detect(checkpoint(names))
    assert found.framework is TORCH
    keras = spelled(PLAIN, "denseport", "keras")
    assert detect(checkpoint(keras)).framework is KERAS


def test_every_trait_has_its_origin() -> None:
    """The file's own description goes before the user, metadata, the layout and the usual value, in this order."""
    config = DenseNetConfig()
    layout = find_layout("kuangliu")
    recorded = {"epsilon": 0.2, "padding": "same", "activation": "silu"}
    stated = {"file": {"epsilon": 0.1}, "option": {"epsilon": 0.1, "activation": "elu"}, "metadata": recorded}
    decided = decide(layout, config, stated)
    assert decided["epsilon"] == (0.1, "file")
    assert decided["activation"] == ("elu", "option")
    assert decided["padding"] == ("same", "metadata")
    assert decided["concatenation"] == ("new-first", "layout")
    assert decided["head_activation"] == ("none", "usual")
    assert list(decided) == [field.name for field in dataclasses.fields(Traits)]
    for kernel, stem in ((3, (1, "none")), (7, (2, "max"))):
        bare = decide(find_layout("denseport"), config.replace(stem_norm=False, stem_kernel=kernel), {})
        assert (bare["stem_stride"], bare["stem_pool"]) == tuple((value, "usual") for value in stem)


def test_a_detection_says_where_its_traits_come_from() -> None:
    arrays = spelled(PLAIN, "denseport")
    metadata = {"layout": "denseport", "traits": '{"padding": "same"}'}
    found = detect(checkpoint(arrays, metadata=metadata))
    assert found.config.traits.padding == "same"
    assert found.origins["padding"] == "metadata"
    assert set(found.assumed) == TRAIT_NAMES - {"padding", "head_activation", "negative_slope"}
    assert detect(checkpoint(spelled(PLAIN, "torchvision"))).assumed == ()


def test_a_trait_that_the_user_states_goes_before_the_layout_and_tells_two_apart() -> None:
    read = checkpoint(spelled(PLAIN, "torchvision"))
    found = detect(read, traits={"epsilon": 1e-3})
    assert found.config.traits.epsilon == 1e-3
    assert found.origins["epsilon"] == "option"
    assert {"epsilon": "stated", "padding": "assumed"}.items() <= found.known_as.items()
    assert Detection.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    net = DenseNetConfig.bc(4, (2, 2, 2, 2), 8, num_classes=None, **CIFAR)
    small = checkpoint(spelled(net, "kuangliu"))
    with pytest.raises(LayoutError, match="matches layouts"):
        detect(small)
    for order, layout in (("new-first", "kuangliu"), ("old-first", "bearpaw")):
        assert detect(small, traits={"concatenation": order}).layout.name == layout


@pytest.mark.parametrize("trait", sorted(TRAIT_NAMES - {"concatenation", "head_activation"}))
def test_a_mismatch_of_any_trait_says_what_it_does(trait: str) -> None:
    other = {"epsilon": 1e-3, "padding": "same", "stem_stride": 1, "stem_pool": "none", "final_activation": "none"}
    other |= {"activation": "silu", "transition_activation": "none", "negative_slope": 0.3, "head_pool": "max"}
    sentence = find_layout("torchvision").mismatches(PLAIN.replace(**{trait: other[trait]}))
    assert list(sentence) == [trait]
    assert "layout torchvision has" in sentence[trait]


def test_the_next_command_names_the_file_that_was_given(tmp_path: Path) -> None:
    read = dataclasses.replace(
        checkpoint({"layer1.0.conv1.weight": np.zeros((3, 3, 3, 3))}), path=tmp_path / "my net.pth"
    )
    with pytest.raises(LayoutError, match=rf"my net\.pth: no .*denseport layouts derive '{tmp_path}/my net\.pth' -o"):
        detect(read)
    with pytest.raises(LayoutError, match=r"does not match layout torchvision \(0 of 1 layers\).*leave the layout out"):
        detect(read, "torchvision")
