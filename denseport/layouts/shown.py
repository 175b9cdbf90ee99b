"""What a net's weights show, held against what its file and its user state and what its layout assumes."""

from __future__ import annotations

import dataclasses

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, quoted
from denseport.evidence import Evidence, examine
from denseport.layouts.match import Detection
from denseport.layouts.translate import to_canonical
from denseport.preprocessing import find_preprocessing

# What contradicts the weights, and what to do about it.
REMEDIES = {
    "file": "take the weights alone out of the file, and say with --trait {trait}=VALUE which of the two it is",
    "metadata": "say with --trait {trait}=VALUE which of the two it is",
}
# What the weights leave open of a stem: they show that it takes maxima, not of how many values, nor what follows.
POOLS = ("max", "max-2", "max-blur")


def as_shown(found: Detection, checkpoint: Checkpoint) -> Detection:
    """The same net with the traits that its weights show; they go before its layout's, and give way to its user's.

    Raises:
        LayoutError: They contradict what the file states, or show a net that is no DenseNet.
    """
    if not all(tensor.dtype.kind in "fV" for tensor in checkpoint.tensors.values() if len(tensor.shape) > 1):
        return found
    evidence = examine(found.config.without_head(), to_canonical(checkpoint, found).tensors)
    if evidence.pooled:
        raise LayoutError(
            f"{checkpoint.label}: its transitions take maxima instead of means ({evidence.pooled}); no DenseNet that "
            "denseport knows does so, and it is not converted into one"
        )
    traits, origins, notes = {}, dict(found.origins), list(found.findings)
    for trait, shown in evidence.shown.items():
        own, origin = getattr(found.config.traits, trait), found.origins[trait]
        agrees = own == shown.value or (own in POOLS and shown.value in POOLS)
        if origin in REMEDIES and not agrees:
            raise LayoutError(
                f"{checkpoint.label}: its {origin} states {trait} {quoted(own)}, and its weights show "
                f"{quoted(shown.value)}: {shown.why}; {REMEDIES[origin].format(trait=trait)}"
            )
        if origin == "option" and not agrees:
            notes.append(f"{trait} is {own}, as --trait states, though the weights show {shown.value}: {shown.why}")
        elif origin not in REMEDIES and origin != "option":
            origins[trait] = "weights"
            if not agrees:
                traits[trait] = shown.value
                notes.append(f"{trait} is {shown.value}, not {own} as in layout {found.layout.name}: {shown.why}")
    notes += _mistakes(found, evidence) + _other_images(found, evidence)
    config = found.config.replace(**traits)
    return dataclasses.replace(found, config=config, origins=origins, findings=tuple(notes), evidence=evidence)


def _mistakes(found: Detection, evidence: Evidence) -> list[str]:
    """A note on each mistake in the weights, by the names that the file has for its layers."""
    notes = []
    for damage in evidence.damages:
        names = [found.roles[f"{layer}.weight"].rpartition(".")[0] or layer for layer in damage.layers]
        where = f"{' and '.join(names)} ({' and '.join(damage.layers)})"
        notes.append(f"the weights contradict themselves in {where}: {damage.mistake}; {damage.why}")
    return notes


def _other_images(found: Detection, evidence: Evidence) -> list[str]:
    """A note where the net was trained on images of another range than its layout's preprocessing gives."""
    name = found.layout.preprocessing
    if evidence.inputs is None or name == "none" or found.config.inputs:
        return []
    mean, spread = find_preprocessing(name).of_photographs
    if evidence.inputs.may_be_of(mean, spread):
        return []
    return [
        f"it was trained on other images than layout {found.layout.name} is for, whose preprocessing is {name}: "
        f"{evidence.inputs}"
    ]
