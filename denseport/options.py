"""Every option, once: its type, default, bounds and help. The command line, library calls and manifests read it here.

The options of a command are a `TypedDict` whose entries are `Annotated[type, Option(...)]`, so that editors and mypy
know them too: `def convert(src, dst, **options: Unpack[Converting])`.
"""

from __future__ import annotations

import dataclasses
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, TypedDict, TypeVar, cast, get_args, get_origin, get_type_hints

from denseport import formats
from denseport.errors import LayoutError, UsageError, quoted
from denseport.net.config import trait_values
from denseport.preprocessing import PREPROCESSING, Preprocessing
from denseport.requirements import BACKENDS
from denseport.running.libraries import LIBRARIES

# The layout that is written by default, by the framework that a format is native to.
DEFAULT_LAYOUT = {"torch": "torchvision", "keras": "keras-applications"}
TOLERANCE, EXACT_TOLERANCE = 1e-5, 1e-10
_LAYOUTS = "{torch}, or {keras} for h5 and keras; denseport where these cannot express the net".format(**DEFAULT_LAYOUT)
_TOLERANCES = f"{TOLERANCE:g}, with --exact {EXACT_TOLERANCE:g}"

Dtype = Literal["keep", "float32", "float16", "bfloat16"]
Framework = Literal["torch", "keras"]
Head = Literal["keep", "drop"]
LayoutOrFile = str | Path | None
Table = TypeVar("Table", bound=Mapping[str, object])


@dataclass(frozen=True)
class Option:
    """What is known of an option.

    Attributes:
        default: Its value where none is given.
        help: What it means.
        usual: What happens by default, where `default` does not say it.
        choices: The texts that it can be; for a `Literal` they need not be given.
        pattern: What a text must match; `metavar` says it to people.
        least: The smallest number that it can be; `most` the largest, or None.
        metavar: What help calls its value; for numbers it need not be given.
        spelling: What the command line calls it, where that is not its name with hyphens.
        file_suffix: What its value ends in where it names a file or folder; None where it never does.
        verifies: Whether it asks for something of the comparison of outputs, and means nothing without one.
        name: Its name in Python and in manifests; like `types`, known from its entry in a table.
        types: What its value can be: first `str`, `int`, `float`, `bool`, `Path`, `tuple` for a list of names, or
            `dict` for a table of traits, which may be a list of texts NAME=VALUE as well.
    """

    default: Any
    help: str
    usual: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    least: int = 0
    most: int | None = None
    metavar: str | None = None
    spelling: str = ""
    file_suffix: str | None = None
    verifies: bool = False
    name: str = ""
    types: tuple[type, ...] = ()

    @property
    def spelled(self) -> str:
        """What the command line calls it."""
        name = self.name.replace("_", "-")
        return self.spelling or (f"--{name}/--no-{name}" if self.default is True else f"--{name}")

    @property
    def wanted(self) -> str:
        """What its values are, in words."""
        text = f"one of {', '.join(self.choices)}" if self.choices else self.metavar or "a text"
        bounds = f"of {self.least:,} or more" if self.most is None else f"from {self.least:,} to {self.most:,}"
        words: dict[type, str] = {bool: "true or false", int: f"a whole number {bounds}", float: f"a number {bounds}"}
        lists: dict[type, str] = {
            tuple: f"a list of names, each {text}",
            dict: f"a table of traits, or a list of {text}",
        }
        return {**lists, **words}.get(self.types[0], text)

    def accepts(self, value: object) -> bool:
        """Whether it can have this value."""
        kind = self.types[0]
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            fitting = kind is float or (kind is int and isinstance(value, numbers.Integral))
            number: Any = value
            return fitting and number >= self.least and (self.most is None or number <= self.most)
        if kind is tuple and isinstance(value, list | tuple):
            return all(isinstance(name, str) and name in self.choices for name in value)
        if kind is dict and isinstance(value, list | tuple):
            return all(isinstance(text, str) and "=" in text for text in value)
        if isinstance(value, str) and str in self.types:
            return bool(value in self.choices if self.choices else re.fullmatch(self.pattern or "(?s:.*)", value))
        return isinstance(value, self.types) and isinstance(value, bool) is (kind is bool)


def _format(of: str, usual: str, spelling: str) -> Option:
    return Option(None, f"Format of {of}.", usual, formats.NAMES, spelling=spelling)


def _layout(of: str, usual: str = "detected") -> Option:
    return Option(None, f"Layout of {of}.", usual, metavar="NAME|FILE.toml", file_suffix=".toml")


def _device(what: str) -> Option:
    return Option("auto", what, pattern=r"auto|cpu|cuda(:\d{1,3})?", metavar="auto|cpu|cuda|cuda:N")


def _preprocessing(usual: str, verifies: bool = False) -> Option:
    return Option(None, "How images are prepared.", usual, tuple(PREPROCESSING), verifies=verifies)


