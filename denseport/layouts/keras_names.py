"""What the names of the layers in a Keras file tell beside the net: another order, and layers around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.descriptions import keras_weightless
from denseport.layouts.detection import Detection

# How the statistics end that layers of Keras have: `Normalization`, whose variables `.weights.h5` numbers, and norms.
STATISTICS = ("moving_mean", "mean", "0")
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


def with_layers_around(found: Detection, checkpoint: Checkpoint) -> Detection:
    """The same detection, with a note on layers without weights whose effect the file does not say.

    Raises:
        LayoutError: Normalisations of the image were left out, whether or not the head was to be dropped.
    """
    if found.framework.runs_in != "keras" or checkpoint.described_by:
        return found
    statistics = [name for name in found.dropped if name.rpartition("/")[2] in STATISTICS]
    of_images = [name for name in statistics if checkpoint.tensors[name].shape == (found.config.in_channels,)]
    if of_images:
        named = listed(name.rpartition("/")[0] for name in of_images)
        raise LayoutError(
            f"{checkpoint.label}: {named} normalises the model's images, and a file of weights does not say how; give "
            "the whole model (.keras)"
        )
    note = keras_weightless.note(checkpoint.weightless)
    return replace(found, reading=(*found.reading, note)) if note else found


def _places(paths: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """The class of each layer, with all that stands above it in the file, and its number among those of that class."""
    found = {}
    for layer, path in paths.items():
        if counted := COUNTED.fullmatch(path):
            found[layer] = (counted[1], int(counted[2] or 0))
    return found
