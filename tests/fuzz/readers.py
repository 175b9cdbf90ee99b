"""The readers that are fuzzed: with which files each begins, how those are changed, and what must hold."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from fuzz import edits, seeds
from fuzz.properties import hold_for_images, hold_for_layouts, hold_for_weights

Edit = Callable[[bytes, Random, Sequence[bytes]], bytes]


@dataclass(frozen=True)
class Reader:
    """One reader: `edits` are the ways of changing its files, `hold` raises where a file breaks a property."""

    name: str
    suffix: str
    edits: tuple[Edit, ...]
    hold: Callable[[Path], bool] = hold_for_weights

    @property
    def seeds(self) -> list[bytes]:
        """Small valid files."""
        return {"layout": seeds.of_layouts, "npz": seeds.of_images}.get(self.name, lambda: _weights()[self.name])()

    def changed(self, data: bytes, chance: Random) -> bytes:
        """The file with some changes."""
        return chance.choice(self.edits)(data, chance, self.seeds)


@cache
def _weights() -> dict[str, list[bytes]]:
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as folder:
        return seeds.of_weights(Path(folder))


def _pickle(name: str, content: bytes, chance: Random) -> bytes:
    return chance.choice((edits.pickles, edits.pickles, edits.blind) if name.endswith(".pkl") else (edits.blind,))(
        content, chance, ()
    )


def _keras(name: str, content: bytes, chance: Random) -> bytes:
    ways = (edits.resealed, edits.blind) if name.endswith(".h5") else (edits.json_values, edits.blind)
    return chance.choice(ways)(content, chance, ())


def _npy(name: str, content: bytes, chance: Random) -> bytes:
    return chance.choice((edits.npy_header, edits.blind) if name.endswith(".npy") else (edits.blind,))(
        content, chance, ()
    )


READERS = {
    reader.name: reader
    for reader in (
        Reader("pth", ".pth", (edits.blind, edits.inside_zip(_pickle), edits.inside_zip(_pickle))),
        Reader("legacy-pth", ".pth", (edits.blind, edits.pickles)),
        Reader("h5", ".h5", (edits.blind, edits.resealed)),
        Reader("keras-weights", ".weights.h5", (edits.blind, edits.resealed)),
        Reader("keras", ".keras", (edits.blind, edits.inside_zip(_keras), edits.inside_zip(_keras))),
        Reader("safetensors", ".safetensors", (edits.blind, edits.safetensors_header)),
        Reader("npz", ".npz", (edits.blind, edits.inside_zip(_npy), edits.inside_zip(_npy)), hold_for_images),
        Reader("layout", ".toml", (edits.blind, edits.json_values), hold_for_layouts),
    )
}
