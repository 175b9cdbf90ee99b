"""What a net's weights show, held against what its file and its user state and what its layout assumes."""

from __future__ import annotations

import dataclasses
from typing import Any

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, quoted
from denseport.evidence import Evidence, examine
from denseport.layouts.detection import Detection
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
        LayoutError: They contradict what the file states, or do not show what outputs hang on.
    """
    tensors = (checkpoint.tensors[name] for name in found.roles.values())
    if not all(tensor.dtype.kind in "fV" for tensor in tensors if len(tensor.shape) > 1):
        return found
    evidence = examine(found.config.without_head(), to_canonical(checkpoint, found).tensors)
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
                usual = "is usual" if origin == "usual" else f"in layout {found.layout.name}"
                notes.append(f"{trait} is {shown.value}, not {own} as {usual}: {shown.why}")
    traits |= _small_stem(found, evidence, checkpoint.label)
    notes += _mistakes(found, evidence) + _other_images(found, evidence)
    if evidence.pooled:
        notes.append(f"ANOTHER FUNCTION: its transitions take maxima, and those of denseport means: {evidence.pooled}")
    config = found.config.replace(**traits)
    return dataclasses.replace(found, config=config, origins=origins, findings=tuple(notes), evidence=evidence)


def _small_stem(found: Detection, evidence: Evidence, label: str) -> dict[str, Any]:
    """The stride of a stem of 3x3 where no layout says it: 1 where nothing is pooled behind it.

    Raises:
        LayoutError: It may stride and pool as for large images, or not, as for small ones, and nothing shows which.
    """
    config, traits = found.config, ("stem_stride", "stem_pool")
    unsaid = [trait for trait in traits if found.origins[trait] == "usual"]
    if config.stem_kernel > 3 or not config.stem_norm or len(config.stem_widths) > 1 or not unsaid:
        return {}
    if "stem_pool" in evidence.shown:
        unsaid = [trait for trait in unsaid if trait != "stem_pool"]
        if not unsaid or evidence.shown["stem_pool"].value == "none":
            return dict.fromkeys(unsaid, 1)
    told = " and ".join(unsaid)
    example = " ".join(f"--trait {trait}={1 if trait == 'stem_stride' else 'none'}" for trait in unsaid)
    raise LayoutError(f"{label}: its stem is 3x3, and nothing shows its {told}; say it, as with {example}")


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
        f"by its weights, it was trained on images of {evidence.inputs}; preprocessing {name}, which layout "
        f"{found.layout.name} assumes, gives others: prepare images as in training"
    ]
