"""What a layer of a Keras model is called with: references to what other layers gave, constants, and lists of both.

Source: keras/src/models/functional.py: deserialize_node; keras/src/saving/serialization_lib.py:
serialize_keras_object. Keras 2: tf_keras/src/engine/node.py: serialize.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from denseport.errors import LayoutError, quoted

T = TypeVar("T")
# How Keras 2 marks a constant where a layer's output could stand.
CONSTANT = "_CONSTANT_VALUE"


@dataclass(frozen=True, slots=True)
class Value:
    """What a call gives, by the number of that call."""

    call: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of Python's, `start:stop:step`."""

    start: Any
    stop: Any
    step: Any


@dataclass(frozen=True, slots=True)
class Reference:
    """What another layer gave at one of its calls, as it is stated.

    Attributes:
        name: The layer's.
        number: Of the call.
        output: Which of its outputs.
        exact: Whether calls of models are numbered like those of layers; else one of their own comes before them.
    """

    name: str
    number: int
    output: int
    exact: bool


def arguments_of(node: Any) -> tuple[list[Any], dict[str, Any]]:
    """What a layer is called with, references and constants, by the node that serialises the call."""
    if isinstance(node, dict):  # Keras 3
        arguments, keywords = node.get("args"), node.get("kwargs")
        return (
            [_argument(each) for each in arguments] if isinstance(arguments, list) else [],
            {name: _argument(each) for name, each in keywords.items()} if isinstance(keywords, dict) else {},
        )
    if not isinstance(node, list) or not node:
        return [], {}
    several = [node] if _is_reference(node) or node[0] == CONSTANT else node
    taken, keywords = [], dict[str, Any]()
    for each in several:
        if not isinstance(each, list) or len(each) < 3:
            raise LayoutError(f"the configuration calls a layer with {quoted(each)}; save the model again")
        taken.append(constant(each[2]) if each[0] == CONSTANT else _argument(each[:3]))
        if len(each) > 3 and isinstance(each[3], dict):
            keywords = {name: _argument(value) for name, value in each[3].items()}
    return (taken if len(taken) == 1 else [taken]), keywords


def _argument(stated: Any) -> Any:
    """One argument: a reference, a constant, or a list of both."""
    if _is_reference(stated):
        return Reference(stated[0], stated[1], stated[2], exact=False)
    if isinstance(stated, dict) and stated.get("class_name") == "__keras_tensor__":
        config = stated.get("config")
        history = config.get("keras_history") if isinstance(config, dict) else None
        if history is None or not _is_reference(history):
            raise LayoutError(f"the configuration takes a value from {quoted(history)}; save the model again")
        return Reference(history[0], history[1], history[2], exact=True)
    if isinstance(stated, list):
        return [_argument(each) for each in stated]
    return constant(stated)


def _is_reference(stated: Any) -> bool:
    """Whether it is `[name, number of the call, number of the output]`, perhaps with arguments behind."""
    if not isinstance(stated, list) or not 3 <= len(stated) <= 4 or stated[0] == CONSTANT:
        return False
    return isinstance(stated[0], str) and type(stated[1]) is int and type(stated[2]) is int


def stated_references(stated: Any, *, exact: bool) -> Iterator[Reference]:
    """The references in what a configuration states, nested in lists and dicts."""
    if _is_reference(stated):
        yield Reference(stated[0], stated[1], stated[2], exact)
    elif isinstance(stated, (list, dict)):
        for each in stated if isinstance(stated, list) else stated.values():
            yield from stated_references(each, exact=exact)


def constant(stated: object) -> Any:
    """A serialised constant: numbers, nested lists of numbers, slices, `...`, text; what it is not stays as it is."""
    if isinstance(stated, list):
        return [constant(each) for each in stated]
    if not isinstance(stated, dict):
        return stated
    config = stated.get("config")
    inner: Mapping[str, Any] = config if isinstance(config, dict) else stated
    match stated.get("class_name"):
        case "__tensor__" | "__numpy__" if "value" in inner:
            return inner["value"]
        case "__ellipsis__":
            return ...
        case "__slice__":
            return Slice(inner.get("start"), inner.get("stop"), inner.get("step"))
        case "__tuple__":
            return [constant(each) for each in stated.get("items", [])]
        case None if stated.keys() == {"start", "stop", "step"}:  # Keras 2
            return Slice(stated["start"], stated["stop"], stated["step"])
    return stated


def every(kind: type[T], arguments: Any) -> Iterator[T]:
    """All of a kind among arguments, in order."""
    if isinstance(arguments, kind):
        yield arguments
    elif isinstance(arguments, (list, tuple, dict)):
        for each in arguments.values() if isinstance(arguments, dict) else arguments:
            yield from every(kind, each)


def replaced(kind: type[T], arguments: Any, by: Callable[[T], object]) -> Any:
    """The arguments with others for all of a kind."""
    if isinstance(arguments, kind):
        return by(arguments)
    if isinstance(arguments, (list, tuple)):
        return type(arguments)(replaced(kind, each, by) for each in arguments)
    if isinstance(arguments, dict):
        return {name: replaced(kind, each, by) for name, each in arguments.items()}
    return arguments
