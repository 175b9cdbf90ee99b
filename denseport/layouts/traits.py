"""Where each trait of a net comes from: what decides its epsilon, its padding, its stride and the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from denseport.layouts.spec import Layout
from denseport.net.config import DenseNetConfig, Traits

Origin = Literal["file", "metadata", "layout", "usual"]

# A stem without a normalisation is one for small images.
USUAL_FOR_SMALL_IMAGES: Mapping[str, Any] = {"stem_stride": 1, "stem_pool": "none"}


class Trait(NamedTuple):
    """A trait's value, and what says so."""

    value: Any
    origin: Origin


def decide(
    layout: Layout, config: DenseNetConfig, described: Mapping[str, Any], recorded: Mapping[str, Any]
) -> dict[str, Trait]:
    """The value of each trait of a net, and where it comes from.

    The first of these that says anything of a trait decides it:

    1. `file`: the description of the net that stands in the file beside its weights, such as a Keras model's
       configuration (`described`);
    2. `metadata`: what an earlier conversion wrote into the file's metadata when it wrote this layout (`recorded`);
    3. `layout`: what the layout says of such a net, its variants included;
    4. `usual`: nothing says it. The usual value is assumed, and said to be; behind a stem without a normalisation that
       is stride 1 and no pool.
    """
    usual = {**dataclasses.asdict(Traits()), **({} if config.stem_norm else USUAL_FOR_SMALL_IMAGES)}
    weakest_first: dict[Origin, Mapping[str, Any]] = {
        "usual": usual,
        "layout": layout.traits_of(config),
        "metadata": recorded,
        "file": described,
    }
    return {name: Trait(value, origin) for origin, said in weakest_first.items() for name, value in said.items()}