class Comparing(TypedDict, total=False):
    """How the outputs of two files are compared."""

    device: Annotated[str, _device("Where both frameworks run; auto takes CUDA where both can use it.")]
    tolerance: Annotated[float | None, Option(None, "Largest relative error that passes.", _TOLERANCES, most=1)]
    exact: Annotated[bool, Option(False, "Compute in float64, where a right mapping agrees to 1e-13.", verifies=True)]
    inputs: Annotated[
        str | Path | None,
        Option(
            None,
            "Images to compare on: an image, a folder, or npz with `images` (N, H, W, C) and perhaps `labels` (N,).",
            "noise of three sizes",
            metavar="FILE|FOLDER",
            file_suffix="",
            verifies=True,
        ),
    ]
    preprocess: Annotated[
        str | None, _preprocessing("image files as the first file's layout says, arrays not at all", verifies=True)
    ]
    against: Annotated[
        Sequence[str],
        Option(
            (),
            "Run the file of that library's framework by the library's model and loader; one for each framework.",
            choices=tuple(LIBRARIES),
            verifies=True,
        ),
    ]
    keras_backend: Annotated[
        str | None, Option(None, "The backend of Keras.", "KERAS_BACKEND, or tensorflow", BACKENDS)
    ]
    allow_tf32: Annotated[bool, Option(False, "Let a GPU compute in TF32.")]
    train_steps: Annotated[int, Option(0, "Compare N steps of training as well.", most=1000, verifies=True)]


def _net(of: str) -> Option:
    return Option(
        None,
        f"Which net in {of}, by its path, which `denseport inspect` lists; `.` for the top.",
        "the only one",
        metavar="PATH",
    )


class Reading(TypedDict, total=False):
    """What a user says of the net in a file that is read."""

    traits: Annotated[
        Mapping[str, Any],
        Option(
            {},
            "State a trait of the net, such as epsilon=1e-3; the file must not say otherwise.",
            "as the file states, its weights show, or else its layout has it",
            metavar="NAME=VALUE",
            spelling="--trait",
        ),
    ]


class Writing(Reading, total=False):
    """What a conversion reads, and what it writes."""

    from_format: Annotated[str | None, _format("SRC", "by its content", "--from")]
    to_format: Annotated[str | None, _format("DST", "by its suffix", "--to")]
    from_layout: Annotated[LayoutOrFile, _layout("SRC")]
    net: Annotated[str | None, _net("SRC")]
    to_layout: Annotated[LayoutOrFile, _layout("DST", _LAYOUTS)]
    head: Annotated[Head, Option("keep", "Keep the classifier, or drop it.")]
    classes: Annotated[
        int | None, Option(None, "Replace the classifier by one of N zero outputs.", least=1, most=10**6)
    ]
    allow_trait_mismatch: Annotated[
        bool, Option(False, "Convert even where the target layout computes something else with the same weights.")
    ]
    compensate_epsilon: Annotated[
        bool, Option(False, "Where epsilons differ, move the difference into the running variances.")
    ]
    fold_inputs: Annotated[
        bool,
        Option(
            False, "Multiply the stem's kernel by what the net multiplies its image by, so that it takes the raw one."
        ),
    ]
    allow_nonfinite: Annotated[bool, Option(False, "Accept NaN, Inf and negative running variances.")]
    dtype: Annotated[Dtype, Option("keep", "Keep the dtype, or round every tensor to this one.")]
    verify: Annotated[bool, Option(True, "Run both frameworks and compare their outputs.")]


class Converting(Writing, Comparing, total=False):
    """What `denseport.convert` takes, and a row of a manifest."""


class Differing(Reading, total=False):
    """What `denseport.diff` takes; what is said of the net is said of both files."""

    net_a: Annotated[str | None, _net("A")]
    net_b: Annotated[str | None, _net("B")]


class Verifying(Differing, Comparing, total=False):
    """What `denseport.verify` takes; what is said of the net is said of both files."""

    layout_a: Annotated[LayoutOrFile, _layout("A")]
    layout_b: Annotated[LayoutOrFile, _layout("B")]
    head: Annotated[Head, Option("keep", "Compare with the classifier, or pooled features.")]


class Deriving(Reading, total=False):
    """What `denseport.derive` takes."""

    net: Annotated[str | None, _net("FILE")]
    head: Annotated[Head, Option("keep", "Keep the classifier, or drop what stands beside the body.")]


class Inspecting(Reading, total=False):
    """What `denseport.inspect` takes."""

    net: Annotated[str | None, _net("FILE")]
    layout: Annotated[LayoutOrFile, _layout("FILE")]


