"""One layout held against a checkpoint: the role of each of its tensors, or what keeps them from having one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from denseport.checkpoint import Checkpoint
from denseport.errors import LayoutError, listed, misfits, quoted
from denseport.layouts import heads
from denseport.layouts.detection import Detection
from denseport.layouts.frameworks import COUNTER, Framework, Groups
from denseport.layouts.inference import head_shape, infer_config, is_possible
from denseport.layouts.numbered import canonical_by_order, in_order
from denseport.layouts.prefixes import common_path
from denseport.layouts.spec import Layout
from denseport.layouts.template import SCALE
from denseport.layouts.traits import Said, decide
from denseport.metadata import recorded_head, recorded_inputs, recorded_traits
from denseport.net.config import HIDDEN_NAMES, DenseNetConfig, HeadLayer, Hidden, Inputs, Traits
from denseport.net.graph import CLASSIFIER, Kind, head_layers, kind, layers, shapes

Shape = tuple[int, ...]
JOINED = ("mean-max", "max-mean")
# The canonical name of each layer of a file, or None where a layout has none for it.
Named = Mapping[str, str | None]


class MisfitError(LayoutError):
    """A layout that a checkpoint does not fit, and why; the message names neither.

    Attributes:
        layout: The layout.
        named: How many of the file's layers have a name in it.
        layers: How many layers the file has.
        wrong: How many keys are missing, unexpected or of another size.
    """

    def __init__(self, reason: str, layout: Layout, named: int, layers: int, wrong: int = 0) -> None:
        super().__init__(reason)
        self.layout, self.named, self.layers, self.wrong = layout, named, layers, wrong


def match(
    checkpoint: Checkpoint,
    layout: Layout,
    framework: Framework,
    groups: Groups,
    said: Said,
    *,
    drop_head: bool,
    named: Named | None = None,
) -> Detection:
    """Gives every tensor its role in one layout.

    Args:
        checkpoint: The tensors.
        layout: The layout to try.
        framework: One of the layout's frameworks.
        groups: The tensors' names as that framework divides them.
        said: Traits that the file's description of its net states, and the user; see `traits.decide`.
        drop_head: Whether dense layers beside the body may be left out.
        named: The canonical names of the layers, where they are known otherwise than by the layout.

    Raises:
        MisfitError: They do not all have one, or are those of no DenseNet.
        LayoutError: The traits that the file recorded make no sense.
    """
    failed: list[MisfitError] = []
    for naming in [named] if named else namings(checkpoint, layout, framework, groups):
        try:
            return Matching(checkpoint, layout, framework, naming).detection(groups, said, drop_head)
        except MisfitError as misfit:
            failed.append(misfit)
    raise max(failed, key=lambda misfit: misfit.named)


def namings(checkpoint: Checkpoint, layout: Layout, framework: Framework, groups: Groups) -> list[Named]:
    """The ways in which a layout may name the layers of a checkpoint."""
    if not layout.numbered and not checkpoint.nameless:
        return [{layer: spelling.canonical(layer) for layer in groups} for spelling in layout.spellings]
    named = 0
    try:
        by_kind = in_order(checkpoint, groups, framework, layout.numbered.get("stem", ("",))[0])
        named = len(groups)
        return [canonical_by_order(by_kind)]
    except LayoutError as error:
        raise MisfitError(f"its layers go by their order, and {error}", layout, named, len(groups)) from None


@dataclass
class Matching:
    """The canonical names that a layout gives to a checkpoint's layers, on the way to a `Detection`.

    `roles`, `dropped`, `head` and `reading` are those of the `Detection`; `strangers` are the tensors without a role,
    by layer.
    """

    checkpoint: Checkpoint
    layout: Layout
    framework: Framework
    named: Named
    roles: dict[str, str] = field(default_factory=dict)
    strangers: dict[str, dict[str, str]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    head: str = ""
    reading: list[str] = field(default_factory=list)

    def detection(self, groups: Groups, said: Said, drop_head: bool) -> Detection:
        """Roles, then shapes, the architecture, a head of another name, traits, and what is wrong with all that."""
        stranger = self.misfit("")
        if stranger.named * 2 < stranger.layers:
            raise stranger
        self.give_roles(groups)
        self.refuse_impossible_shapes()
        config = self.architecture()
        file = self.checkpoint
        recorded, earlier = recorded_traits(file.metadata, self.layout.name, file.label, Traits)
        traits = decide(self.layout, config, {**said, "metadata": recorded, "earlier": earlier})
        config = config.replace(traits=Traits(**{name: trait.value for name, trait in traits.items()}))
        config = self.take_head(groups, config, said)
        if drop_head and config.num_classes is None:
            self.drop_strangers()
        config = self.with_pools(config, unstated=traits["head_pool"].origin in ("layout", "usual"))
        config = self.with_recorded_inputs(config)
        expected = self.expected(config)
        self.refuse_problems(config, expected)
        return Detection(
            layout=self.layout,
            framework=self.framework,
            config=config,
            origins={name: trait.origin for name, trait in traits.items()},
            roles={role: self.roles[role] for role in expected},
            dropped=tuple(self.dropped),
            head=self.head,
            reading=() if drop_head else tuple(self.reading),
        )

    def with_recorded_inputs(self, config: DenseNetConfig) -> DenseNetConfig:
        """The net with what an earlier conversion recorded of its inputs."""
        file = self.checkpoint
        recorded = recorded_inputs(
            file.metadata,
            self.layout.name,
            file.label,
            lambda plain: config.replace(inputs=Inputs.from_dict(plain)),
        )
        return recorded or config

    def give_roles(self, groups: Groups) -> None:
        """Gives each tensor its role by the canonical name of its layer; those that have none become strangers."""
        for layer, parameters in groups.items():
            canonical = self.named[layer]
            of = kind(canonical or "")
            for parameter, name in parameters.items():
                canonical_parameter = self.framework.canonical_parameter(of, parameter) if canonical else None
                role = f"{canonical}.{canonical_parameter}"
                if canonical_parameter and role not in self.roles:
                    self.roles[role] = name
                elif canonical_parameter:
                    raise self.misfit(f"{quoted(name)} stands for {role} a second time")
                elif name.rpartition(".")[2] in self.layout.extra:
                    self.dropped.append(name)
                else:
                    self.strangers.setdefault(layer, {})[parameter] = name

    def refuse_impossible_shapes(self) -> None:
        """Refuses kernels and scales of a rank that no such layer has, from which nothing can be told."""
        if impossible := [name for role, name in self.roles.items() if not is_possible(role, self.shape(role, name))]:
            found = listed((f"{name} {self.checkpoint.tensors[name].shape}" for name in impossible), width=200)
            raise self.misfit(f"size mismatch for {found}, which no such layer has", len(impossible))

    def architecture(self) -> DenseNetConfig:
        """The configuration that names and shapes describe, with default traits."""
        found = {role: self.shape(role, name) for role, name in self.roles.items() if not role.endswith(COUNTER)}
        first = ("stem.conv.weight", "stem.conv1.weight")
        if not any(role in found for role in first):  # so that all else that is missing can be named with it
            found = {first["stem.conv2.weight" in found]: (1, 3, 7, 7), **found}
        try:
            return infer_config(found, self.layout.architecture)
        except LayoutError as error:
            raise self.misfit(str(error)) from None

    def take_head(self, groups: Groups, config: DenseNetConfig, said: Said) -> DenseNetConfig:
        """Gives the layers that are left over their roles in a head, where they are such; the net with that head."""
        file = self.checkpoint
        stated = {name: value for name, value in said.get("option", {}).items() if name in HIDDEN_NAMES}
        hidden = Hidden(**{"hidden_epsilon": self.framework.epsilon, **stated})
        recorded = recorded_head(file.metadata, self.layout.name, file.label, HeadLayer)
        head = heads.read(
            [heads.as_layer(layer, groups[layer], file.tensors, self.framework) for layer in self.of_head],
            config,
            hidden,
            self.framework,
            recorded=recorded,
            ordered=file.format == "pth" or file.container.endswith("legacy h5"),
        )
        if head is None or not self.strangers or (head.layers and self.stand_in_the_body(head)):
            return config
        if not head.layers or not all(self.is_below_classifier(layer) for layer in self.strangers):
            self.head = listed(self.strangers)
        self.roles = {role: name for role, name in self.roles.items() if not role.startswith(f"{CLASSIFIER}.")}
        for canonical, layer in head.of_file.items():
            self.roles |= {f"{canonical}.{parameter}": name for parameter, name in layer.parameters.items()}
        self.strangers.clear()
        if head.layers and not recorded:
            self.reading.append(heads.told(head, hidden, stated))
        return config.replace(num_classes=head.classes, classifier_bias=head.bias, head_layers=head.layers)

    def with_pools(self, config: DenseNetConfig, *, unstated: bool) -> DenseNetConfig:
        """The net whose head takes as many features as this one's: those of a pool, of two joined, or of a whole map.

        Where nothing states the pool, two are taken to be joined where that fits, whichever comes first.
        """
        if config.num_classes is None:
            return config
        kinds = {layer.name: layer.kind for layer in layers(config) if layer.name.startswith("head.")}
        first = next(layer for layer, of in kinds.items() if layer != "head.norm")
        entering = self.shape(f"{first}.weight", self.roles[f"{first}.weight"])[-1]
        joined = config.traits.head_pool in JOINED
        if unstated and entering == 2 * config.features:
            return config.replace(head_shape=(), head_pool="mean-max")
        return config.replace(head_shape=() if joined else head_shape(entering, config))

    @property
    def of_head(self) -> list[str]:
        """The layers that may be those of a head, in the order of the file."""
        return [layer for layer, role in self.named.items() if layer in self.strangers or role == CLASSIFIER]

    def stand_in_the_body(self, head: heads.Head) -> bool:
        """Whether some layers of a head, and not all, are named within what holds the blocks: they run among those."""
        within = common_path([layer for layer, role in self.named.items() if role and role.startswith("block")])
        inside = [layer.name.startswith(within) for layer in head.of_file.values()]
        return bool(within) and any(inside) and not all(inside)

    def is_below_classifier(self, layer: str) -> bool:
        """Whether a layer is named below what the layout calls the classifier, as a child of an `nn.Sequential` is."""
        parent = f".{layer}".rpartition(".")[0]
        return any(parent.endswith(f".{name.text}") for name in self.layout.names.get(CLASSIFIER, ()))

    def drop_strangers(self) -> None:
        """Leaves out the layers without a role that can belong to a head."""
        for layer, parameters in list(self.strangers.items()):
            if self.have_no_kernel(parameters.values()):
                self.dropped += self.strangers.pop(layer).values()

    def expected(self, config: DenseNetConfig) -> dict[str, Shape]:
        """The canonical shape of every tensor that must have a role."""
        tensors, of_head = dict(shapes(config)), head_layers(config)
        for layer in layers(config):
            if layer.kind == "norm" and self.layout.scales and layer.name not in of_head:
                tensors |= {f"{layer.name}{SCALE}.{each}": layer.shapes[each] for each in ("weight", "bias")}
        norms = [role.rpartition(".")[0] for role in self.roles if role.endswith(COUNTER)]
        return {**tensors, **{f"{norm}.{COUNTER}": () for norm in norms if f"{norm}.weight" in tensors}}

    def refuse_problems(self, config: DenseNetConfig, expected: Mapping[str, Shape]) -> None:
        """Names every tensor that is missing, unexpected, or of another size or kind, all at once."""
        tensors = self.checkpoint.tensors
        spelled = {
            self.roles.get(role) or self.spelled(role, config): self.native_shape(role, shape)
            for role, shape in expected.items()
        }
        strangers = [name for parameters in self.strangers.values() for name in parameters.values()]
        given = {name: tensors[name].shape for name in (*self.roles.values(), *strangers)}
        problems = misfits(given, spelled)
        only_strangers = bool(strangers) and given.keys() - spelled.keys() == set(strangers)
        if only_strangers and config.num_classes is None and self.have_no_kernel(strangers):
            problems.append("what is unexpected may be a head, which --head drop leaves out")
        kinds = {role: tensors[name].dtype.kind for role, name in self.roles.items()}
        if odd := [self.roles[role] for role, of in kinds.items() if role.endswith(COUNTER) and of not in "iu"]:
            problems.append(f"step counters that are no whole numbers: {listed(odd)}")
        if whole := [self.roles[role] for role in shapes(config) if kinds.get(role, "f") in "iub"]:
            problems.append(f"whole numbers where weights should be: {listed(whole)}")
        if problems:
            wrong = [name for name in given.keys() | spelled.keys() if given.get(name) != spelled.get(name)]
            raise self.misfit("; ".join(problems), len(wrong))
        if self.checkpoint.nameless and self.layout.nameless and (reason := self.layout.cannot_build(config)):
            raise self.misfit(reason)

    def shape(self, role: str, name: str) -> Shape:
        """The canonical shape that a tensor has in a role; a dense layer may be a convolution of 1x1."""
        return heads.without_window(
            self.framework.canonical_shape(_kind_of(role), self.checkpoint.tensors[name].shape), _kind_of(role)
        )

    def native_shape(self, role: str, shape: Shape) -> Shape:
        """The shape that a tensor must have in the file, where a dense layer may be a convolution of 1x1."""
        of, name = _kind_of(role), self.roles.get(role)
        rank = len(self.checkpoint.tensors[name].shape) if name else 0
        if of == "dense" and rank > len(shape) > 1:
            return self.framework.native_shape("conv", (*shape, *[1] * (rank - 2)))
        return self.framework.native_shape(of, shape)

    def have_no_kernel(self, names: Iterable[str]) -> bool:
        """Whether none of the tensors is a convolution's."""
        return all(len(self.checkpoint.tensors[name].shape) < 3 for name in names)

    def spelled(self, role: str, config: DenseNetConfig) -> str:
        """What the layout calls a canonical tensor that is missing; the role where it has no name for it."""
        layer, _, parameter = role.rpartition(".")
        try:
            own = self.layout.layer_names(config).get(layer) if layer in head_layers(config) else None
            name = self.framework.spell(own or self.layout.spelling(config).layer(layer), kind(layer), parameter)
        except LayoutError:
            name = role
        while name in self.checkpoint.tensors:  # a tensor that has another role, or a stranger
            name = f"{name} ({role})"
        return name

    def misfit(self, reason: str, wrong: int = 0) -> MisfitError:
        """The error that says why the layout does not fit."""
        known = sum(canonical is not None for canonical in self.named.values())
        return MisfitError(reason, self.layout, known, len(self.named), wrong)


def _kind_of(role: str) -> Kind:
    return kind(role.rpartition(".")[0])
