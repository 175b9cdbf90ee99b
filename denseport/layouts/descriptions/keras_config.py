"""The configuration of a Keras model as a graph: every call of a layer or operation, and what it is called with.

Models within models are taken apart, at any depth, so that what remains is one list of calls. All of it is data:
nothing is built from a configuration, and no name in it is looked up.

Source: keras/src/models/functional.py: Functional.get_config, functional_from_config, deserialize_node;
keras/src/saving/serialization_lib.py: serialize_keras_object. Keras 2: tf_keras/src/engine/functional.py:
get_network_config, reconstruct_from_config; node.py: serialize; Keras 1: keras/engine/topology.py: Container.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from denseport.errors import LayoutError, quoted
from denseport.layouts.descriptions.keras_references import (
    Reference,
    Value,
    arguments_of,
    every,
    replaced,
    stated_references,
)

MODELS = frozenset({"Functional", "Model", "Sequential"})
MAX_LAYERS = 100_000
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class ModelLayer:
    """A layer as a configuration states it.

    Attributes:
        kind: Its class, without its package.
        name: Its own name, or "".
        package: Of its class: the first part of its module, or the name that it was registered under.
        config: Its arguments.
        inside: The names of the models that it is in, outermost first.
        counted: Its class and number within the innermost of them, as `.weights.h5` calls it: `conv2d_3`.
    """

    kind: str
    name: str
    package: str
    config: Mapping[str, Any]
    inside: tuple[str, ...] = ()
    counted: str = ""

    def argument(self, *keys: str, default: object = None) -> Any:
        """What it states under the first of the keys that it has."""
        return next((self.config[key] for key in keys if key in self.config), default)


@dataclass(frozen=True, slots=True)
class Call:
    """A layer or operation at one place of the graph.

    Attributes:
        layer: What is called.
        arguments: What it is called with: values, constants, and lists of both.
        keywords: The same, by name.
    """

    layer: ModelLayer
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] | None = None

    @property
    def inputs(self) -> tuple[int, ...]:
        """The calls whose values it takes, in order."""
        return tuple(value.call for value in every(Value, (*self.arguments, *(self.keywords or {}).values())))


@dataclass(frozen=True, slots=True)
class Calls:
    """A whole model: its calls, each behind those whose values it takes, and the values that it gives."""

    calls: tuple[Call, ...]
    outputs: tuple[int, ...]


def calls(description: Mapping[str, Any]) -> Calls:
    """The graph of a model.

    Raises:
        LayoutError: The configuration is of no functional or sequential model, or its parts do not fit together.
    """
    reader = _Reader()
    outputs = reader.model(description, [], ())
    return Calls(tuple(reader.calls), tuple(output.call for output in outputs))


def model_layers(config: Mapping[str, Any]) -> Iterator[ModelLayer]:
    """Every layer of a model, models' own layers in their place, whether or not anything leads to it.

    Raises:
        LayoutError: The configuration lists no layers where it should.
    """
    pending: list[tuple[object, tuple[str, ...], str]] = [(config, (), "")]
    for _ in range(MAX_LAYERS):
        if not pending:
            return
        stated, inside, counted = pending.pop()
        layer = layer_of(stated, inside, counted)
        yield layer
        own = inner_layers(stated)
        pending.extend(zip(reversed(own), [(*inside, layer.name)] * len(own), reversed(_counted(own)), strict=True))
        if isinstance(layer.config.get("backbone"), dict):
            pending.append((layer.config["backbone"], (*inside, layer.name), ""))
    raise LayoutError("the model's configuration lists more layers than any DenseNet has; save its weights alone")


def layer_of(stated: object, inside: tuple[str, ...] = (), counted: str = "") -> ModelLayer:
    """A serialised layer.

    Raises:
        LayoutError: It is none.
    """
    if not isinstance(stated, dict) or not isinstance(stated.get("class_name"), str):
        raise LayoutError(f"the model's configuration lists {quoted(stated)} where a layer should be; save it again")
    config = stated.get("config")
    arguments: dict[str, Any] = config if isinstance(config, dict) else {}
    kind, package = class_of(stated)
    return ModelLayer(kind, str(arguments.get("name", stated.get("name", ""))), package, arguments, inside, counted)


def class_of(stated: Mapping[str, Any]) -> tuple[str, str]:
    """The class of a serialised object, and its package; Keras' own classes may state none."""
    named = str(stated.get("class_name", ""))
    for registered in (str(stated.get("registered_name") or ""), named):
        if ">" in registered:
            return named.rpartition(">")[2], registered.partition(">")[0].partition(".")[0]
    return named, str(stated.get("module") or "keras").partition(".")[0]


