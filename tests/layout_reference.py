"""The tables of the layouts' reference, made from the code: `python -m tests.layout_reference` writes them anew."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import denseport.layouts
from denseport.layouts import known_layouts
from denseport.layouts.parse import KEYS, LAYERS, NOT_INHERITED, SECTIONS, STRUCTURE
from denseport.layouts.spec import EFFECTS, Layout
from denseport.layouts.traits import decide
from denseport.net.config import DenseNetConfig, Stride, Traits

README = Path(denseport.layouts.__file__).parent / "README.md"
SECTION = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def attributes(documented: type) -> dict[str, str]:
    """What a class's docstring says of each attribute."""
    text = inspect.getdoc(documented) or ""
    entries = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text.partition("Attributes:\n")[2], re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning) for name, meaning in entries}


def keys() -> str:
    """The keys of a layout file in the order of `Layout`, but for `extends`."""
    said = attributes(Layout)
    fields = {field.name: field for field in dataclasses.fields(Layout) if field.name in KEYS}
    rows = [
        (_key(name), _default(field), "no" if name in NOT_INHERITED else "yes", said[name])
        for name, field in fields.items()
    ]
    return _table(("key", "default", "inherited", "meaning"), rows)


def layers() -> str:
    """The canonical layers."""
    return "\n".join(["```", *LAYERS, "```"])


def traits() -> str:
    """The traits, their values, and the usual one."""
    hints, said = get_type_hints(Traits), attributes(Traits)
    rows = []
    for field in dataclasses.fields(Traits):
        hint = hints[field.name]
        kinds = ", ".join(f"`{value}`" for value in get_args(hint)) or hint.__name__
        values = "int, or one an axis" if hint == Stride else kinds
        effect = EFFECTS.get(field.name, "").removeprefix("which ")
        rows.append((f"`{field.name}`", values, f"`{field.default}`", said[field.name], effect))
    return _table(("trait", "values", "usual", "meaning", "another value"), rows)


def precedence() -> str:
    """What decides a trait, the first before the others."""
    return "The first of these" + (inspect.getdoc(decide) or "").partition("The first of these")[2]


def architecture() -> str:
    """The facts of [architecture]."""
    said = attributes(DenseNetConfig)
    return _table(("fact", "meaning"), [(f"`{fact}`", said[fact]) for fact in STRUCTURE])


def builds() -> str:
    """The facts that [builds] has beside those of [architecture]."""
    said = attributes(DenseNetConfig)
    facts = sorted(SECTIONS["builds"] - set(STRUCTURE))
    return _table(("fact", "meaning"), [(f"`{fact}`", said.get(fact) or _of_property(fact)) for fact in facts])


def layouts() -> str:
    """The layouts that ship."""
    rows = []
    for layout in known_layouts().values():
        said = ", ".join(f"{trait} {value}" for trait, value in layout.traits.items())
        frameworks = ", ".join(framework.name for framework in layout.frameworks)
        rows.append((f"`{layout.name}`", layout.title, layout.source, frameworks, said))
    return _table(("name", "whose names", "source", "frameworks", "traits"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    made.__name__: made for made in (keys, layers, traits, precedence, architecture, builds, layouts)
}


def filled(text: str) -> str:
    """The text with every table made anew."""
    return SECTION.sub(lambda found: f"<!-- {found[1]} -->\n{TABLES[found[1]]()}\n<!-- end -->", text)


def _key(name: str) -> str:
    return f"`[{name}]`" if name in SECTIONS else f"`[[{name}]]`" if name == "variants" else f"`{name}`"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else "empty"
    return "empty" if field.default == () else f"`{json.dumps(field.default)}`"


def _of_property(fact: str) -> str:
    return re.sub(r"\s+", " ", inspect.getdoc(getattr(DenseNetConfig, fact)) or "")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    every = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in every)


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
