"""Where each trait of a net comes from: what decides its epsilon, its padding, its stride and the others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from denseport.errors import LayoutError, quoted
from denseport.layouts.spec import Layout
from denseport.net.config import TRAIT_NAMES, DenseNetConfig, Traits

Origin = Literal["file", "option", "metadata", "weights", "earlier", "layout", "usual"]
# The traits that each origin speaks of, by name.
Said = Mapping[Origin, Mapping[str, Any]]
# What an origin makes of a trait: the file or the user states it, the weights show it, or nobody says it.
KNOWN_AS: Mapping[Origin, Literal["stated", "shown", "assumed"]] = {
    "file": "stated",
    "option": "stated",
    "metadata": "stated",
    "weights": "shown",
    "earlier": "assumed",
    "layout": "assumed",
    "usual": "assumed",
}

# A stem of 3x3 without a normalisation is one for small images.
USUAL_FOR_SMALL_IMAGES: Mapping[str, Any] = {"stem_stride": 1, "stem_pool": "none"}


class Trait(NamedTuple):
    """A trait's value, and what says so."""

    value: Any
    origin: Origin


def decide(layout: Layout, config: DenseNetConfig, said: Said) -> dict[str, Trait]:
    """The value of each trait of a net, and where it comes from; `said` has what each origin says beside the layout.

    The first of these that says anything of a trait decides it:

    1. `file`: the description of the net that stands in the file beside its weights, such as a Keras model's
       configuration;
    2. `option`: what the user states with `--trait`, which must not contradict the file;
    3. `metadata`: what an earlier conversion wrote into the file's metadata when it wrote this layout, and knew;
    4. `weights`: what statistics show, which `shown.as_shown` adds, since weights are read only where a layout fits;
    5. `earlier`: what that conversion had to assume;
    6. `layout`: what the layout says of such a net, its variants included;
    7. `usual`: nothing says it. The usual value is assumed, and said to be; behind a stem without a normalisation that
       of 3x3 is stride 1 and no pool.
    """
    is_small = not config.stem_norm and config.stem_kernel <= 3
    usual = {**dataclasses.asdict(Traits()), **(USUAL_FOR_SMALL_IMAGES if is_small else {}), **said.get("usual", {})}
    weakest_first: dict[Origin, Mapping[str, Any]] = {
        "usual": usual,
        "layout": layout.traits_of(config),
        **{origin: said.get(origin, {}) for origin in ("earlier", "metadata", "option", "file")},
    }
    return {
        name: Trait(value, origin)
        for origin, stated in weakest_first.items()
        for name, value in stated.items()
        if name in TRAIT_NAMES
    }


def refuse_contradiction(said: Said, label: str) -> None:
    """Raises LayoutError, which calls the file `label`, where the user states of a trait what the file denies."""
    for trait, value in said.get("option", {}).items():
        stated = said.get("file", {}).get(trait, value)
        if not _same(value, stated):
            raise LayoutError(
                f"{label}: states {trait} {quoted(stated)} itself, which --trait {trait}={quoted(value)} contradicts; "
                "leave that out"
            )


def refuse_idle(option: Mapping[str, Any], config: DenseNetConfig, label: str) -> None:
    """Raises LayoutError where the user states what stands in a head, and nothing such stands in it."""
    found: dict[str, list[Any]] = {
        "hidden_activation": [layer.activation for layer in config.head_layers if layer.kind == "activation"],
        "hidden_epsilon": [layer.epsilon for layer in config.head_layers if layer.kind == "norm"],
    }
    for trait, values in found.items():
        if trait in option and not any(_same(option[trait], value) for value in values):
            there = f"has {trait} {quoted(values[0])}" if values else "has nothing of that kind"
            raise LayoutError(
                f"{label}: the head {there}, so that --trait {trait}={option[trait]} says nothing; leave it out"
            )


def _same(one: object, other: object) -> bool:
    """Whether two values are one, however a number was rounded on its way through float32."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def told(traits: Mapping[str, Any], known_as: Mapping[str, str]) -> dict[str, str]:
    """What is `stated`, `shown` and `assumed` of a net, each in one line, as far as there is anything.

    Args:
        traits: Their values by name.
        known_as: Which of the three each is.
    """
    idle = {"negative_slope"} if traits.get("activation") != "leaky-relu" else set()
    lines: dict[str, str] = {}
    for how in dict.fromkeys(KNOWN_AS.values()):
        of_these = [f"{name} {traits[name]}" for name, known in known_as.items() if known == how and name not in idle]
        if of_these:
            lines[how] = ", ".join(of_these)
    return lines
