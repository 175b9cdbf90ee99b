"""The tree of the modules of a pickled PyTorch model: what is within what, in the order in which it was registered.

Source: torch/nn/modules/module.py; torch/nn/modules/container.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Node = Mapping[str, Any]

# Containers that run their modules in order.
SEQUENTIAL = (
    "torch.nn.modules.container.Sequential",
    "torchvision.models.densenet._Transition",
    "timm.models.densenet.DenseTransition",
    "monai.networks.nets.densenet._Transition",
)


@dataclass(frozen=True)
class Tree:
    """The modules of a file.

    Attributes:
        root: The tree, as `formats.pth.modules` makes it.
    """

    root: Node

    def node(self, path: str) -> Node | None:
        """The module at a path, or None; keys around modules may have dots."""
        found: Node | None = self.root
        while path and found is not None:
            names = [name for name in found["modules"] if path == name or path.startswith(f"{name}.")]
            name = max(names, key=len, default="")
            found, path = (found["modules"][name], path[len(name) + 1 :]) if names else (None, "")
        return found

    def leaves(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """The modules within that at a path that have none themselves, in order."""
        node = self.node(path)
        open_ = [(path, node)] if node else []
        while open_:
            path, node = open_.pop()
            if not node["modules"]:
                yield path, node
            within = [(f"{path}.{name}" if path else name, each) for name, each in node["modules"].items()]
            open_ += reversed(within)

    def between(self, first: str, last: str) -> list[tuple[str, Node]]:
        """The modules registered within or behind one module and before another."""
        paths = list(self.leaves(common_path(first, last)))
        start, end = ([n for n, (path, _) in enumerate(paths) if is_within(path, each)] for each in (first, last))
        return [(path, node) for path, node in paths[start[0] : end[0]] if path != first] if start and end else []

    def around(self, path: str) -> Iterator[tuple[Node, str, list[str]]]:
        """The containers that a module is in, innermost first: each with its path and those of its modules."""
        while path:
            path = path.rpartition(".")[0]
            node = self.node(path)
            if node and node["class"]:
                yield node, path, [f"{path}.{name}" if path else name for name in node["modules"]]

    def runs_in_order(self, first: str, last: str) -> bool:
        """Whether a container that runs its modules in order holds both, and others of that sort the first."""
        common = common_path(first, last)
        within = [path for _, path, _ in self.around(first) if len(path) >= len(common)]
        return all((node := self.node(path)) and node["class"] in SEQUENTIAL for path in within)


def class_of(node: Node) -> str:
    """The class of a module, without its package."""
    name: str = node["class"].rpartition(".")[2]
    return name


def figures_of(node: Node, name: str, usual: int = 0) -> set[Any]:
    """The different figures among those that a module has for each axis, which may be one for all."""
    value = node["attributes"].get(name, usual)
    return set(value) if isinstance(value, list) else {value}


def is_within(path: str, module: str) -> bool:
    """Whether a path is that of a module or of something in it."""
    return path == module or path.startswith(f"{module}.")


def common_path(first: str, *others: str) -> str:
    """The path of what has all these modules in it."""
    parts = [path.split(".")[:-1] for path in (first, *others)]
    common = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return ".".join(common)
