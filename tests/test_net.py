"""What is read off the graph of a net, and what is done to its weights, for every kind of head."""

import itertools
from dataclasses import asdict

import pytest
from densenets import canonical_weights, equal

from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import LayoutError
from denseport.layouts import detect
from denseport.metadata import Record
from denseport.net.config import DenseNetConfig, HeadLayer, Inputs, Traits, trait_values
from denseport.net.graph import feeding, flattened, reduction, shapes, taps
from denseport.net.weights import Weights

BODY = DenseNetConfig.bc(4, (2, 3), 8, num_classes=5)
HEAD = (
    HeadLayer("norm", epsilon=2e-3),
    HeadLayer("dense", 6),
    HeadLayer("activation", activation="relu"),
    HeadLayer("norm"),
    HeadLayer("dense", 5, bias=False),
)
NETS = {
    "one dense layer": BODY,
    "joined pools": BODY.replace(head_layers=HEAD, head_pool="max-mean"),
    "flattened": BODY.replace(head_layers=HEAD, head_shape=(2, 2)),
    "activation at the end": BODY.replace(head_layers=(*HEAD, HeadLayer("activation", activation="relu"))),
    "without classifier": BODY.replace(num_classes=None),
}


def weights(config: DenseNetConfig) -> Weights:
    return Weights(config, {name: Tensor.of(array) for name, array in canonical_weights(config).items()})


@pytest.mark.parametrize("config", NETS.values(), ids=NETS)
def test_each_tensor_feeds_one_tap(config: DenseNetConfig) -> None:
    fed = [feeding(tap, config) for tap in (*taps(config), "head")]
    assert list(itertools.chain(*fed)) == list(shapes(config))


def test_taps_of_a_head_are_its_layers_but_the_last() -> None:
    in_head = {net: [tap for tap in taps(config) if tap.startswith("head")] for net, config in NETS.items()}
    assert in_head == {
        "one dense layer": ["head.norm"],
        "joined pools": ["head.norm", "head.norm0", "head.dense1", "head.norm3"],
        "flattened": ["head.norm", "head.dense1", "head.norm3"],
        "activation at the end": ["head.norm", "head.norm0", "head.dense1", "head.norm3", "head.dense4"],
        "without classifier": ["head.norm"],
    }


@pytest.mark.parametrize("config", NETS.values(), ids=NETS)
def test_order_of_concatenation_is_changed_and_back(config: DenseNetConfig) -> None:
    old = weights(config)
    new = old.concatenated("new-first")
    arrays = [
        {name: tensor.read() for name, tensor in each.tensors.items()}
        for each in (old, new, new.concatenated("old-first"))
    ]
    assert equal(arrays[0], arrays[2])
    assert not equal(arrays[0], arrays[1])


def test_a_flattened_map_is_seen_up_to_the_first_dense_layer() -> None:
    assert flattened(NETS["flattened"]) == {"head.norm0", "head.dense1"}
    assert flattened(BODY.replace(head_shape=(2, 2))) == {"head.classifier"}
    assert not flattened(NETS["joined pools"])


def test_another_epsilon_is_the_bodys() -> None:
    before, after = (
        {name: tensor.read() for name, tensor in each.tensors.items()}
        for each in (weights(NETS["joined pools"]), weights(NETS["joined pools"]).with_epsilon(1e-6))
    )
    changed = {name for name in before if not equal({name: before[name]}, {name: after[name]})}
    own = ("head.norm0.", "head.norm3.")
    assert changed == {name for name in before if name.endswith(".running_var") and not name.startswith(own)}


def test_a_new_head_is_one_dense_layer_on_the_same_inputs() -> None:
    inputs = Inputs(1, (0, 0, 0), (1.0, 2.0, 3.0), (0.0, 0.5, 0.0))
    for config in (config.replace(inputs=inputs) for config in NETS.values()):
        new = weights(config).with_new_head(3)
        assert [name for name in new.tensors if name.startswith("head.") and "head.norm." not in name] == [
            "head.classifier.weight",
            "head.classifier.bias",
        ]
        assert (new.config.head_layers, new.config.head_shape, new.config.inputs) == ((), (), inputs)
        assert weights(config).without_head().config.inputs == inputs
        assert list(new.tensors) == list(shapes(new.config))


def test_a_configuration_goes_through_json() -> None:
    config = NETS["joined pools"].replace(inputs=Inputs.unchanged(3), stem_stride=(1, 2))
    assert DenseNetConfig.from_dict(config.to_dict()) == config
    assert asdict(config)["traits"]["stem_stride"] == (1, 2)


@pytest.mark.parametrize("config", NETS.values(), ids=NETS)
def test_what_no_shape_shows_is_read_from_metadata(config: DenseNetConfig) -> None:
    config = config.replace(inputs=Inputs(1, (0, 0, 0), (1.0, 2.0, 3.0), (0.0, 0.5, 0.0)), activation="silu")
    strings = Record("denseport", **config.unshown).strings()
    assert detect(Checkpoint(weights(config).tensors, strings)).config == config


def test_strides_that_are_alike_are_one() -> None:
    assert Traits(stem_stride=[2, 2]).stem_stride == 2  # type: ignore[arg-type]
    assert reduction(BODY.replace(stem_stride=(1, 3))) == (4, 12)
    assert BODY.replace(stem_stride=(1, 3)).stem_strides == (1, 3)


def test_a_stride_is_read_from_text() -> None:
    assert trait_values({"stem_stride": "1,2"}) == {"stem_stride": (1, 2)}
    assert trait_values({"stem_stride": "2,2"}) == trait_values({"stem_stride": "2"}) == {"stem_stride": 2}


@pytest.mark.parametrize("stride", [(0, 1), (), (1.0, 2), (True, 2), "2", ("a", "b"), 0, 2.0])
def test_a_stride_that_is_none_is_refused(stride: object) -> None:
    with pytest.raises(LayoutError, match="trait stem_stride must be a positive int"):
        Traits(stem_stride=stride)  # type: ignore[arg-type]


def test_a_stride_for_other_axes_is_refused() -> None:
    with pytest.raises(LayoutError, match="trait stem_stride must be one int, or 2"):
        BODY.replace(stem_stride=(1, 2, 2))
