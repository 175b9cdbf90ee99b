"""Which of several layouts or nets is meant: the only one, or an error that says how to choose."""

from __future__ import annotations

import re
import shlex

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.attempt import Found
from denseport.layouts.detection import Detection
from denseport.layouts.shown import as_shown
from denseport.layouts.traits import Said

# What the parts of a net's path say that it usually is.
KINDS = {
    r"ema|averaged?|swa|shadow|polyak": "averaged weights",
    r"teacher": "a teacher, whose weights are averages as a rule",
    r"k|key|momentum|target": "the key encoder, whose weights are averages as a rule",
    r"q|query|online": "the query encoder, which is trained",
    r"student": "the student, which is trained",
}


def only_layout(fits: list[Found], checkpoint: Checkpoint, said: Said) -> Found:
    """The only one that fits, or an error that says what the others would change."""
    fits = [fit for fit in fits if not fit.detection.head] or fits
    stated = {**said["option"], **said["file"]}
    given = [fit.detection.layout.traits_of(fit.detection.config) for fit in fits]
    fits = [fit for fit, own in zip(fits, given, strict=True) if stated.items() <= {**stated, **own}.items()] or fits
    if len(fits) > 1:  # whose usual traits are those that the weights show
        shown = [as_shown(fit.detection, checkpoint).config for fit in fits]
        fits = [fit for fit, config in zip(fits, shown, strict=True) if config == fit.detection.config] or fits
    if len(fits) == 1:
        return fits[0]
    names = [fit.detection.layout.name for fit in fits]
    first, *others = (fit.detection.config.traits for fit in fits)
    apart = sorted({name for other in others for name, value in vars(other).items() if vars(first)[name] != value})
    epsilon = fits[0].detection.framework.epsilon
    other = f"; a net of other code has Keras' epsilon as a rule: add --trait epsilon={epsilon:g}"
    raise LayoutError(
        f"{checkpoint.label}: matches layouts {' and '.join(names)} alike; they differ in "
        f"{' and '.join(apart) or 'name'}, which no name or shape shows; say which it is, as with "
        f"--from-layout {names[0]}{other if checkpoint.nameless else ''}"
    )


def only_net(found: list[Found], checkpoint: Checkpoint) -> Detection:
    """The only net of a file.

    Raises:
        LayoutError: There are several, or it is a part of something larger.
    """
    found = sorted(found, key=lambda each: bool(each.partial) or each.detection.config.num_classes is None)
    net = found[0]
    others = [other for other in found[1:] if not _is_copy(other, net, checkpoint)]
    if others:
        told = [f"{quoted(each.place.path)} ({described_net(each, found)})" for each in (net, *others)]
        paths = " or ".join(f"--net {shlex.quote(each.place.path)}" for each in (net, *others))
        raise LayoutError(f"{checkpoint.label}: holds {len(told)} nets: {listed(told, 8, 300)}; choose one: {paths}")
    if net.partial:
        at = f" at {quoted(net.place.path)}" if net.place.prefix else ""
        whole = net.detection.config.num_classes is not None
        or_net = f", or with its classifier by --net {shlex.quote(net.place.path)}" if whole else ""
        raise LayoutError(
            f"{checkpoint.label}: holds the body of a DenseNet{at}, of layout {net.detection.layout.name}, beside what "
            f"may belong to the net: {net.partial}; take the body alone with --head drop{or_net}"
        )
    return net.detection


def _is_copy(other: Found, net: Found, checkpoint: Checkpoint) -> bool:
    """Whether a net is another one once more, or its body, bit by bit: a module that has two names."""
    theirs, ours = other.detection.roles, net.detection.roles
    tensors = checkpoint.tensors
    return theirs.keys() <= ours.keys() and all(
        tensors[name].same_bits(tensors[ours[role]]) for role, name in theirs.items()
    )


def described_net(found: Found, every: list[Found]) -> str:
    """One of several nets in words: what its path says that it usually is, and its architecture."""
    usual = {each.place.path: _usual(each.place.path) for each in every}
    averaged = any("average" in said for said in usual.values())
    said = usual[found.place.path] or ("weights as they were trained" if averaged else "")
    config = found.detection.config
    head = "without classifier" if config.num_classes is None else f"{config.num_classes} classes"
    return ", ".join([*([said] if said else []), config.variant, head])


def _usual(path: str) -> str:
    """What the parts of a path say that a net is, or ""."""
    parts = re.split(r"[^a-z0-9]+", path.lower().replace("_", "."))
    return next((kind for kinds, kind in KINDS.items() if any(re.fullmatch(kinds, part) for part in parts)), "")
