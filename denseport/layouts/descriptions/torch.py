"""What the modules of a pickled PyTorch model say of its net: the traits that their figures and their order show.

The classes' own `forward` is not in the file. Where a container runs its modules in order, as `nn.Sequential` does,
what lacks there is stated, too; elsewhere only what is there says anything, and the rest stays to be shown or assumed.

Source: torch/nn/modules: conv.py, batchnorm.py, pooling.py, activation.py, container.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from types import MappingProxyType
from typing import Any

from denseport.errors import LayoutError, quoted
from denseport.layouts.descriptions.torch_tree import (
    SEQUENTIAL,
    Node,
    Tree,
    class_of,
    common_path,
    figures_of,
    is_within,
)
from denseport.metadata import Record
from denseport.net.config import HeadLayer
from denseport.net.graph import CLASSIFIER, kind

# The canonical layers of a net by the paths of their modules.
Paths = Mapping[str, str]

# A layer of a head of several, by its place.
HEAD = re.compile(r"head\.(?:dense|norm)(\d+)")
BLOCK_CONV = re.compile(r"block(\d+)\.layer(\d+)\.conv(\d)")
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        "ReLU": "relu",
        "ReLU6": "relu6",
        "LeakyReLU": "leaky-relu",
        "ELU": "elu",
        "SELU": "selu",
        "GELU": "gelu",
        "GELUTanh": "gelu-tanh",
        "SiLU": "silu",
        "Swish": "silu",
        "Mish": "mish",
        "Hardswish": "hard-swish",
        "Tanh": "tanh",
        "Sigmoid": "sigmoid",
        "Softplus": "softplus",
    }
)
# The figures with which an activation is the one that is known by its name.
_USUAL_FIGURES = {"ELU": {"alpha": 1.0}, "Softplus": {"beta": 1.0, "threshold": 20.0}}
_OTHER_ACTIVATIONS = frozenset({"CELU", "RReLU", "PReLU", "Softsign", "Hardtanh", "Hardsigmoid", "LogSigmoid", "GLU"})
_IDLE = frozenset({"Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "DropPath", "Flatten"})
# Containers without modules in them, and what computes the weights of a module that it is within.
_NOTHING = frozenset({"Sequential", "ModuleList", "ModuleDict"})
_OF_WEIGHTS = ("torch.nn.utils.", "__torch__.torch.nn.utils.")
_ENDS = {"Softmax": "softmax", "Sigmoid": "sigmoid", "LogSoftmax": "log-softmax"}


def stated(_description: Node, _shown: str) -> Record:
    """Nothing before it is known which of the file's modules are the net's; see `built` below."""
    return Record()


@dataclass(frozen=True)
class Built:
    """What the modules of a model state of its net.

    Attributes:
        traits: The traits of the body and the head.
        before: Paths of modules that prepare the image, in order.
        head: The layers of a head of several, as the modules say them, or () where they say nothing.
    """

    traits: Mapping[str, Any]
    before: tuple[str, ...] = ()
    head: tuple[HeadLayer, ...] = ()


def built(
    description: Node,
    roles: Mapping[str, str],
    kernels: Mapping[str, tuple[int, ...]],
    head: tuple[HeadLayer, ...],
    shown: str,
) -> Built:
    """What a net's modules, and those around it that run in order, state.

    Args:
        description: The tree of the file's modules, as `formats.pth.modules` makes it.
        roles: The name in the file of each canonical tensor.
        kernels: The sides of each convolution's kernel, by its canonical name.
        head: The layers of its head as weights show them, with room for those that have none.
        shown: What errors call the file.

    Raises:
        LayoutError: A module computes what no net of denseport's does.
    """
    paths = {role.rpartition(".")[0]: name.rpartition(".")[0] for role, name in roles.items()}
    net = _Net(Tree(description), paths, kernels, shown)
    if not net.tree.node(net.stem):
        return Built({})  # a state dict beside the model
    activations = net.activations()
    traits = {
        **net.epsilon(),
        **net.convolutions(),
        **net.stem_pool(),
        **activations,
        **net.transitions(),
        **net.pool(activations.get("activation", "relu")),
        **net.end(),
    }
    net.refuse_strangers()
    if activations:
        net.refuse_gaps()
    return Built(traits, tuple(net.before()), net.head(head))


def attributes(description: Node, path: str) -> Node:
    """What the module at a path says of itself."""
    node = Tree(description).node(path)
    found: Node = node["attributes"] if node else {}
    return found


@dataclass(frozen=True)
class _Net:
    """The modules of a file, seen from the layers of the net among them."""

    tree: Tree
    paths: Paths
    kernels: Mapping[str, tuple[int, ...]]
    shown: str

    @property
    def stem(self) -> str:
        """The path of the first convolution."""
        return self.paths.get("stem.conv") or self.paths["stem.conv1"]

    @property
    def behind(self) -> dict[int, str]:
        """The paths of the layers with weights behind the pool, by their places in the head, in order."""
        if CLASSIFIER in self.paths:
            return {0: self.paths[CLASSIFIER]}
        numbers = {layer: int(found[1]) for layer in self.paths if (found := HEAD.fullmatch(layer))}
        return {numbers[layer]: self.paths[layer] for layer in sorted(numbers, key=numbers.__getitem__)}

    def head(self, layers: tuple[HeadLayer, ...]) -> tuple[HeadLayer, ...]:
        """The layers of a head of several, with the activations and figures that its modules have."""
        if not layers:
            return ()
        found, behind = list(layers), list(self.behind.items())
        for place, path in behind:
            epsilon = (self.tree.node(path) or {"attributes": {}})["attributes"].get("eps")
            if found[place].kind == "norm" and isinstance(epsilon, float):
                found[place] = replace(found[place], epsilon=epsilon)
        for (start, first), (end, last) in pairwise(behind):
            between = self.hidden(first, last)
            if between is None:
                continue
            room = end - start - 1
            if len(between) > room:
                raise self.refuse(last, f"stands behind {' and '.join(each.activation for each in between)}")
            found[start + 1 : end] = [*between, *[HeadLayer("dropout")] * (room - len(between))]
        return tuple(found)

    def hidden(self, first: str, last: str) -> list[HeadLayer] | None:
        """The activations between two layers of a head; None where no module says any, and a function may be called."""
        found = []
        for path, node in self.tree.between(first, last):
            activation = self._activation(path, node)
            if activation:
                found.append(_as_layer(activation))
            elif class_of(node) not in _IDLE:
                raise self.refuse(path, "stands within the head")
        container = self.tree.node(common_path(first, last))
        if found or (container and container["class"] in SEQUENTIAL):
            return found
        beside = {
            activation
            for name, node in (container["modules"] if container else {}).items()
            if (activation := self._activation(name, node))
        }
        return [_as_layer(beside.pop())] if len(beside) == 1 else None

    def before(self) -> list[str]:
        """The paths of what runs before the stem and prepares the image."""
        found: list[str] = []
        for node, _, within in self.tree.around(self.stem):
            place = next(n for n, path in enumerate(within) if is_within(self.stem, path))
            if node["class"] in SEQUENTIAL:
                found = [path for path in within[:place] if not self._is_idle(path)] + found
            elif odd := [path for path in within if "normaliz" in class_of(self.tree.node(path) or node).lower()]:
                raise self.refuse(odd[0], "may prepare the image before the net")
        return found

    def end(self) -> dict[str, Any]:
        """What runs behind the classifier: the last activation, and nothing else that computes."""
        last = next(reversed(self.behind.values()), "")
        behind: list[str] = []
        for node, _, within in self.tree.around(last):
            if node["class"] in SEQUENTIAL:
                place = next(n for n, path in enumerate(within) if is_within(last, path))
                behind += [path for path in within[place + 1 :] if not self._is_idle(path)]
        names = [class_of(self.tree.node(path) or {"class": ""}) for path in behind]
        if not behind:
            return {}
        dims = (self.tree.node(behind[0]) or {"attributes": {}})["attributes"].get("dim")
        if names[0] in _ENDS and dims not in (None, 1, -1):
            raise self.refuse(behind[0], f"goes over axis {dims}")
        if len(behind) > 1 or names[0] not in _ENDS:
            odd = next(path for path, name in zip(behind, names, strict=True) if name not in _ENDS or len(behind) > 1)
            raise self.refuse(odd, "stands behind the classifier")
        return {"head_activation": _ENDS[names[0]]}

    def _is_idle(self, path: str) -> bool:
        return all(class_of(node) in _IDLE for _, node in self.tree.leaves(path))

    def refuse(self, path: str, why: str) -> LayoutError:
        """The error that names a module."""
        node = self.tree.node(path)
        name = class_of(node) if node else "module"
        return LayoutError(
            f"{self.shown}: its {quoted(name)} {quoted(path)} {why}, which denseport cannot carry over; if the "
            "net's forward does without it, save the state dict: torch.save(model.state_dict(), 'new.pth')"
        )

    def refuse_strangers(self) -> None:
        """Refuses modules between the stem and the classifier that no net has there, and are not of its layers.

        Raises:
            LayoutError: There is one.
        """
        last = next(reversed(self.behind.values()), self.paths.get("head.norm", ""))
        for path, node in self.tree.between(self.stem, last):
            name, own = class_of(node), any(is_within(path, each) for each in self.paths.values())
            if path in self.paths.values() or (own and node["class"].startswith(_OF_WEIGHTS)):
                continue
            if name not in _IDLE | _NOTHING and "Pool" not in name and not self._activation(path, node):
                raise self.refuse(path, "stands between the stem and the classifier")

        for first, last, what in self.borders():
            container = common_path(first, last)
            if (self.tree.node(container) or {"class": ""})["class"] in SEQUENTIAL:
                for path, node in self.tree.between(first, last):
                    is_pool = "Pool" in class_of(node) and what == "block"
                    if path.rpartition(".")[0] == container and (is_pool or self._activation(path, node)):
                        raise self.refuse(path, f"stands behind a {what}")

    def borders(self) -> Iterator[tuple[str, str, str]]:
        """The last convolution of each block and transition, the norm behind it, and which of the two it is."""
        last: dict[int, tuple[int, int, str]] = {}
        for layer, path in self.paths.items():
            if found := BLOCK_CONV.fullmatch(layer):
                block, *place = map(int, found.groups())
                last[block] = max(last.get(block, (0, 0, "")), (place[0], place[1], path))
        for block, (_, _, conv) in last.items():
            norm = self.paths.get(f"transition{block}.norm") or self.paths.get("head.norm")
            if norm:
                yield conv, norm, "block"
            behind = [self.paths.get(layer) for layer in (f"transition{block}.conv", f"block{block + 1}.layer1.norm1")]
            if behind[0] and behind[1]:
                yield behind[0], behind[1], "transition"

    def refuse_gaps(self) -> None:
        """Refuses layers that lack the activation which the others have as a module.

        Raises:
            LayoutError: There is one.
        """
        counts: dict[int, str] = {}
        for layer, path in self.paths.items():
            if layer.startswith("block") and layer.endswith(".conv1"):
                within = f"{path.rpartition('.')[0]}."
                found = [
                    self._activation(*leaf) for leaf in self.tree.leaves(within[:-1]) if leaf[0].startswith(within)
                ]
                counts.setdefault(sum(map(bool, found)), path)
        if len(counts) > 1:
            raise self.refuse(counts[min(counts)], "has fewer activations beside it than those of other layers")
        norm, first = (self.paths.get(layer, "") for layer in ("stem.norm", "block1.layer1.norm1"))
        in_order = norm and first and self.tree.runs_in_order(norm, first)
        if in_order and not any(self._activation(*leaf) for leaf in self.tree.between(norm, first)):
            raise self.refuse(norm, "has no activation behind it")

    def epsilon(self) -> dict[str, Any]:
        """The one that every normalisation of the body has."""
        found: dict[float, str] = {}
        for layer, path in self.paths.items():
            node = self.tree.node(path)
            if (
                kind(layer) == "norm"
                and not HEAD.fullmatch(layer)
                and node
                and isinstance(node["attributes"].get("eps"), float)
            ):
                found.setdefault(node["attributes"]["eps"], path)
        if len(found) > 1:
            (one, _), (other, path), *_ = found.items()
            raise self.refuse(path, f"has an epsilon of {other:g}, another has {one:g}")
        return {"epsilon": next(iter(found))} if found else {}

    def convolutions(self) -> dict[str, Any]:
        """Stride and padding of the stem; every other convolution must have those of a DenseNet."""
        traits: dict[str, Any] = {}
        for layer, path in self.paths.items():
            node = self.tree.node(path)
            if kind(layer) != "conv" or not node or "stride" not in node["attributes"]:
                continue
            attributes, is_stem = node["attributes"], layer in ("stem.conv", "stem.conv1")
            strides, padding = figures_of(node, "stride", 1), attributes.get("padding", 0)
            if is_stem and len(strides) == 1:
                traits["stem_stride"] = next(iter(strides))
            elif strides != {1}:
                raise self.refuse(path, f"has stride {attributes['stride']}")
            if figures_of(node, "dilation", 1) != {1} or attributes.get("groups", 1) != 1:
                raise self.refuse(path, "is dilated or has groups")
            if attributes.get("padding_mode", "zeros") != "zeros":
                raise self.refuse(path, f"pads with {quoted(attributes['padding_mode'])}")
            kernel, sides = set(self.kernels[layer]), figures_of(node, "padding")
            if is_stem and class_of(node).endswith("Same"):
                traits["padding"] = "same"
            elif padding == "same" or {2 * side + 1 for side in sides if isinstance(side, int)} == kernel:
                traits |= {"padding": "symmetric"} if is_stem else {}
            else:
                raise self.refuse(path, f"has a kernel of {_shown([kernel])} and padding {padding}")
        return traits

    def stem_pool(self) -> dict[str, Any]:
        """The pool between the stem and the first block."""
        stem = [path for layer, path in self.paths.items() if layer.startswith("stem.")][-1]
        block = next((path for layer, path in self.paths.items() if layer.startswith("block1.")), "")
        between = self.tree.between(stem, block)
        pools = [(path, node) for path, node in between if "Pool" in node["class"].rpartition(".")[2]]
        if not pools:
            parents = common_path(stem, block)
            idle = any(class_of(node) == "Identity" for _, node in between)
            outer = self.tree.node(parents)
            in_order = bool(outer) and outer["class"] in SEQUENTIAL  # type: ignore[index]
            return {"stem_pool": "none"} if in_order or idle else {}
        (path, node), *more = pools
        figures = [figures_of(node, name, usual) for name, usual in (("kernel_size", 0), ("stride", 0), ("padding", 0))]
        if class_of(node).startswith("MaxPool") and figures_of(node, "dilation", 1) == {1}:
            if figures == [{3}, {2}, {1}] and not more:
                self._refuse_ceil(path, node)
                return {"stem_pool": "max"}
            if figures == [{3}, {1}, {1}] and [class_of(each) for _, each in more] == ["BlurPool2d"]:
                return {"stem_pool": "max-blur"}
        raise self.refuse(path, f"stands behind the stem, with kernel, stride and padding {_shown(figures)}")

    def _refuse_ceil(self, path: str, node: Node) -> None:
        if node["attributes"].get("ceil_mode"):
            raise self.refuse(path, "rounds sizes up")

    def activations(self) -> dict[str, Any]:
        """The one activation of all layers, which those of the dense layers say."""
        blocks = [path for layer, path in self.paths.items() if layer.startswith("block")]
        inside = {".".join(path.split(".")[:-1]) for path in blocks} | set(blocks)
        found: dict[tuple[str, float | None], str] = {}
        for path, node in self.tree.leaves(common_path(*blocks) if len(blocks) > 1 else ""):
            if path.rpartition(".")[0] in inside and (activation := self._activation(path, node)):
                found.setdefault(activation, path)
        if found and {"stem.conv", "head.norm"} <= self.paths.keys():  # the stem's and the transitions'
            for path, node in self.tree.between(self.paths["stem.conv"], self.paths["head.norm"]):
                if activation := self._activation(path, node):
                    found.setdefault(activation, path)
        names = {name: path for (name, _), path in found.items()}
        slopes = {slope: path for (_, slope), path in found.items() if slope is not None}
        for different in (names, slopes):
            if len(different) > 1:
                one, other, *_ = different
                raise self.refuse(different[other], f"stands beside another activation, {one}")  # type: ignore
        if not names:
            return {}
        (name,) = names
        if name != "leaky-relu":
            return {"activation": name}
        if not slopes:
            raise self.refuse(names[name], "has no slope in the file")
        return {"activation": name, "negative_slope": next(iter(slopes))}

    def _activation(self, path: str, node: Node) -> tuple[str, float | None] | None:
        """The name of an activation and the slope of one that has it, or None for any other module."""
        name, attributes = class_of(node), node["attributes"]
        if name in _OTHER_ACTIVATIONS:
            raise self.refuse(path, "is an activation that is not known here")
        if name not in ACTIVATIONS or not node["class"].startswith(("torch.nn.", "timm.")):
            return None
        for figure, usual in _USUAL_FIGURES.get(name, {}).items():
            if attributes.get(figure, usual) != usual:
                raise self.refuse(path, f"has {figure} {attributes[figure]}")
        tanh = name == "GELU" and attributes.get("approximate") == "tanh"
        slope = attributes.get("negative_slope") if name == "LeakyReLU" else None
        return ("gelu-tanh" if tanh else ACTIVATIONS[name]), slope

    def transitions(self) -> dict[str, Any]:
        """Whether an activation stands in the transitions; their pools must halve by the mean."""
        found = set()
        for layer, norm in self.paths.items():
            if not (layer.startswith("transition") and kind(layer) == "norm"):
                continue
            conv = self.paths[layer.rpartition(".")[0] + ".conv"]
            container = self.tree.node(common_path(norm, conv))
            before = [self._activation(path, node) for path, node in self.tree.between(norm, conv)]
            if container and container["class"] in SEQUENTIAL:
                found.add("same" if any(before) else "none")
            elif any(before):
                found.add("same")
            leaves = list(self._of_transition(norm, conv))
            for path, node in leaves:
                self._check_halving(path, node)
            idle = [path for path, node in leaves if class_of(node) == "Identity" and path.endswith("pool")]
            if idle and not any("Pool" in class_of(node) for _, node in leaves):
                raise self.refuse(idle[0], "stands where a transition halves its maps")
        if len(found) > 1:
            raise self.refuse(conv, "belongs to a transition unlike the others")
        return {"transition_activation": found.pop()} if found else {}

    def _of_transition(self, norm: str, conv: str) -> Iterable[tuple[str, Node]]:
        """The modules of a transition: its own container's, or those up to the next block where it has none."""
        paths, container = list(self.paths.values()), common_path(norm, conv)
        within = container + "." if container else ""
        if all(path in (norm, conv) or not path.startswith(within) for path in paths):
            return self.tree.leaves(container)
        return self.tree.between(norm, paths[paths.index(conv) + 1])

    def _check_halving(self, path: str, node: Node) -> None:
        if "Pool" not in class_of(node):
            return
        self._refuse_ceil(path, node)
        if node["attributes"].get("divisor_override"):
            raise self.refuse(path, f"divides by {node['attributes']['divisor_override']}")
        figures = [figures_of(node, name, 0) for name in ("kernel_size", "stride", "padding")]
        halving = class_of(node).startswith("AvgPool") and figures[1:] == [{2}, {0}] and figures[0] == {2}
        if not halving:
            raise self.refuse(path, f"stands in a transition, with kernel, stride and padding {_shown(figures)}")

    def pool(self, usual: str) -> dict[str, Any]:
        """The global pool, where there is exactly one that a module makes, and the activation before it.

        Where no module makes that, the class's own code does: ReLU in every library, whatever is `usual` in the layers.
        """
        norm, classifier = self.paths.get("head.norm"), next(iter(self.behind.values()), "")
        if not norm or not classifier:
            return {}
        found, traits = set(), {}
        for path, node in self.tree.between(norm, classifier):
            name = class_of(node)
            if activation := self._activation(path, node):
                if activation[0] != usual:
                    raise self.refuse(path, f"stands behind the last normalisation, and {usual} behind the others")
                traits["final_activation"] = "relu"
            if name.startswith(("AdaptiveAvgPool", "AdaptiveMaxPool")):
                if prod(each for each in figures_of(node, "output_size", 1) if isinstance(each, int)) != 1:
                    raise self.refuse(path, f"leaves a map of {node['attributes']['output_size']}")
                found.add("max" if "Max" in name else "mean")
            elif "pool" in name.lower() or name == "GeM":
                raise self.refuse(path, "stands between the last map and the classifier")
        if not traits and self.tree.runs_in_order(norm, classifier):
            traits["final_activation"] = "none"
        elif not traits and usual != "relu":
            raise self.refuse(norm, f"has no module behind it that is a {usual} as behind the others")
        return {**traits, "head_pool": found.pop()} if len(found) == 1 else traits


def _as_layer(activation: tuple[str, float | None]) -> HeadLayer:
    name, slope = activation
    more = {} if slope is None else {"negative_slope": slope}
    return HeadLayer("activation", activation=name, **more)  # type: ignore[arg-type]


def _shown(figures: list[set[Any]]) -> str:
    return ", ".join("x".join(map(str, sorted(map(str, each)))) for each in figures)
