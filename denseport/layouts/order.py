"""Whether what Keras' layers are called agrees with the paths by which Keras loads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, quoted
from denseport.layouts.match import Detection

COUNTED = re.compile(r"(.*?)(?:_(\d{1,9}))?")


def refuse_other_order(checkpoint: Checkpoint, found: Detection) -> None:
    """Refuses names that give layers another order than their paths do.

    Layers of one class are counted in the order of the graph, and Keras loads them by that number: where the recorded
    names are in another order, one of the two is wrong.

    Raises:
        LayoutError: They are; the message names both of two such layers.
    """
    if not checkpoint.paths or checkpoint.nameless:
        return
    places = _places(checkpoint.paths)
    counted: dict[str, list[tuple[int, str]]] = {}
    seen = set()
    for name in found.roles.values():  # in graph order
        layer = name.rpartition("/")[0]
        if layer in places and layer not in seen:
            seen.add(layer)
            of, number = places[layer]
            counted.setdefault(of, []).append((number, layer))
    for every in counted.values():
        for (number, layer), (following, next_layer) in pairwise(every):
            if number > following:
                told = [f"{quoted(checkpoint.paths[each])} is named {quoted(each)}" for each in (next_layer, layer)]
                raise LayoutError(
                    f"{checkpoint.label}: {' and '.join(told)}: by their names they stand in the net the other way "
                    "round than Keras, which goes by the paths, would load them; save the model again with "
                    "model.save_weights"
                )


def _places(paths: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """The class of each layer, with all that stands above it in the file, and its number among those of that class."""
    found = {}
    for layer, path in paths.items():
        if counted := COUNTED.fullmatch(path):
            found[layer] = (counted[1], int(counted[2] or 0))
    return found
