"""Where in the names of a file's tensors the names of a layout stand: below which prefix."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from denseport.errors import listed, quoted
from denseport.layouts.spec import Layout
from denseport.layouts.template import Template, outline
from denseport.net.graph import CLASSIFIER

# What may stand between a prefix and the names of a net.
SEPARATOR = re.compile(r"[./_]")
# A dense layer has at least a normalisation and a convolution.
FEWEST_LAYERS = 2
MOST_WRAPPERS = 3
ROOT = "."


@dataclass(frozen=True)
class Place:
    """A prefix below which layers of dense blocks stand under the names of a layout.

    Attributes:
        prefix: What stands before their names, with its separator, or "".
        instead: The beginning that the layout's own names have and these do not (`features.`), or "".
        layouts: The layouts whose names they are.
        blocks: Those layers, by their whole names.
    """

    prefix: str = ""
    instead: str = ""
    layouts: tuple[Layout, ...] = ()
    blocks: frozenset[str] = frozenset()

    @property
    def path(self) -> str:
        """What `--net` calls it."""
        return self.prefix.rstrip("./") or ROOT


def within(path: str, names: Iterable[str]) -> list[str]:
    """The names below a path as `Place.path` spells it."""
    return [name for name in names if path == ROOT or name.startswith((f"{path}.", f"{path}/")) or _cut(path, name)]


def _cut(path: str, name: str) -> bool:
    """Whether a path ends within a part of a name, as that of names such as `features_conv0` does."""
    return path.endswith("_") and name.startswith(path)


def places(layers: Collection[str], layouts: Iterable[Layout]) -> list[Place]:
    """Every prefix below which layers of dense blocks are named as in a layout, those with most layers first.

    Only names are looked at: what comes behind each separator is looked up among the outlines of layouts' names.
    """
    every = tuple(layouts)
    known: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for n, layout in enumerate(every):
        for instead, outlined in _outlines(layout):
            known[outlined].append((instead, n))
    longest = max(map(len, known), default=0)
    found: dict[tuple[str, str], dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for layer in layers:
        outlined = outline(layer)  # has the same separators
        for at, cut in zip(_starts(outlined), _starts(layer), strict=True):
            if len(outlined) - at <= longest:
                for instead, n in known.get(outlined[at:], ()):
                    found[layer[:cut], instead][n].add(layer)
    told = []
    for (prefix, instead), by_layout in found.items():
        most = max(map(len, by_layout.values()))
        repeated = instead and f".{prefix}".endswith(f".{instead}")  # the same layers stand at the shorter prefix
        if most >= FEWEST_LAYERS and not repeated:
            fitting = tuple(every[n] for n, named in sorted(by_layout.items()) if len(named) * 2 >= most)
            told.append(Place(prefix, instead, fitting, frozenset().union(*by_layout.values())))
    return sorted(told, key=lambda place: (-len(place.blocks), len(place.instead), len(place.prefix)))


def _starts(name: str) -> list[int]:
    return [0, *(separator.end() for separator in SEPARATOR.finditer(name))]


def _outlines(layout: Layout) -> Iterator[tuple[str, str]]:
    """The outlines of what a layout calls the layers of dense blocks, and of the same without what all begin with."""
    common = body_path(layout)
    for names in (layout.names, layout.plain):
        for spelling in (each for role, every in names.items() if role.startswith("block") for each in every):
            yield "", spelling.outline
            if common and spelling.text.startswith(common):
                yield common, Template(spelling.text.removeprefix(common)).outline


def body_path(layout: Layout) -> str:
    """What every layer of a layout but the classifier is named below, such as `features.`, or ""."""
    names = [spellings[0].text for role, spellings in layout.names.items() if role != CLASSIFIER]
    return common_path([name.partition("{")[0] for name in names])


def common_path(names: Collection[str]) -> str:
    """The path below which all of some names stand, with its last separator, or ""."""
    first, last = min(names, default=""), max(names, default="")
    same = next((at for at, letters in enumerate(zip(first, last, strict=False)) if len(set(letters)) > 1), None)
    alike = first if same is None else first[:same]
    return alike[: 1 + max(alike.rfind("."), alike.rfind("/"))]


def wrappers(names: Collection[str]) -> list[tuple[str, ...]]:
    """Modules that stand in most names, and not at one depth: each alone, then all together.

    Libraries that shard or compile a net put such a one around many of its modules: `a._orig_mod.b._orig_mod.c`.
    """
    counted, depths = Counter[str](), defaultdict[str, set[int]](set)
    for name in names:
        parts = name.split(".")[:-1]
        counted.update({part for part in parts if not part.isdigit()})
        for depth, part in enumerate(parts):
            depths[part].add(depth)
    found = [part for part, times in counted.most_common() if times * 2 > len(names) and len(depths[part]) > 1]
    found = found[:MOST_WRAPPERS]
    return [*((part,) for part in found), *([tuple(found)] if len(found) > 1 else [])]


def without(parts: Collection[str], name: str) -> str:
    """A name without the modules that are called so."""
    return ".".join(part for part in name.split(".") if part not in parts) if parts else name


def branches(names: Collection[str], limit: int = 8) -> str:
    """Names in words: each where there are few, else how many stand below each path that they do not all have."""
    if len(names) <= limit:
        return listed(names, limit)
    common = common_path(names)
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(common + re.split("[./]", name.removeprefix(common))[0], []).append(name)
    if len(grouped) > limit and common:
        return f"{quoted(common[:-1])} ({len(names):,} tensors)"
    told = (f"{branch} ({len(own):,} tensors)" if len(own) > 1 else own[0] for branch, own in grouped.items())
    return listed(told, limit)
