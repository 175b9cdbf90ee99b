"""Which layout a checkpoint has."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from denseport import metadata
from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed, quoted
from denseport.layouts import descriptions
from denseport.layouts.frameworks import KERAS, KERAS_ON_THEANO, TORCH
from denseport.layouts.match import Detection, MisfitError, match
from denseport.layouts.parse import find_layout, known_layouts
from denseport.layouts.spec import Layout
from denseport.layouts.traits import Said, refuse_contradiction

# Where training scripts keep the weights among other things, in the order in which they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")


def detect(
    checkpoint: Checkpoint,
    layout: str | Path | None = None,
    *,
    head: Literal["keep", "drop"] = "keep",
    traits: Mapping[str, Any] = MappingProxyType({}),
) -> Detection:
    """The one layout that every tensor of a checkpoint fits, in name and shape.

    Args:
        checkpoint: Tensors as a format read them.
        layout: A layout's name or TOML file, where it is not to be detected.
        head: `drop` lets dense layers stand beside the body that no layout knows.
        traits: Those that the user states.

    Raises:
        LayoutError: No layout matches, and the message says how far the closest one does; or several match; or `traits`
            contradict what the file states.
    """
    if not checkpoint.tensors:
        raise LayoutError(f"{checkpoint.label}: holds no tensors; nothing can be converted from it")
    described = descriptions.stated(checkpoint)
    recorded = checkpoint.metadata.get(metadata.LAYOUT, described.layout)
    if layout is None and recorded and recorded not in known_layouts() and metadata.SOURCE in checkpoint.metadata:
        raise LayoutError(
            f"{checkpoint.label}: was written in layout {quoted(recorded)}, which does not ship with denseport; "
            "give its file with --from-layout"
        )
    said: Said = {"file": described.traits, "option": traits}
    refuse_contradiction(said, checkpoint.label)
    misfits: list[MisfitError] = []
    for candidates in _candidates(checkpoint, layout, recorded):
        for wrapper, prefix, originals in without_prefixes(checkpoint.tensors):
            fits, others = _try(checkpoint, candidates, originals, said, head == "drop")
            if fits:
                return replace(_one(fits, checkpoint, said), prefix=prefix, wrapper=wrapper or checkpoint.wrapper)
            misfits += others
    raise _no_match(checkpoint, misfits, asked=layout is not None)


def _candidates(checkpoint: Checkpoint, layout: str | Path | None, recorded: str) -> list[list[Layout]]:
    """The layouts to try: where one of the first list fits, those of the next do not come into question."""
    if layout is not None:
        return [[find_layout(layout)]]
    known = list(known_layouts().values())
    if first := [candidate for candidate in known if candidate.name == recorded]:
        return [first, [candidate for candidate in known if candidate.detected]]
    if checkpoint.nameless:
        of_keras = [c for c in known if c.detected and KERAS in c.frameworks and TORCH not in c.frameworks]
        return [[c for c in known if c.nameless], of_keras]
    return [[candidate for candidate in known if candidate.detected]]


def _try(
    checkpoint: Checkpoint,
    candidates: list[Layout],
    originals: Mapping[str, str],
    said: Said,
    drop_head: bool,
) -> tuple[list[Detection], list[MisfitError]]:
    """The layouts that fit, and those that do not."""
    groups = {framework.runs_in: framework.grouped(originals) for framework in (TORCH, KERAS)}
    fits, misfits = list[Detection](), list[MisfitError]()
    for candidate in candidates:
        for stated in candidate.frameworks:
            framework = KERAS_ON_THEANO if stated is KERAS and checkpoint.backend == "theano" else stated
            grouped = groups[framework.runs_in]
            try:
                fits.append(match(checkpoint, candidate, framework, grouped, said, drop_head=drop_head))
            except MisfitError as misfit:
                misfits.append(misfit)
    return fits, misfits


def _one(fits: list[Detection], checkpoint: Checkpoint, said: Said) -> Detection:
    """The only one that fits, or an error that says what the others would change."""
    fits = [fit for fit in fits if not fit.head] or fits
    stated = {**said["option"], **said["file"]}
    fits = [fit for fit in fits if stated.items() <= {**stated, **fit.layout.traits_of(fit.config)}.items()] or fits
    if len(fits) == 1:
        return fits[0]
    names = [fit.layout.name for fit in fits]
    first, *others = (fit.config.traits for fit in fits)
    apart = sorted({name for other in others for name, value in vars(other).items() if vars(first)[name] != value})
    raise LayoutError(
        f"{checkpoint.label}: matches layouts {' and '.join(names)} alike; they differ in "
        f"{' and '.join(apart) or 'name'}, which no name or shape shows; say which it is, as with "
        f"--from-layout {names[0]}"
    )


def _no_match(checkpoint: Checkpoint, misfits: list[MisfitError], *, asked: bool) -> LayoutError:
    """The error that says which layout is closest, what does not fit, and what to do next."""
    for prefix in PREFIXES:
        without = [name for name in checkpoint.tensors if not name.startswith(prefix)]
        if 0 < len(without) < len(checkpoint.tensors):
            return LayoutError(
                f"{checkpoint.label}: the prefix {prefix} stands before {len(checkpoint.tensors) - len(without)} keys, "
                f"but not before {listed(without)}; two nets seem to be mixed: save one state dict"
            )
    closest = max(misfits, key=lambda misfit: misfit.named - misfit.wrong)
    layout, keys = closest.layout, f"its keys are {listed(checkpoint.tensors, 4)}"
    reason = f"{layout.name} ({closest.named:,} of {closest.layers:,} layers): {str(closest) or keys}"
    derive = f"denseport layouts derive {shlex.quote(str(checkpoint.path or 'FILE'))} -o mine.toml"
    if asked:
        remedy = f"correct {layout.file}" if layout.file else "leave the layout out to try every known one"
        message = f"does not match layout {reason}; {remedy}, or run {derive}"
    elif closest.named:
        message = f"no known layout matches; closest: {reason}; check that the file is whole, or run {derive}"
    else:
        message = f"no known layout matches: {keys}; if it is a DenseNet, run {derive}"
    return LayoutError(f"{checkpoint.label}: {message}")


def without_prefixes(tensors: Mapping[str, object]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Where names stand, what was taken off them, and the names to look up with the originals that they come from.

    First as they are, then with ever more prefixes taken off. A prefix counts when every name has it, or every name but
    those of one layer, a head beside a wrapped body. What stands beside a wrapper is left out.
    """
    for place in dict.fromkeys(("", _wrapper(tensors))):
        names = {name.removeprefix(place): name for name in tensors if name.startswith(place)}
        wrapper, taken = place.removesuffix("."), ""
        yield wrapper, taken, names
        while len(taken) < 100:
            common = [prefix for prefix in PREFIXES if sum(name.startswith(prefix) for name in names) * 2 > len(names)]
            if not common:
                break
            prefix = common[0]
            others = {name.rpartition(".")[0] for name in names if not name.startswith(prefix)}
            stripped = {name.removeprefix(prefix): original for name, original in names.items()}
            if len(others) > 1 or len(stripped) < len(names):
                break
            names, taken = stripped, taken + prefix
            yield wrapper, taken, names


def _wrapper(tensors: Mapping[str, object]) -> str:
    """The path of the state dict among other things, or "" where none of the known keys stands before a tensor."""
    place = ""
    while True:
        known = (f"{place}{name}." for name in WRAPPERS)
        found = [path for path in known if any(name.startswith(path) for name in tensors)]
        if not found:
            return place
        place = found[0]