def inner_layers(stated: object) -> list[Any]:
    """The serialised layers of a serialised model; those of Keras 1's `Sequential` are its whole configuration."""
    config = stated.get("config") if isinstance(stated, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else config
    return layers if isinstance(layers, list) else []


def _counted(layers: list[Any]) -> list[str]:
    """The names that `.weights.h5` gives to layers of one model: each class in snake case, counted from its second."""
    counts, names = Counter[str](), list[str]()
    for layer in layers:
        kind = class_of(layer)[0] if isinstance(layer, dict) else ""
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
        names.append(f"{snake}_{counts[snake]}" if counts[snake] else snake)
        counts[snake] += 1
    return names


class _Model:
    """A functional model: its layers by name, and the calls of each as it serialises them."""

    def __init__(self, stated: Mapping[str, Any], inside: tuple[str, ...]) -> None:
        self.own = layer_of(stated, inside)
        self.inside = (*inside, self.own.name)
        self.layers: dict[str, tuple[Any, ModelLayer]] = {}
        listed = inner_layers(stated)
        for each, counted in zip(listed, _counted(listed), strict=True):
            layer = layer_of(each, self.inside, counted)
            name = str(each.get("name", layer.name))
            if name in self.layers:
                raise LayoutError(f"two layers of the model are called {quoted(name)}; save it again")
            self.layers[name] = (each, layer)

    def ends(self, key: str) -> list[Reference]:
        """The layers that the model takes its inputs by, or gives its outputs from."""
        stated = self.own.config.get(key)
        found = list(stated_references(stated, exact=False))
        if not found:
            raise LayoutError(f"the model {quoted(self.own.name)} does not say its {key}; save it again")
        return found

    def node(self, reference: Reference) -> tuple[Any, ModelLayer, Any]:
        """The layer that a reference means, as it is serialised and as it is, and how it is called there."""
        if reference.name not in self.layers:
            raise LayoutError(f"the model has no layer {quoted(reference.name)}, which others take; save it again")
        stated, layer = self.layers[reference.name]
        nodes = stated.get("inbound_nodes")
        nodes = nodes if isinstance(nodes, list) else []
        before = not reference.exact and layer.kind in MODELS
        number = 0 if len(nodes) == 1 else reference.number - before
        if nodes and not 0 <= number < len(nodes):
            raise LayoutError(
                f"layer {layer.name} is called {len(nodes)} times, not {number + 1}; save the model again"
            )
        return stated, layer, nodes[number] if nodes else None


class _Reader:
    """The calls of a model, as far as they have been read."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def call(
        self, layer: ModelLayer, arguments: Iterable[Any] = (), keywords: Mapping[str, Any] | None = None
    ) -> Value:
        """Adds a call."""
        if len(self.calls) >= MAX_LAYERS:
            raise LayoutError("the model has more layers than any DenseNet has; save its weights alone")
        self.calls.append(Call(layer, tuple(arguments), keywords or {}))
        return Value(len(self.calls) - 1)

    def model(self, stated: Mapping[str, Any], inputs: list[Value], inside: tuple[str, ...]) -> list[Value]:
        """The values that a model gives for some; without any, it takes those of its own `InputLayer`s."""
        layer = layer_of(stated, inside)
        if len(inside) > MAX_DEPTH:
            raise LayoutError(f"the model {quoted(layer.name)} lies too deep within others; save the inner one alone")
        if layer.kind == "Sequential":
            return [self._sequential(stated, inputs, inside)]
        if layer.kind in MODELS:
            return self._functional(_Model(stated, inside), inputs)
        raise LayoutError(f"the configuration is that of a {layer.kind}, whose layers it does not connect")

    def _sequential(self, stated: Mapping[str, Any], inputs: list[Value], inside: tuple[str, ...]) -> Value:
        inside = (*inside, layer_of(stated, inside).name)
        if len(inputs) > 1:
            raise LayoutError(f"the model {quoted(inside[-1])} is called with {len(inputs)} values; it takes one")
        last = inputs[0] if inputs else None
        listed = inner_layers(stated)
        for each, counted in zip(listed, _counted(listed), strict=True):
            layer = layer_of(each, inside, counted)
            if layer.kind == "InputLayer":
                last = last or self.call(layer)
            elif layer.kind in MODELS:
                given = self.model(each, [last] if last else [], inside)
                if len(given) != 1:
                    raise LayoutError(f"the model {quoted(layer.name)} gives {len(given)} values; one can be followed")
                last = given[0]
            else:
                last = last or self.call(ModelLayer("InputLayer", "", "keras", layer.config, inside))
                last = self.call(layer, [last])
        if last is None:
            raise LayoutError(f"the model {quoted(inside[-1])} has no layers; save the one with the weights")
        return last

    def _functional(self, model: _Model, inputs: list[Value]) -> list[Value]:
        found: dict[Reference, Value] = {}
        entries = model.ends("input_layers") if inputs else []
        if len(entries) != len(inputs):
            raise LayoutError(
                f"the model {quoted(model.own.name)} has {len(entries)} inputs and is called with {len(inputs)}; "
                "save it again"
            )
        given = {entry.name: value for entry, value in zip(entries, inputs, strict=True)}
        outputs = model.ends("output_layers")
        pending, waiting = list(reversed(outputs)), set[Reference]()
        while pending:
            reference = pending[-1]
            if reference in found:
                pending.pop()
                continue
            stated, layer, node = model.node(reference)
            arguments, keywords = arguments_of(node)
            needed = [each for each in every(Reference, (arguments, keywords)) if each not in found]
            if needed:
                if not waiting.isdisjoint(needed) or reference in needed:
                    raise LayoutError(f"layer {layer.name} takes what is made of its own output; save the model again")
                waiting.add(reference)
                pending += reversed(needed)
                continue
            waiting.discard(reference)
            arguments, keywords = replaced(Reference, (arguments, keywords), found.__getitem__)
            values = self._called(stated, layer, arguments, keywords, given)
            if layer.kind in MODELS and not 0 <= reference.output < len(values):
                raise LayoutError(f"the model {quoted(layer.name)} has no output {reference.output}; save it again")
            found[reference] = values[reference.output if layer.kind in MODELS else 0]
        return [found[output] for output in outputs]

    def _called(
        self, stated: Any, layer: ModelLayer, arguments: list[Any], keywords: Any, given: Mapping[str, Value]
    ) -> list[Value]:
        """What a layer of a functional model gives."""
        if layer.kind == "InputLayer":
            return [given[layer.name] if layer.name in given else self.call(layer)]
        if layer.kind in MODELS:
            taken = list(every(Value, (arguments, keywords)))
            if not taken:
                raise LayoutError(f"the model {quoted(layer.name)} is called with nothing; save the outer model again")
            inner = len(self.calls)
            values = self.model(stated, taken, layer.inside)
            if keywords.get("training") is True:
                self._mark_as_training(inner)
            return values
        return [self.call(layer, arguments, keywords)]

    def _mark_as_training(self, since: int) -> None:
        """What a model is called with goes for all its layers."""
        for number in range(since, len(self.calls)):
            call = self.calls[number]
            self.calls[number] = Call(call.layer, call.arguments, {"training": True, **(call.keywords or {})})
