"""Which layout a checkpoint has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts.frameworks import KERAS, KERAS_ON_THEANO, TORCH, Groups
from denseport.layouts.match import Detection, Misfit, match
from denseport.layouts.observed_traits import observed_traits
from denseport.layouts.parse import find_layout, known_layouts
from denseport.layouts.spec import Layout

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")


def detect(
    checkpoint: Checkpoint, layout: str | Path | None = None, *, head: Literal["keep", "drop"] = "keep"
) -> Detection:
    """The one layout that every tensor of a checkpoint fits, in name and shape.

    Args:
        checkpoint: Tensors as a format read them.
        layout: A layout's name or TOML file, where it is not to be detected.
        head: `drop` lets dense layers stand beside the body that no layout knows.

    Raises:
        LayoutError: No layout fits, and the message says how far the nearest one does; or several fit.
    """
    file = checkpoint.path or "the given tensors"
    if not checkpoint.tensors:
        raise LayoutError(f"{file}: holds no tensors; nothing can be converted from it")
    try:
        observed = observed_traits(checkpoint.model_config) if checkpoint.model_config else {}
    except LayoutError as error:
        raise LayoutError(f"{file}: {error}") from None
    recorded = checkpoint.metadata.get("layout", "")
    if layout is None and recorded and recorded not in known_layouts() and "source_sha256" in checkpoint.metadata:
        raise LayoutError(f"{file}: was written in the layout {quoted(recorded)}: give that file with --from-layout")
    misfits: list[Misfit] = []
    for candidates in _candidates(checkpoint, layout):
        for prefix, originals in without_prefixes(checkpoint.tensors):
            fits, others = _try(checkpoint, candidates, originals, observed, head == "drop")
            if fits:
                return _one(fits, checkpoint).under(prefix)
            misfits += others
    raise _no_fit(checkpoint, misfits, asked=layout is not None)


def _candidates(checkpoint: Checkpoint, layout: str | Path | None) -> list[list[Layout]]:
    """The layouts to try: where one of the first list fits, those of the next do not come into question."""
    if layout is not None:
        return [[find_layout(layout)]]
    known = list(known_layouts().values())
    if recorded := [candidate for candidate in known if candidate.name == checkpoint.metadata.get("layout")]:
        return [recorded, [candidate for candidate in known if candidate.detected]]
    if checkpoint.nameless:
        of_keras = [c for c in known if c.detected and KERAS in c.frameworks and TORCH not in c.frameworks]
        return [[c for c in known if c.nameless], of_keras]
    return [[candidate for candidate in known if candidate.detected]]


def _try(
    checkpoint: Checkpoint,
    candidates: list[Layout],
    originals: Mapping[str, str],
    observed: Mapping[str, Any],
    drop_head: bool,
) -> tuple[list[Detection], list[Misfit]]:
    groups: dict[str, Groups] = {}
    tried = []
    for candidate in candidates:
        for own in candidate.frameworks:
            framework = KERAS_ON_THEANO if own is KERAS and checkpoint.backend == "theano" else own
            if framework.name not in groups:
                groups[framework.name] = framework.grouped(originals)
            tried.append(match(checkpoint, candidate, framework, groups[framework.name], observed, drop_head=drop_head))
    return [t for t in tried if isinstance(t, Detection)], [t for t in tried if isinstance(t, Misfit)]


def _one(fits: list[Detection], checkpoint: Checkpoint) -> Detection:
    """The only one that fits, or an error that says what the others would change."""
    fits = [fit for fit in fits if not fit.head] or fits
    if len(fits) == 1:
        return fits[0]
    names = " and ".join(fit.layout.name for fit in fits)
    first, *others = (fit.config.traits for fit in fits)
    apart = sorted({name for other in others for name, value in vars(other).items() if vars(first)[name] != value})
    raise LayoutError(
        f"{checkpoint.path or 'the given tensors'}: fits {names} alike; they differ in {' and '.join(apart) or 'name'}"
        ", which no name or shape shows: say which it is with --from-layout"
    )


def _no_fit(checkpoint: Checkpoint, misfits: list[Misfit], *, asked: bool) -> LayoutError:
    """The error that says which layout comes nearest, and what does not fit."""
    file = checkpoint.path or "the given tensors"
    for prefix in PREFIXES:
        without = [name for name in checkpoint.tensors if not name.startswith(prefix)]
        if 0 < len(without) < len(checkpoint.tensors):
            return LayoutError(
                f"{file}: the prefix {prefix} stands before {len(checkpoint.tensors) - len(without)} names, but not "
                f"before {listed(without)}; two nets seem to be mixed: save one state dict"
            )
    nearest = max(misfits, key=lambda misfit: misfit.matched - misfit.wrong)
    named = f"its tensors are called {listed(checkpoint.tensors, 4)}"
    if not nearest.matched and asked:
        reason = f"does not fit {nearest.layout.name}: {nearest.reason}, and {named}; "
        return LayoutError(f"{file}: {reason}leave --from-layout out, or give the layout it has")
    if not nearest.matched:
        remedy = "if it is a DenseNet, give --from-layout FILE.toml"
        return LayoutError(f"{file}: fits no layout, and none comes near: {named}; {remedy}")
    relation = "does not fit" if asked else "fits no layout; the nearest is"
    return LayoutError(
        f"{file}: {relation} {nearest.layout.name}: {nearest.reason}; "
        "check that the file is whole, or give the layout it has with --from-layout"
    )


def without_prefixes(tensors: Mapping[str, object]) -> Iterator[tuple[str, dict[str, str]]]:
    """Names to look up and the originals they come from: first as they are, then with ever more prefixes taken off.

    A prefix counts when every name has it, or every name but those of one layer, a head beside a wrapped body.
    """
    names = {name: name for name in tensors}
    taken = ""
    yield taken, names
    while len(taken) < 100:
        common = [prefix for prefix in PREFIXES if sum(name.startswith(prefix) for name in names) * 2 > len(names)]
        if not common:
            return
        prefix = common[0]
        others = {name.rpartition(".")[0] for name in names if not name.startswith(prefix)}
        stripped = {name.removeprefix(prefix): original for name, original in names.items()}
        if len(others) > 1 or len(stripped) < len(names):
            return
        names, taken = stripped, taken + prefix
        yield taken, names
