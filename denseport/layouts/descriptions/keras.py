"""What the configuration of a Keras model says of its DenseNet: the whole net, from the image to the answer.

Nothing is built from a configuration, so nothing in it can run here. Yet it comes from strangers and says what the
weights compute: whatever in it is not a DenseNet's is a reason to refuse weights that would fit.
Initialisers, regularisers and constraints do not change what trained weights compute. They are passed over where Keras
has them itself or only their name stands there, and refused where they are lambdas or classes of another package,
which could not be loaded without that package's code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

from denseport.errors import LayoutError
from denseport.layouts.descriptions import keras_config
from denseport.layouts.descriptions.keras_arguments import (
    BIAS,
    DILATION,
    KERNEL,
    PADDING,
    STRIDES,
    WINDOW,
    epsilon_of,
    padding_of,
    sides_of,
    steps_of,
    window_of,
)
from denseport.layouts.descriptions.keras_config import MODELS, ModelLayer
from denseport.layouts.descriptions.keras_graph import REMEDY, FiguresOf, Graph, Op, place, refuse
from denseport.layouts.descriptions.keras_inputs import Image, can_change_images
from denseport.layouts.descriptions.keras_operations import (
    PACKAGES,
    RESIZING,
    Kind,
    code_in,
    is_of_features,
    is_without_effect,
    kind_of,
)
from denseport.layouts.descriptions.net import DescribedNet, Place
from denseport.layouts.template import SCALE
from denseport.metadata import Record
from denseport.net.config import Activation, HeadLayer, Traits

# Models of keras_hub and keras_cv, whose configurations have parameters in place of layers.
WITHOUT_LAYERS = frozenset({"DenseNetBackbone", "DenseNetImageClassifier", "ImageClassifier"})
MAX_JOINED = 4096
# The pools that a stem may have, by the side and the step of their windows.
STEM_POOLS = {(3, 2): "max", (2, 2): "max-2"}
NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "softplus")
END_ACTIVATIONS = ("softmax", "sigmoid", "log-softmax")
HEAD_REMEDY = "--head drop takes the body alone"


def stated(_: Mapping[str, Any], __: str) -> Record:
    """Nothing by itself: what a configuration says of a net, `net` reads together with the weights."""
    return Record()


def net(description: Mapping[str, Any], figures: FiguresOf, *, drop_head: bool = False) -> DescribedNet | None:
    """The whole net that a model is, or None where the configuration does not list its layers (keras_hub, keras_cv).

    Args:
        description: The model's configuration.
        figures: The values of a layer's parameters, for normalisations of the image that have learned theirs.
        drop_head: Whether what stands behind the body's last map may be anything.

    Raises:
        LayoutError: The model is no DenseNet, or has something in it that changes what one computes.
    """
    try:
        every = list(keras_config.model_layers(description))
        code = ((each, code) for each in every for code in code_in(each.config))
        refuse("the model has layers that need code of others", code)
        layers = [each for each in every if each.kind not in MODELS]
        if any(each.kind in WITHOUT_LAYERS and each.package in PACKAGES for each in layers):
            _refuse_beside_backbone(layers)
            return None
        if not drop_head:
            strangers = ((each, each.kind) for each in layers if _is_stranger(each))
            remedy = f"{REMEDY}, or, where they belong to the head, {HEAD_REMEDY}"
            refuse("the model has layers that no DenseNet has", strangers, remedy)
        return _Walk(Graph(keras_config.calls(description), figures)).net(drop_head=drop_head)
    except RecursionError:
        raise LayoutError("the model's configuration is nested beyond reason; save its weights alone") from None


def _refuse_beside_backbone(layers: list[ModelLayer]) -> None:
    """Refuses what stands beside a model whose layers are not listed, but for a pool and a classifier."""
    plain = ("InputLayer", "GlobalAveragePooling2D", "Dense", *WITHOUT_LAYERS)
    odd = ((each, each.kind) for each in layers if each.kind not in plain and not is_without_effect(each))
    refuse("layers whose effect cannot be followed stand beside a model that does not list its own", odd)


def scales_images(description: Mapping[str, Any]) -> bool:
    """Whether a model whose configuration does not list its layers divides its images by 255.

    Source: keras_cv densenet_backbone.py, `DenseNetBackbone`: `include_rescaling`.
    """
    layers = keras_config.model_layers(description)
    return any(each.kind in WITHOUT_LAYERS and bool(each.config.get("include_rescaling")) for each in layers)


def _is_stranger(layer: ModelLayer) -> bool:
    """Whether a layer can have no place in a net; arithmetic may have one before the stem."""
    known = layer.kind in ("InputLayer", *RESIZING) or is_without_effect(layer)
    return not known and kind_of(layer) == "stranger" and not can_change_images(layer)


@dataclass(frozen=True, slots=True)
class _Unit:
    """A normalisation, its activation, and the convolution behind them, as far as they are there."""

    norm: Op | None
    scale: Op | None
    applied: Op | None
    pad: Op | None
    conv: Op | None


class _Walk:
    """The way through a model from its image to its output, along which each layer gets its canonical name."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._places: dict[str, Place] = {}
        self._traits: dict[str, Any] = {}
        self._norms: list[ModelLayer] = []
        self._convs: list[Op] = []
        self._activations: list[Op] = []
        self._transitions: list[_Unit] = []
        self._takers: dict[int, list[int]] = {}
        self._pieces: dict[int, tuple[int, ...]] = {}
        self._joined: dict[tuple[int, ...], int] = {}
        self._entries: set[int] = set()
        self._at = self._output = 0
        self._pool_pad: Op | None = None
        self._connect()

    def _connect(self) -> None:
        """Finds who takes each value. Joins are known by all that they join: one of joins is one of their parts."""
        same: dict[int, int] = {}
        for number, op in enumerate(self._graph.ops):
            self._pieces[number] = (number,)
            inputs = [same.get(each, each) for each in op.inputs] if op else []
            if op and op.kind == "join":
                pieces = tuple(piece for each in inputs for piece in self._pieces[each])
                if len(pieces) > MAX_JOINED:
                    self._stop(op)
                self._pieces[number] = pieces
                same[number] = self._joined.setdefault(pieces, number)
                self._entries.update(inputs)
            for each in dict.fromkeys(inputs):
                self._takers.setdefault(each, [])
                if op and op.kind != "join":
                    self._takers[each].append(number)
        self._output = same.get(self._graph.output, self._graph.output)

    def net(self, *, drop_head: bool) -> DescribedNet:
        """The net, once the whole way is gone."""
        image = self._stem()
        last = self._blocks()
        if last.norm:
            self._name("head.norm", last)
        layers, bias, flattened = self._head_or_none() if drop_head else self._head()
        self._traits["epsilon"] = epsilon_of(self._norms)
        self._check_convs()
        self._say_activations(last.applied)
        if self._pool_pad and not (self._pooled_after_norm and self._traits["activation"] in NEVER_NEGATIVE):
            named = [(self._pool_pad.layer, self._pool_pad.layer.kind)]
            refuse("zeros around a pool count for more than values that may be negative", named)
        Traits(**self._traits)
        size = self._graph.size
        return DescribedNet(
            places=self._places,
            traits=self._traits,
            inputs=image.inputs(self._graph.channels),
            head_layers=layers,
            classifier_bias=bias,
            flattened=flattened,
            beside=tuple(map(place, self._graph.beside)),
            image_size=() if None in size else tuple(side for side in size if side),
            theano_kernels=any(conv.layer.config.get("dim_ordering") == "th" for conv in self._convs),
            notes=tuple(self._graph.notes),
        )

    def _stop(self, op: Op) -> NoReturn:
        """Refuses an operation that no DenseNet has where it stands."""
        if op.kind == "activation":
            refuse("the model has activations that no DenseNet has there", [(op.layer, op.applied.name)])
        raise LayoutError(
            f"{op.layer.name} ({op.layer.kind}) stands where no DenseNet has such a layer; build the model without it "
            f"and save it again, or, where it belongs to the head, {HEAD_REMEDY}"
        )

    def _op(self, number: int) -> Op:
        op = self._graph.ops[number]
        if op is None:
            raise LayoutError("the image itself is joined to what is made of it, as in no DenseNet; save another model")
        return op

    def _next(self) -> list[Op]:
        """The operations but joins that take the value that the way has come to."""
        return [self._op(number) for number in self._takers.get(self._at, [])]

    def _take(self, *kinds: Kind) -> Op | None:
        """Goes on to the next operation where there is one alone, and of one of these kinds."""
        takers = self._next()
        if len(takers) != 1 or takers[0].kind not in kinds:
            return None
        self._at = self._takers[self._at][0]
        return takers[0]

    def _unit(self) -> _Unit:
        norm = self._take("norm")
        scale = self._take("scale") if norm else None
        applied, pad = self._take("activation"), self._take("pad")
        return _Unit(norm, scale, applied, pad, self._take("conv"))

    def _name(self, norm: str, unit: _Unit, conv: str = "") -> None:
        """Gives the layers of a unit their names."""
        if unit.norm:
            self._places[norm] = place(unit.norm.layer)
            self._norms.append(unit.norm.layer)
        if unit.scale:
            self._places[f"{norm}{SCALE}"] = place(unit.scale.layer)
        if unit.conv:
            self._places[conv] = place(unit.conv.layer)
            self._convs.append(unit.conv)

    def _stem(self) -> Image:
        """From the image to where the first dense block begins; what is made of the image before."""
        ops, images = self._graph.ops, self._graph.images
        first = [number for number, op in enumerate(ops) if op and not images.keys().isdisjoint(op.inputs)]
        if not first:
            raise LayoutError("no layer of the model takes its image; save the model that has the weights")
        refuse("several layers take the image", ((self._op(n).layer, self._op(n).layer.kind) for n in first[1:]))
        self._at = next(each for each in self._op(first[0]).inputs if each in images)
        image = images[self._at]
        units, pool, pool_pad = list[_Unit](), None, None
        while not pool and (not units or self._at not in self._entries):
            pad, conv = self._take("pad"), self._take("conv")
            if conv:
                # Where a block begins, what follows is its first layer's.
                norm = None if self._at in self._entries else self._take("norm")
                scale = self._take("scale") if norm else None
                units.append(_Unit(norm, scale, self._take("activation") if norm else None, pad, conv))
            elif (pool := self._take("max-pool")) is None or not units:
                self._dead_end()
            else:
                pool_pad = pad
        if self._at not in self._entries:
            self._dead_end()
        numbers = [""] if len(units) == 1 else [str(number) for number in range(1, len(units) + 1)]
        for number, unit in zip(numbers, units, strict=True):
            self._name(f"stem.norm{number}", unit, f"stem.conv{number}")
            self._activate(unit)
        self._say_stem(units, pool, pool_pad)
        return image

    def _say_stem(self, units: list[_Unit], pool: Op | None, pool_pad: Op | None) -> None:
        """The stem's padding, strides and pool."""
        windows = [(unit.conv, unit.pad) for unit in units if unit.conv and sides_of(unit.conv.layer, *KERNEL) != {1}]
        self._traits["stem_pool"] = STEM_POOLS.get(window_of(pool), "") if pool else "none"
        if pool and self._traits["stem_pool"] == "max":
            windows.append((pool, pool_pad))
        elif pool and (self._traits["stem_pool"] != "max-2" or padding_of(pool, pool_pad) != "none"):
            refuse("the stem's pool is none that a DenseNet has", [(pool.layer, pool.layer.argument(*WINDOW))])
        self._pool_pad, self._pooled_after_norm = pool_pad, units[-1].norm is not None
        paddings = {padding_of(window, pad) for window, pad in windows}
        if len(paddings) > 1 or "none" in paddings:
            named = ((window.layer, padding_of(window, pad)) for window, pad in windows)
            refuse("the stem is not padded in one way, `same` or by zeros on all sides", named)
        if paddings:
            self._traits["padding"] = paddings.pop()
        first, *others = [unit.conv.layer for unit in units if unit.conv]
        alike = all(sides_of(each, *KERNEL) == sides_of(first, *KERNEL) and steps_of(each) == 1 for each in others)
        if not alike or len({unit.norm is None for unit in units}) > 1:
            refuse("convolutions stand before the stem", [(first, first.kind)])
        self._traits["stem_stride"] = steps_of(first)

    def _blocks(self) -> _Unit:
        """From the first dense layer to the last, and what stands behind it before the pool."""
        block, layer = 1, 0
        while True:
            entered, unit = self._at, self._unit()
            if unit.conv is None:
                if not layer:
                    self._dead_end()
                return unit
            if layer and [op.kind for op in self._next()] == ["avg-pool"]:
                self._transition(f"transition{block}", unit)
                block, layer = block + 1, 0
                continue
            layer += 1
            units = [unit] if self._join(entered) else [unit, self._unit()]
            if len(units) > 1 and (units[1].conv is None or not self._join(entered)):
                self._dead_end(units)
            for number, each in enumerate(units, 1):
                name = f"block{block}.layer{layer}"
                self._name(f"{name}.norm{number}", each, f"{name}.conv{number}")
                self._activate(each)
                self._check_window(each)

    def _join(self, entered: int) -> bool:
        """Goes on to where what a dense layer has made is joined to what it was made of, if that is here."""
        old, new = self._pieces[entered], self._pieces[self._at]
        for order, pieces in (("old-first", old + new), ("new-first", new + old)):
            if pieces in self._joined:
                if self._traits.setdefault("concatenation", order) != order:
                    join = self._op(self._joined[pieces])
                    refuse("features are joined in two orders", [(join.layer, order)])
                self._at = self._joined[pieces]
                return True
        return False

    def _transition(self, name: str, unit: _Unit) -> None:
        self._name(f"{name}.norm", unit, f"{name}.conv")
        self._check_window(unit)
        self._transitions.append(unit)
        pool = self._take("avg-pool")
        if pool is None or unit.norm is None:
            self._dead_end()
        if window_of(pool) != (2, 2) or padding_of(pool, None) != "none":
            refuse("the pool of a transition is none that a DenseNet has", [(pool.layer, pool.layer.argument(*WINDOW))])

    def _activate(self, unit: _Unit) -> None:
        """Notes the activation of a norm, which has one, and which stands nowhere else."""
        if unit.applied and unit.norm:
            self._activations.append(unit.applied)
        elif unit.applied:
            self._stop(unit.applied)
        elif unit.norm:
            refuse("nothing activates what normalisations give", [(unit.norm.layer, unit.norm.layer.kind)])

    def _check_window(self, unit: _Unit) -> None:
        """Refuses a convolution of the body that changes the map's size."""
        if unit.conv and sides_of(unit.conv.layer, *KERNEL) != {1} and padding_of(unit.conv, unit.pad) == "none":
            refuse("convolutions are not padded", [(unit.conv.layer, unit.conv.layer.argument(*PADDING))])
        if unit.pad and unit.conv and sides_of(unit.conv.layer, *KERNEL) == {1}:
            self._stop(unit.pad)

    def _dead_end(self, units: Iterable[_Unit] = ()) -> NoReturn:
        """Refuses what keeps the way from going on, or has led it astray."""
        for unit in units:
            if unit.applied and not unit.norm:
                self._stop(unit.applied)
        if takers := self._next():
            self._stop(takers[-1])
        raise LayoutError(
            "the model ends before a dense block does, or joins its features as no DenseNet does; save the whole model"
        )

    def _head_or_none(self) -> tuple[tuple[HeadLayer, ...], bool, bool]:
        """As `_head`, and as if there were no head where there is none that could be carried."""
        places, traits, notes = dict(self._places), dict(self._traits), list(self._graph.notes)
        try:
            return self._head()
        except LayoutError:
            self._places, self._traits, self._graph.notes = places, traits, notes
            return (), True, False

    def _head(self) -> tuple[tuple[HeadLayer, ...], bool, bool]:
        """The layers from the pool to the output; whether a single dense one has a bias; whether a map is flattened."""
        flattened = self._pool()
        head: list[Op] = []
        while self._at != self._output:
            op = self._take("dense", "norm", "activation", "unit-norm", "flatten")
            if op is None:
                self._dead_end_of_head()
            elif op.kind != "flatten":  # what is pooled is flat already
                head.append(op)
        self._traits["head_activation"] = "none"
        if head and head[-1].kind == "activation" and head[-1].applied.name in END_ACTIVATIONS:
            self._traits["head_activation"] = head.pop().applied.name
        return *self._head_layers(head), flattened

    def _pool(self) -> bool:
        """Goes behind what makes features of the last map; whether it flattens that."""
        if self._at == self._output:
            self._graph.notes.append("the model gives its last map; features are that map's means")
            return False
        if sorted(op.kind for op in self._next()) == ["global-max", "global-mean"]:
            self._joined_pools()
            return False
        op = self._take("global-mean", "global-max", "flatten")
        if op is None:
            self._dead_end_of_head()
        self._traits["head_pool"] = "max" if op.kind == "global-max" else "mean"
        if op.kind != "flatten":
            return False
        if self._graph.channels_first:
            refuse("a map that has its channels first is flattened", [(op.layer, op.layer.kind)], HEAD_REMEDY)
        return True

    def _joined_pools(self) -> None:
        mean, most = sorted(self._takers[self._at], key=lambda number: self._op(number).kind == "global-max")
        for name, pieces in {"mean-max": (mean, most), "max-mean": (most, mean)}.items():
            if pieces in self._joined:
                self._traits["head_pool"], self._at = name, self._joined[pieces]
                return
        taken = self._takers.get(mean, [])
        if len(taken) != 1 or self._op(taken[0]).kind != "average" or self._takers.get(most) != taken:
            self._stop(self._op(most))
        self._traits["head_pool"], self._at = "average-of-both", taken[0]

    def _dead_end_of_head(self) -> NoReturn:
        takers = self._next() or [self._op(self._output)]
        refuse("the head is none that can be carried", ((op.layer, op.layer.kind) for op in takers), HEAD_REMEDY)
        raise AssertionError("there is always a layer to name")

    def _head_layers(self, head: list[Op]) -> tuple[tuple[HeadLayer, ...], bool]:
        """What stands between pool and output, and whether a single dense layer has a bias."""
        layers = []
        for number, op in enumerate(head):
            layer = op.layer
            if op.kind == "dense":
                width = layer.argument("units", "output_dim")
                bias = bool(layer.argument(*BIAS, default=True))
                layers.append(HeadLayer("dense", width if type(width) is int else 0, bias=bias))
                self._places[f"head.dense{number}"] = place(layer)
            elif op.kind == "norm":
                layers.append(HeadLayer("norm", epsilon=epsilon_of([layer])))
                self._places[f"head.norm{number}"] = place(layer)
            elif op.kind == "unit-norm":
                if not is_of_features(axis := layer.argument("axis", default=-1)):
                    refuse("the head normalises over another axis than features", [(layer, axis)], HEAD_REMEDY)
                layers.append(HeadLayer("unit-norm"))
            elif op.applied.name in get_args(Activation):
                named: Any = op.applied.name
                slope = op.applied.negative_slope or HeadLayer.negative_slope
                layers.append(HeadLayer("activation", activation=named, negative_slope=slope))
            else:
                refuse("the head has activations that cannot be carried", [(layer, op.applied.name)], HEAD_REMEDY)
        if layers and not any(layer.kind == "dense" for layer in layers):
            refuse("the head has layers, and none of them is dense", [(head[0].layer, head[0].layer.kind)], HEAD_REMEDY)
        if [layer.kind for layer in layers] == ["dense"]:
            self._places["head.classifier"] = self._places.pop("head.dense0")
            return (), layers[0].bias
        return tuple(layers), True

    def _check_convs(self) -> None:
        """Refuses strides, dilations and groups that no DenseNet has."""
        others = [conv.layer for conv in self._convs[1:]]
        striding = ((layer, layer.argument(*STRIDES)) for layer in others if sides_of(layer, *STRIDES) != {1})
        refuse("convolutions have strides that no DenseNet has there", striding)
        layers = [conv.layer for conv in self._convs]
        dilated = ((layer, layer.argument(DILATION)) for layer in layers if sides_of(layer, DILATION) != {1})
        refuse("convolutions are dilated, as no DenseNet's are", dilated)
        grouped = ((layer, layer.config["groups"]) for layer in layers if layer.config.get("groups", 1) != 1)
        refuse("convolutions are grouped, as no DenseNet's are", grouped)

    def _say_activations(self, final: Op | None) -> None:
        """The activation that all norms of the body have, but for those of transitions, and of the last."""
        usual = Counter(op.applied for op in self._activations).most_common(1)
        transitions = [unit.applied for unit in self._transitions]
        found = [*self._activations, *(op for op in (*transitions, final) if op)]
        if not usual:
            refuse("the model has activations without a norm", ((op.layer, op.applied.name) for op in found))
            return
        applied = usual[0][0]
        odd = [op for op in found if op.applied != applied or op.applied.name not in get_args(Activation)]
        refuse("the model has activations that no DenseNet has there", ((op.layer, op.applied.name) for op in odd))
        if any(transitions) and not all(transitions):
            bare = [unit.norm.layer for unit in self._transitions if unit.norm and not unit.applied]
            refuse("nothing activates what some transitions' normalisations give", ((each, each.kind) for each in bare))
        self._traits["activation"] = applied.name
        self._traits["negative_slope"] = applied.negative_slope or Traits.negative_slope
        self._traits["transition_activation"] = "none" if self._transitions and not any(transitions) else "same"
        self._traits["final_activation"] = "relu" if final else "none"
