"""What a Keras file of weights, which has no configuration, shows of layers around its net."""

from __future__ import annotations

from dataclasses import replace

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed
from denseport.layouts.descriptions import keras_weightless
from denseport.layouts.match import Detection

# How the statistics end that layers of Keras have: `Normalization`, whose variables `.weights.h5` numbers, and norms.
STATISTICS = ("moving_mean", "mean", "0")


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
