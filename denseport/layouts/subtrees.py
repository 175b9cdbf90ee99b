"""Nets under names of no layout, wherever they stand in a file: each subtree of the names is tried by its shapes."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed
from denseport.layouts.attempt import Found, reads_the_net
from denseport.layouts.detection import Detection
from denseport.layouts.prefixes import Place
from denseport.layouts.template import outline

# A net has more tensors than this, and no file so many subtrees that are as large.
FEWEST_TENSORS = 12
MOST_TRIED = 48


def nets_by_shape(
    checkpoint: Checkpoint,
    names: Sequence[str],
    recognised: Callable[[Sequence[str]], Detection],
    *,
    drop_head: bool,
    chosen: bool,
) -> list[Found]:
    """The nets among some tensors, each with what may belong to it and stands elsewhere.

    The largest subtrees come first, and none within one that is a net. What is left beside all of them may be one more.

    Args:
        checkpoint: The file.
        names: Those of its tensors that count.
        recognised: The net that some of them are; raises LayoutError where they are none.
        drop_head: Whether the classifier takes no part.
        chosen: Whether the user said where the net stands.
    """
    found: list[tuple[str, Detection]] = []
    pending, refused = deque(_below("", names)), set[str]()
    for _ in range(MOST_TRIED):
        if not pending:
            break
        path, own = pending.popleft()
        try:
            found.append((path, recognised(own)))
        except LayoutError:
            refused.add(outline(path))
            pending.extend(_below(path, own))
    # One of many blocks is no net, whatever its shapes.
    found = [(path, detection) for path, detection in found if outline(path) not in refused]
    found = [_with_head(path, detection, found, names, recognised) for path, detection in found]
    used = {name for _, detection in found for name in (*detection.roles.values(), *detection.dropped)}
    rest = [name for name in names if name not in used] if found else []
    if len(rest) >= FEWEST_TENSORS:
        with contextlib.suppress(LayoutError):
            found.append(("", recognised(rest)))
    alone = len(found) == 1
    return [
        _beside(path, detection, rest if alone else [], checkpoint, drop_head=drop_head or chosen)
        for path, detection in found
    ]


def _with_head(
    path: str,
    body: Detection,
    found: Sequence[tuple[str, Detection]],
    names: Sequence[str],
    recognised: Callable[[Sequence[str]], Detection],
) -> tuple[str, Detection]:
    """A net that has its classifier in the module around it, where no classifier is within."""
    above = path[: path.removesuffix(".").rfind(".") + 1]
    others = tuple(each for each, _ in found if each != path)
    if body.config.num_classes is None:
        with contextlib.suppress(LayoutError):
            around = [name for name in names if name.startswith(above) and not name.startswith(others)]
            return above, recognised(around)
    return path, body


def _below(path: str, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The subtrees of a path that are large enough to be a net, largest first."""
    children: dict[str, list[str]] = {}
    for name in names:
        part, separator, _ = name.removeprefix(path).partition(".")
        if separator:
            children.setdefault(f"{path}{part}.", []).append(name)
    large = [(below, own) for below, own in children.items() if len(own) >= FEWEST_TENSORS]
    return sorted(large, key=lambda child: -len(child[1]))


def _beside(path: str, detection: Detection, rest: list[str], checkpoint: Checkpoint, *, drop_head: bool) -> Found:
    """A net at a path, and what of the rest of the file may belong to it."""
    detection = replace(detection, prefix=path, dropped=(*detection.dropped, *rest))
    partial = ""
    if not drop_head and detection.config.num_classes is None:
        layers = [name for name in rest if checkpoint.tensors[name].size > 1]
        partial = f"unexpected keys {listed(layers)}" if layers else ""
    elif not drop_head:
        partial = reads_the_net(detection, rest, checkpoint)
    return Found(Place(path, blocks=frozenset(detection.roles.values())), detection, partial)
