"""A file that is opened, recognised and hashed once, whatever is then done with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from denseport import formats, layouts
from denseport.background import in_background
from denseport.checkpoint import Checkpoint
from denseport.errors import FormatError, UsageError, listed
from denseport.layouts import descriptions, epsilon
from denseport.metadata import ASSUMED, recorded_preprocessing
from denseport.net.config import DenseNetConfig
from denseport.options import Head
from denseport.preprocessing import PREPROCESSING, Preprocessing, find_preprocessing, takes_unit_pixels
from denseport.presets import resolve

if TYPE_CHECKING:
    from denseport.presets import Preset


class Source:
    """A file with a DenseNet's weights: a context manager that opens and closes it.

    Attributes:
        path: Where it lies.
        shown: What messages call it.
        preset: The preset whose file it is, or None.
        head: Whether its classifier takes part.
        net: The path of the net that is meant, where it holds several.
        traits: Those that the user states of its net.
        checkpoint: Its tensors under the names that they have there, and what else it says.

    Raises:
        UsageError: There is no such file.
        FormatError: It is broken, hostile, of no known format, or not of `format`.
    """

    checkpoint: Checkpoint

    def __init__(
        self,
        path: Path,
        layout: str | Path | None = None,
        *,
        format: str | None = None,  # noqa: A002 - the option's name
        head: Head = "keep",
        net: str | None = None,
        traits: Mapping[str, Any] = MappingProxyType({}),
        shown: str | Path | None = None,
        preset: Preset | None = None,
    ) -> None:
        self.path = path
        self.shown = shown or path
        self.preset = preset
        self.head = head
        self.net = net
        self.traits = traits
        self._layout = layout or (preset.layout if preset else None)
        self._format = format
        self._identity = _identity(path)
        self._closing = ExitStack()
        self._hash: Future[str] | None = None

    @classmethod
    def named(
        cls,
        name: str | Path,
        layout: str | Path | None = None,
        *,
        format: str | None = None,  # noqa: A002 - the option's name
        head: Head = "keep",
        net: str | None = None,
        traits: Mapping[str, Any] = MappingProxyType({}),
        shown: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """A file, or that of a preset, which is downloaded where it is not in the cache.

        Raises:
            DownloadError: The preset cannot be had.
        """
        path, preset = resolve(name, progress=progress)
        return cls(path, layout, format=format, head=head, net=net, traits=traits, shown=shown, preset=preset)

    def __enter__(self) -> Self:
        checkpoint = descriptions.recorded(formats.read(self.path, self._format, self.shown))
        self.checkpoint = self._closing.enter_context(checkpoint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    @cached_property
    def detection(self) -> layouts.Detection:
        """Its layout, its architecture, and the role of each tensor.

        Raises:
            LayoutError: No layout fits, or several do; there are several nets; or `traits` contradict what the file
                states.
        """
        return layouts.detect(self.checkpoint, self._layout, head=self.head, net=self.net, traits=self.traits)

    @cached_property
    def weights(self) -> layouts.Weights:
        """Its weights by canonical name, without the classifier where that takes no part; nothing of them is read.

        Raises:
            LayoutError: As for `detection`, or its step counters are no numbers.
        """
        weights = layouts.to_canonical(self.checkpoint, self.detection)
        return weights.without_head() if self.head == "drop" else weights

    def number_head_like(self, other: DenseNetConfig) -> None:
        """Counts dropout among the layers of its head where another net does, so that layers have the same names."""
        self.detection = self.detection.numbered_like(other)
        self.__dict__.pop("weights", None)

    @cached_property
    def suspicion(self) -> layouts.Suspicion:
        """The tensors with suspicious values, for which every one is read."""
        return layouts.suspicious(self.weights)

    @cached_property
    def undecided(self) -> str:
        """What nothing states of its net though the outputs depend on it, and what to do, or ""."""
        epsilons = self._epsilons
        if not epsilons or epsilon.effect(self.weights, *epsilons) <= epsilon.IMMATERIAL:
            return ""
        own, default = epsilons
        return (
            f"its layers have Keras' numbers for names, and nothing states their epsilon: {default} is Keras' default, "
            f"{own} that of layout {self.detection.layout.name}, and the outputs differ; state it, as with "
            f"--trait epsilon={default} or --trait epsilon={own}"
        )

    def require_decided(self) -> None:
        """Raises UsageError where something is `undecided`."""
        if self.undecided:
            raise UsageError(f"{self.shown}: {self.undecided}")

    @property
    def _epsilons(self) -> tuple[float, ...]:
        """Those that its net may have where nothing states one; a user who names the layout has chosen."""
        return () if self._layout else epsilon.in_question(self.detection)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how its net was found."""
        notes = [*(self.preset.notes if self.preset else ()), *self.detection.notes(self.checkpoint)]
        if self._epsilons and not self.undecided:
            told = " or ".join(map(str, self._epsilons))
            notes.append(
                f"epsilon may be {told}, which nothing states: these running variances are so large that it "
                "does not matter"
            )
        return tuple(notes)

    @property
    def unsound(self) -> str:
        """Why its weights are not converted as they are, and what to do, or ""."""
        faults = {"NaN or Inf": self.suspicion.nonfinite, "negative variances": self.suspicion.negative_variance}
        found = [f"{fault} in {listed(names)}" for fault, names in faults.items() if names]
        return f"{found[0]}; mend the weights, or give --allow-nonfinite" if found else ""

    @property
    def preprocessing(self) -> Preprocessing:
        """How its images are prepared, as the preset has it, or else its metadata, its weights or its layout.

        Pixels are from 0 to 255, or are brought to 0 to 1 where the figures of a net's own inputs, or those that its
        metadata have, tell that these are meant.

        Raises:
            FormatError: Its metadata hold something else than a preprocessing.
        """
        if self.preset:
            return self.preset.preprocessing
        recorded = recorded_preprocessing(self.checkpoint.metadata, self.shown)
        if inputs := self.detection.config.inputs:
            usual = "keras-cv" if takes_unit_pixels(inputs.scale, inputs.offset) else "none"
        else:
            usual = self.checkpoint.metadata.get(ASSUMED, "")
            usual = usual if usual in PREPROCESSING else self.detection.layout.preprocessing
            if (evidence := self.detection.evidence) and evidence.inputs and evidence.inputs.are_pixels:
                usual = "none"
        return recorded.of_pixels() if recorded else find_preprocessing(usual)

    def hash_in_background(self) -> None:
        """Starts to hash the file, which is done once.

        Raises:
            UsageError: The system starts no more threads.
        """
        self._hash = self._hash or self._closing.enter_context(in_background(sha256, self.path, self.shown))

    @cached_property
    def sha256(self) -> str:
        """The hash of its content, as `denseport.source.sha256` has it."""
        return self._hash.result() if self._hash else sha256(self.path, self.shown)

    def check_unchanged(self) -> None:
        """Raises FormatError where the file has been replaced or written to since it was opened."""
        if _identity(self.path) != self._identity:
            raise FormatError(f"{self.shown}: changed while it was read; run it again")


def sha256(path: Path, shown: str | Path | None = None) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits; of a folder, that of its weights, file behind file.

    Raises:
        UsageError: The file cannot be read; the message calls it `shown`, where that is given.
    """
    digest = hashlib.sha256()
    try:
        for each in formats.files(path):
            with each.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
    except OSError as error:
        raise UsageError(f"{shown or path}: cannot be read ({error.strerror}); check the path and the disk") from None
    return digest.hexdigest()


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written to; nothing where it is gone."""
    try:
        every = [file.stat() for file in formats.files(path)]
    except (OSError, UsageError):
        return ()
    return tuple(figure for status in every for figure in (status.st_ino, status.st_size, status.st_mtime_ns))