class Predicting(Inspecting, total=False):
    """What `denseport.predict` takes."""

    framework: Annotated[Framework, Option("torch", "What runs the net.")]
    top: Annotated[int, Option(5, "How many classes to print of each image.", least=1)]
    preprocess: Annotated[
        str | Preprocessing | None, _preprocessing("pictures as the preset, the metadata or the layout says")
    ]
    classes: Annotated[
        str | Path | None,
        Option(
            None,
            "The classes' names, one a line.",
            "the preset's",
            metavar="imagenet-1k|FILE",
            spelling="--classes-file",
        ),
    ]
    device: Annotated[str, _device("Where the net runs.")]


class Migrating(Converting, total=False):
    """What `denseport.migrate` takes."""

    force: Annotated[bool, Option(False, "Replace targets that no migration has written, or that were changed since.")]
    jobs: Annotated[int, Option(1, "How many files to convert at a time.", least=1)]
    scheduler: Annotated[
        str | None, Option(None, "Let a Dask cluster do it, such as tcp://host:8786.", metavar="ADDRESS")
    ]


@cache
def options_of(table: type) -> Mapping[str, Option]:
    """A table's options by their names."""
    found = {}
    for name, annotated in get_type_hints(table, include_extras=True).items():
        hint, option = get_args(annotated)
        members = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        choices = get_args(hint) if get_origin(hint) is Literal else option.choices
        origins = {Literal: str, Sequence: tuple, Mapping: dict}
        types = tuple(origins.get(get_origin(member), member) for member in members)
        metavar = option.metavar or {int: "N", float: "NUMBER"}.get(types[0])
        found[name] = dataclasses.replace(option, name=name, types=types, choices=choices, metavar=metavar)
    return MappingProxyType(found)


def checked(table: type[Table], given: Mapping[str, Any], where: str = "") -> Table:
    """All options of a table: those that are given, checked, and the defaults of the others.

    Raises:
        UsageError: As for `valid`.
    """
    defaults = {name: option.default for name, option in options_of(table).items()}
    return cast(Table, defaults | valid(table, given, where))


def valid(table: type, given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The options that are given, checked; paths become texts and lists tuples.

    Raises:
        UsageError: There is no such option, or its value is of another kind, out of bounds, or none of the choices.
            The message begins with `where`, and says what can be there.
    """
    known, place = options_of(table), f"{where}: " if where else ""
    found = {}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{place}{quoted(name)} is no option; known: {', '.join(known)}")
        option = known[name]
        if not option.accepts(value):
            raise UsageError(f"{place}{name} must be {option.wanted}, not {_shown(value)}")
        if option.types[0] is dict:
            found[name] = _table(option, value, place)
        else:
            found[name] = option.types[0](value) if isinstance(value, Path | list) else value
    return found


def _table(option: Option, value: Any, place: str) -> dict[str, Any]:
    """Traits by name, from a table of them or from texts NAME=VALUE."""
    pairs = list(value.items()) if isinstance(value, Mapping) else [text.split("=", 1) for text in value]
    if twice := [name for n, (name, _) in enumerate(pairs) if name in dict(pairs[:n])]:
        raise UsageError(f"{place}{option.spelled} {twice[0]} is given twice; give it once")
    try:
        return trait_values(dict(pairs))
    except LayoutError as error:
        raise UsageError(f"{place}{option.spelled}: {error}") from None


def parsed(table: type, texts: Mapping[str, str], where: str = "") -> dict[str, Any]:
    """The same of options as texts, such as a CSV file has: a list has spaces between its names, "" is not given.

    Raises:
        UsageError: As for `valid`.
    """
    known = options_of(table)
    given = {name: _value(known[name], text) if name in known else text for name, text in texts.items()}
    return valid(table, {name: value for name, value in given.items() if value != "" or name not in known}, where)


def _value(option: Option, text: str) -> object:
    """What a text says; the text itself where it says nothing of the option's kind."""
    kind = option.types[0]
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return text.split() if kind in (tuple, dict) else kind(text)
    except ValueError:
        return text


def without_defaults(table: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say something else than what holds anyway."""
    return {name: value for name, value in given.items() if value != options_of(table)[name].default}


def among(table: type[Table], given: Mapping[str, Any]) -> Table:
    """The options of one table out of those of a larger one."""
    return cast(Table, {name: given[name] for name in options_of(table) if name in given})


def needing_verify(given: Mapping[str, Any]) -> list[str]:
    """The names of those of a conversion's options that ask for something of the comparison of outputs."""
    return [name for name in without_defaults(Converting, given) if options_of(Converting)[name].verifies]


def files_named(table: type, given: Mapping[str, Any]) -> dict[str, str]:
    """The files and folders that options name, by the options' names."""
    suffixes = {name: option.file_suffix for name, option in options_of(table).items()}
    texts = {name: str(value) for name, value in given.items() if value is not None and suffixes[name] is not None}
    return {name: text for name, text in texts.items() if text.endswith(suffixes[name] or "")}


def _shown(value: object) -> str:
    try:
        return quoted(repr(value))
    except ValueError:
        return "a number of thousands of digits"  # which Python does not print
