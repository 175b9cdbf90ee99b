"""Random changes to bytes: blind ones, and such as know pickles, zip archives, HDF5's checksums or JSON.

Every choice comes from the `random.Random` that the caller gives, so that hypothesis may make the choices and shrink
them, and atheris may repeat them.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

from denseport.errors import FormatError
from denseport.formats import hdf5
from denseport.formats.hdf5.file import lookup3

BOUNDARIES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 20, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 40)
BOUNDARIES += (1 << 61, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1)
NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")
JSON_VALUES = (b"-1", b"0", b"1e400", b"9" * 30, b"true", b"null", b"[]", b"{}", b'"x"', b"NaN", b"4294967296", b"0.5")
# What zipfile raises for archives that it cannot read.
UNREADABLE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError, ValueError, OSError)
UNREADABLE += (struct.error, KeyError, IndexError, OverflowError, MemoryError)


def blind(data: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
    """One to four changes that know nothing of the format; `others` are files to take parts from."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = chance.choice(BLIND)(bytearray(data or b"\0"), chance, others)
    return data


def pickles(data: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
    """Instructions of the pickles at the start of `data` left out, repeated, exchanged or with other arguments."""
    parts, rest = _instructions(data)
    if not parts:
        return blind(data, chance, others)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at, other = chance.randrange(len(parts)), chance.randrange(len(parts))
        kind = chance.choice(("leave out", "repeat", "exchange", "move", "number", "long", "code"))
        if kind == "leave out":
            parts[at] = b""
        elif kind == "repeat":
            parts[at] *= chance.choice((2, 3, 300))
        elif kind == "exchange":
            parts[at], parts[other] = parts[other], parts[at]
        elif kind == "move":
            parts[at] = parts[other]
        elif kind == "number":
            numbers = [n for n, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J", b"\x8a")] or [at]
            value = chance.choice(BOUNDARIES) * chance.choice((1, 1, -1))
            parts[chance.choice(numbers)] = pickle.dumps(value, 2)[2:-1]
        elif kind == "long":
            parts[at] = parts[at][:1] + chance.choice(BOUNDARIES).to_bytes(8, "little") + parts[at][1:]
        else:
            parts[at] = bytes([chance.randrange(256)]) + parts[at][1:]
    return b"".join(parts) + rest


def inside_zip(change: Callable[[str, bytes, Random], bytes]) -> Callable[[bytes, Random, Sequence[bytes]], bytes]:
    """A change to the content of one entry, after which all checksums and sizes are right again."""

    def changed(data: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = {info.filename: archive.read(info) for info in archive.infolist() if info.file_size < 1 << 22}
        except UNREADABLE:
            return blind(data, chance, others)
        if not entries:
            return blind(data, chance, others)
        # The pickle, the configuration and the weights are where there is most to go wrong: the largest entries.
        names = sorted(entries, key=lambda name: -len(entries[name]))
        name = chance.choice((names[0], names[0], *names))
        entries[name] = change(name, entries[name], chance)
        if chance.choice((False, False, False, True)):
            entries[chance.choice(("archive/data/7", "../x", "/x", "a/constants.pkl", "config.json"))] = b"more"
        buffer = io.BytesIO()
        kind = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", kind) as archive:
            warnings.simplefilter("ignore")
            for entry, content in entries.items():
                archive.writestr(zipfile.ZipInfo(entry), content, kind)
        return buffer.getvalue()

    return changed


def resealed(data: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
    """Blind changes to an HDF5 file, after which the checksums of its newer structures are right again."""
    data = bytearray(blind(data, chance, others))
    with tempfile.NamedTemporaryFile(suffix=".h5") as file:
        for _ in range(4):  # a checksum that was put right may lead on to others
            file.seek(0)
            file.truncate()
            file.write(data)
            file.flush()
            wrong = _wrong_checksums(Path(file.name))
            if not wrong:
                break
            for at, checksum in wrong.items():
                data[at : at + 4] = checksum
    return bytes(data)


def json_values(data: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
    """One number of a JSON text replaced by another value, or one string by another of the same text."""
    found = list(NUMBER.finditer(data)) or list(re.finditer(rb'"[^"]*"', data))
    if not found:
        return blind(data, chance, others)
    at = chance.choice(found)
    new = chance.choice((*JSON_VALUES, str(chance.choice(BOUNDARIES)).encode(), data[: chance.randrange(200)]))
    return data[: at.start()] + new + data[at.end() :]


def safetensors_header(data: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
    """A change to the header of a safetensors file, whose length is right again."""
    length = int.from_bytes(data[:8], "little")
    header = chance.choice((json_values, blind))(data[8 : 8 + length], chance, others)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def npy_header(data: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
    """A change to the header of an npy array of version 1, whose length is right again."""
    length = int.from_bytes(data[8:10], "little")
    header = chance.choice((json_values, json_values, blind))(data[10 : 10 + length], chance, others)[: 1 << 15]
    return data[:8] + len(header).to_bytes(2, "little") + header + data[10 + length :]


def _flip(data: bytearray, chance: Random, _: Sequence[bytes]) -> bytes:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _byte(data: bytearray, chance: Random, _: Sequence[bytes]) -> bytes:
    data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _boundary(data: bytearray, chance: Random, _: Sequence[bytes]) -> bytes:
    """An integer field set to a boundary, or to the place of something in the file."""
    at, width = chance.randrange(len(data)), chance.choice((1, 2, 4, 8))
    at -= at % width if chance.choice((True, False)) else 0
    value = chance.choice((*BOUNDARIES, chance.randrange(len(data)), len(data)))
    number = (value & (1 << 8 * width) - 1).to_bytes(width, chance.choice(("little", "little", "big")))
    data[at : at + width] = number[: len(data) - at]
    return bytes(data)


def _nudge(data: bytearray, chance: Random, _: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    data[at] = (data[at] + chance.choice((-1, 1, 8, -8, 16))) & 0xFF
    return bytes(data)


def _truncate(data: bytearray, chance: Random, _: Sequence[bytes]) -> bytes:
    return bytes(data[: chance.randrange(len(data))])


def _remove(data: bytearray, chance: Random, _: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 2, 4, 8, 64, 512))]
    return bytes(data)


def _repeat(data: bytearray, chance: Random, _: Sequence[bytes]) -> bytes:
    at, length = chance.randrange(len(data)), chance.choice((1, 4, 8, 64, 512))
    data[at:at] = data[at : at + length] * chance.choice((1, 1, 2, 40))
    return bytes(data)


def _copy(data: bytearray, chance: Random, _: Sequence[bytes]) -> bytes:
    """A part written over another of the same length."""
    length = min(chance.choice((4, 8, 16, 40, 64, 512)), len(data))
    start, at = chance.randrange(len(data) - length + 1), chance.randrange(len(data) - length + 1)
    data[at : at + length] = data[start : start + length]
    return bytes(data)


def _splice(data: bytearray, chance: Random, others: Sequence[bytes]) -> bytes:
    """The start of this file and the end of another."""
    if not others:
        return _copy(data, chance, others)
    other, at = chance.choice(others), chance.randrange(len(data))
    return bytes(data[:at] + other[min(at, len(other)) :])


BLIND = (_flip, _flip, _byte, _boundary, _boundary, _boundary, _nudge, _truncate, _remove, _repeat, _copy, _splice)


def _instructions(data: bytes) -> tuple[list[bytes], bytes]:
    """Each instruction of the pickles that follow each other from the start on, and what comes behind them."""
    places, position = [0], 0
    while position < len(data):
        try:
            for _, _, at in pickletools.genops(data[position:]):
                places.append(position + (at or 0))
        except (ValueError, OverflowError, IndexError):
            break
        position = places[-1] + 1
        places.append(position)
    places = sorted(set(places))
    return [data[start:end] for start, end in pairwise(places)], data[places[-1] :]


def _wrong_checksums(path: Path) -> dict[int, bytes]:
    """Where reading meets checksums that are wrong, and what they should be."""
    wrong: dict[int, bytes] = {}

    class Lenient(hdf5.File):
        def at(self, address: int, length: int, what: str) -> bytes:
            self.last = self._base + address
            return super().at(address, length, what)

        def verify(self, data: bytes, what: str) -> bytes:  # noqa: ARG002 - as that which it stands for
            right = lookup3(data[:-4]).to_bytes(4, "little")
            if data[-4:] != right:
                wrong[self.last + len(data) - 4] = right
            return data[:-4]

    file = None
    try:
        file = Lenient(path)
        pending, seen = [hdf5.open_root(file)], set()
        while pending and len(seen) < 100:
            group = pending.pop()
            seen.add(group.address)
            assert group.attributes is not None
            children = [group.child(name) for name in list(group.links)[:40]]
            pending += [child for child in children if isinstance(child, hdf5.Group) and child.address not in seen]
    except FormatError:
        pass  # what could be reached before that has been put right
    finally:
        if file is not None:
            file.close()
    return wrong
