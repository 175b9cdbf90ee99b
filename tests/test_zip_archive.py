"""Zip archives that are broken or hostile: each is refused in one line that says why, and nothing grows on the way."""

from __future__ import annotations

import io
import shutil
import subprocess
import tracemalloc
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from denseport.errors import FormatError
from denseport.formats import zip as zips
from denseport.formats.source_file import SourceFile
from denseport.formats.zip import ZipArchive

FULL32 = 0xFFFFFFFF
TEXT = b"sixteen letters."
ZEROS = bytes(200 << 20)


@dataclass(frozen=True)
class Odd:
    """An entry whose headers may say anything: `both` of them, or one; `position` says where an earlier one stands."""

    name: bytes = b"odd"
    content: bytes = b""
    stored: bytes | None = None
    both: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    after: bytes = b""
    position: int | None = None

    @property
    def bytes(self) -> bytes:
        return self.content if self.stored is None else self.stored

    def header(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        facts = {"name": self.name, "flags": 0, "method": 0, "crc": zlib.crc32(self.content), "extra": b"", "disk": 0}
        return {**facts, "stored_size": len(self.bytes), "size": len(self.content), **self.both, **changes}


def zipped(path: Path, *entries: Odd, before: bytes = b"", gap: bytes = b"", comment: bytes = b"", **end: int) -> Path:
    """An archive of a good entry and such others, with other bytes before it and before its end record."""
    body, directory = bytearray(before), bytearray()
    for entry in (Odd(b"good", TEXT), *entries):
        facts = entry.header(entry.central)
        facts.setdefault("position", len(body) if entry.position is None else entry.position)
        directory += zips.CENTRAL.pack(
            b"PK\1\2", 20, 20, facts["flags"], facts["method"], 0, 0, facts["crc"], facts["stored_size"], facts["size"],
            len(facts["name"]), len(facts["extra"]), 0, facts["disk"], 0, 0, facts["position"],
        )  # fmt: skip
        directory += facts["name"] + facts["extra"]
        if entry.position is None:
            facts = entry.header(entry.local)
            body += zips.LOCAL.pack(
                b"PK\3\4", 20, facts["flags"], facts["method"], 0, 0, facts["crc"], facts["stored_size"], facts["size"],
                len(facts["name"]), len(facts["extra"]),
            )  # fmt: skip
            body += facts["name"] + facts["extra"] + entry.bytes + entry.after
    count = len(entries) + 1
    facts = {"disk": 0, "first": 0, "here": count, "count": count, "size": len(directory), "start": len(body), **end}
    last = zips.END.pack(b"PK\5\6", *facts.values(), len(comment))
    path.write_bytes(bytes(body + directory + gap + last + comment))
    return path


def contents(path: Path) -> dict[str, bytes]:
    archive = ZipArchive(SourceFile(path))
    return {name: archive.content(entry, 1 << 30) for name, entry in archive.entries.items()}


def refused(path: Path, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        contents(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "; " in message  # and so a remedy


def deflated(content: bytes) -> bytes:
    return zlib.compress(content, wbits=-zlib.MAX_WBITS)


def unfinished(content: bytes) -> bytes:
    """Deflate data that give the whole content, but not the end of the stream."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(content) + stream.flush(zlib.Z_SYNC_FLUSH)


def descriptor(size: int = len(TEXT), signature: bytes = b"PK\7\x08", layout: str = "<3I") -> bytes:
    return signature + pack(layout, zlib.crc32(TEXT), len(TEXT), size)


DEFLATE = {"method": 8}
FOLLOWS = {"flags": 8}
UNKNOWN = {"size": 0, "stored_size": 0, "crc": 0}
FULL = {"size": FULL32, "stored_size": FULL32}
WIDE = b"\1\0\x10\0" + pack("<2Q", len(TEXT), len(TEXT))
SOUND = {
    "nothing odd": [],
    "deflated": [Odd(b"a", TEXT, deflated(TEXT), DEFLATE)],
    "deflated to nothing": [Odd(b"a", b"", deflated(b""), DEFLATE)],
    "names in UTF-8 and cp437": [Odd("ü".encode(), both={"flags": 1 << 11}), Odd(b"\x82")],
    "a folder": [Odd(b"a/"), Odd(b"a/b", TEXT)],
    "a descriptor": [Odd(b"a", TEXT, both=FOLLOWS, after=descriptor())],
    "a descriptor behind unknown sizes": [Odd(b"a", TEXT, both=FOLLOWS, local=UNKNOWN, after=descriptor())],
    "a descriptor without signature": [Odd(b"a", TEXT, both=FOLLOWS, after=descriptor(signature=b""))],
    "a descriptor of 64 bits": [Odd(b"a", TEXT, both=FOLLOWS, after=descriptor(layout="<I2Q"))],
    "a descriptor of 64 bits only": [Odd(b"a", TEXT, both=FOLLOWS, after=descriptor(signature=b"", layout="<I2Q"))],
    "zip64 sizes": [Odd(b"a", TEXT, both={**FULL, "extra": WIDE})],
    "zip64 sizes behind another extra field": [Odd(b"a", TEXT, both={**FULL, "extra": b"FB\2\0ZZ" + WIDE})],
    "no checksum": [Odd(b"a", TEXT, both={"crc": 0})],
}


@pytest.mark.parametrize("kind", SOUND)
def test_sound_archives_are_read_as_python_s_zipfile_reads_them(tmp_path: Path, kind: str) -> None:
    path = zipped(tmp_path / "x.zip", *SOUND[kind], comment=b"a comment")
    with zipfile.ZipFile(path) as archive:
        if kind == "no checksum":
            assert contents(path) == {"good": TEXT, "a": TEXT}  # which zipfile takes for a wrong one
        else:
            assert contents(path) == {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}


def test_archives_of_other_tools_are_read(tmp_path: Path) -> None:
    tool = shutil.which("zip")
    if tool is None:
        pytest.skip("the command zip is absent")
    (tmp_path / "folder").mkdir()
    expected = {f"folder/{name}": name.encode() * 99 for name in ("a", "b")}
    for name, content in expected.items():
        (tmp_path / name).write_bytes(content)
    for options in (["-r", "-0"], ["-r", "-9"], ["-r", "-fd"], ["-r", "-fz"]):
        (tmp_path / "x.zip").unlink(missing_ok=True)
        subprocess.run([tool, "-q", *options, "x.zip", "folder"], cwd=tmp_path, check=True)
        assert contents(tmp_path / "x.zip") == expected


INNER = zips.LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(b"x"), 1, 1, 3, 0) + b"in" + b"\x21" + b"x"
START = zips.LOCAL.size + len(b"good") + len(TEXT)  # where the first odd entry stands
NAMES = (b"/x", b"../x", b"a/../../x", b"a\\x", b"C:/x", b"./x", b"a/./b", b"a//b", b"", b"/", b"a\0b")
ODD: dict[str, tuple[list[Odd], str]] = {
    **{f"the name {name!r}": ([Odd(name)], "unsafe name") for name in NAMES},
    "a name that is not UTF-8": ([Odd(b"\xff", both={"flags": 1 << 11})], "not UTF-8"),
    "two entries of one name": ([Odd(b"a"), Odd(b"a")], "two entries named a"),
    "two entries of one name in two codes": ([Odd(b"\x81"), Odd("ü".encode(), both={"flags": 1 << 11})], "two entries"),
    "two entries in one place": ([Odd(b"a", b"x"), Odd(b"a", b"x", position=START)], "two entries"),
    # as the zip bombs of Fifield, which zipfile reads before CPython 3.11.8
    "an entry inside another": (
        [Odd(b"outer", INNER), Odd(b"in!", b"x", position=START + zips.LOCAL.size + len(b"outer"))],
        "outer and in! overlap",
    ),
    "encryption": ([Odd(both={"flags": 1})], "odd is encrypted"),
    "strong encryption": ([Odd(both={"flags": 1 << 6})], "neither stored nor deflated"),
    "encrypted headers": ([Odd(both={"flags": 1 << 13})], "neither stored nor deflated"),
    "a patch": ([Odd(both={"flags": 1 << 5})], "neither stored nor deflated"),
    "bzip2": ([Odd(both={"method": 12})], "neither stored nor deflated"),
    "another name": ([Odd(local={"name": b"ode"})], "contradicts the archive's directory"),
    "another method": ([Odd(local={"method": 8})], "contradicts the archive's directory"),
    "another size": ([Odd(content=TEXT, local={"size": 1})], "contradicts the archive's directory"),
    "another stored size": ([Odd(content=TEXT, local={"stored_size": 1})], "contradicts the archive's directory"),
    "another checksum": ([Odd(content=TEXT, local={"crc": 1})], "contradicts the archive's directory"),
    "sizes that are nowhere": ([Odd(content=TEXT, local=UNKNOWN)], "contradicts the archive's directory"),
    "encryption in one header": ([Odd(local={"flags": 1})], "contradicts the archive's directory"),
    "a descriptor in one header": ([Odd(content=TEXT, local=FOLLOWS)], "contradicts the archive's directory"),
    "another zip64 size": ([Odd(content=TEXT, local={**FULL, "extra": WIDE[:-1] + b"\1"})], "contradicts"),
    **{
        f"another {key} before a descriptor": (
            [Odd(content=TEXT, both=FOLLOWS, local=UNKNOWN | {key: 1}, after=descriptor())],
            "contradicts the archive's directory",
        )
        for key in UNKNOWN
    },
    "no descriptor": ([Odd(content=TEXT, both=FOLLOWS)], "contradicts its data descriptor"),
    "another size in the descriptor": ([Odd(content=TEXT, both=FOLLOWS, after=descriptor(17))], "data descriptor"),
    "a folder with content": ([Odd(b"a/", TEXT)], "a/ is a folder with content"),
    "two sizes of a stored entry": ([Odd(content=TEXT, stored=b"x")], "claims 16 bytes and stores 1"),
    "a place beyond the directory": ([Odd(central={"position": 1 << 31})], "outside the archive"),
    "a place without an entry": ([Odd(central={"position": 3})], "outside the archive"),
    "content that reaches beyond the entries": (
        [Odd(content=TEXT, stored=b"x", both={"stored_size": 16})],
        "outside the archive",
    ),
    "a zip64 size that is nowhere": ([Odd(central={"size": FULL32})], "lacks its zip64 sizes"),
    "a zip64 size in part": ([Odd(central={"position": FULL32, "extra": b"\1\0\4\0abcd"})], "lacks its zip64"),
    "a zip64 field that is cut off": (
        [Odd(central={"position": FULL32, "extra": b"\1\0\x08\0abcd"})],
        "lacks its zip64",
    ),
    "a zip64 size that is nowhere nearby": ([Odd(content=TEXT, local=FULL)], "lacks its zip64 sizes"),
    "a zip64 place far away": ([Odd(central={"position": FULL32, "extra": b"\1\0\x08\0" + b"\xff" * 8})], "outside"),
    "another disk": ([Odd(central={"disk": 1})], "split"),
    "deflate data that is none": ([Odd(b"odd", TEXT, b"\xff" * 9, DEFLATE)], "odd is not valid deflate data"),
    "deflate data that goes on": ([Odd(b"odd", TEXT, deflated(TEXT) + b"x", DEFLATE)], "does not inflate to its 16"),
    "deflate data that ends early": ([Odd(b"odd", TEXT, deflated(TEXT)[:-3], DEFLATE)], "does not inflate to its 16"),
    "deflate data without an end": ([Odd(b"odd", TEXT, unfinished(TEXT), DEFLATE)], "does not inflate to its 16"),
    "less than declared": ([Odd(b"odd", TEXT, deflated(TEXT[:-1]), DEFLATE)], "does not inflate to its 16"),
    "more than declared": ([Odd(b"odd", TEXT, deflated(TEXT + b"x"), DEFLATE)], "does not inflate to its 16"),
    "much more than declared": ([Odd(b"odd", TEXT, deflated(ZEROS), DEFLATE)], "does not inflate to its 16"),
    "a bomb": ([Odd(b"odd", ZEROS, deflated(ZEROS), DEFLATE)], "bytes claims to hold 209715200"),
    "a bomb of many entries": (
        [Odd(bytes([97 + n]), ZEROS[: 20 << 20], deflated(ZEROS[: 20 << 20]), DEFLATE) for n in range(7)],
        "bytes claims to hold 146800640",
    ),
    "other content": ([Odd(content=TEXT, stored=TEXT[::-1])], "odd does not match its checksum"),
    "other deflated content": ([Odd(b"odd", TEXT, deflated(TEXT[::-1]), DEFLATE)], "odd does not match its checksum"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_entries_are_refused(tmp_path: Path, kind: str) -> None:
    entries, match = ODD[kind]
    path = zipped(tmp_path / "x.zip", *entries)
    tracemalloc.start()
    try:
        refused(path, match)
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


ENDS: dict[str, tuple[dict[str, Any], str]] = {
    "bytes before the archive": ({"before": b"PK\3\4"}, "4 bytes precede"),
    "bytes behind the directory": ({"gap": b"1234"}, "not where its end record says"),
    "a directory elsewhere": ({"start": 40}, "not where its end record says"),
    "a directory of another size": ({"size": 45}, "not where its end record says"),
    "a directory that starts too early": ({"start": START - 1, "size": 51}, "directory is malformed"),
    "more counted than there are": ({"here": 2, "count": 2}, "directory is cut off"),
    "nothing counted": ({"here": 0, "count": 0}, "empty zip archive"),
    "this is another disk": ({"disk": 1}, "split"),
    "the directory is on another disk": ({"first": 1}, "split"),
    "some entries are on another disk": ({"count": 2}, "split"),
    "a zip64 record that is nowhere": ({"start": FULL32}, "lacks its zip64 end record"),
    "a zip64 count that is nowhere": ({"here": 0xFFFF, "count": 0xFFFF}, "lacks its zip64 end record"),
    "a zip64 record beyond the file": ({"gap": b"PK\6\7" + pack("<IQI", 0, 1 << 60, 1)}, "end record is missing"),
    "a zip64 record that is none": ({"gap": b"PK\6\7" + pack("<IQI", 0, 5, 1)}, "end record is missing"),
    "a zip64 record that is cut off": (
        {"gap": b"PK\6\6" + pack("<2Q", 8, 0) + b"PK\6\7" + pack("<IQI", 0, START + 50, 1)},
        "end record is missing",
    ),
    "a zip64 record on another disk": ({"gap": b"PK\6\7" + pack("<IQI", 1, 5, 1)}, "split"),
    "two disks": ({"gap": b"PK\6\7" + pack("<IQI", 0, 5, 2)}, "split"),
    "a second end in the comment": ({"comment": b"PK\5\6" + bytes(18)}, "more than one way"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_odd_ends_are_refused(tmp_path: Path, kind: str) -> None:
    options, match = ENDS[kind]
    refused(zipped(tmp_path / "x.zip", **options), match)


def test_entries_that_are_not_counted_are_refused(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "x.zip", Odd(), here=1, count=1), "more than its 1 entries")


def test_headers_without_their_signature_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    whole = zipped(path, Odd(content=TEXT)).read_bytes()
    for signature, match in {b"PK\3\4": "odd lies outside", b"PK\1\2": "directory is malformed"}.items():
        start = whole.rindex(signature)
        path.write_bytes(whole[:start] + b"!" + whole[start + 1 :])
        refused(path, match)


def test_a_directory_entry_that_reaches_beyond_the_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    whole = bytearray(zipped(path, Odd(content=TEXT)).read_bytes())
    whole[whole.rindex(b"PK\1\2") + 32] = 9  # the length of its comment
    path.write_bytes(whole)
    refused(path, "directory is malformed")


def test_a_zip64_locator_in_the_comment_of_a_tiny_file_is_none(tmp_path: Path) -> None:
    end = zips.END.pack(b"PK\5\6", 0, 0, 0, 0, 0, 15, 5)
    (tmp_path / "x.zip").write_bytes(bytes(15) + end + b"PK\6\7!")
    refused(tmp_path / "x.zip", "empty")


def large(path: Path) -> bytes:
    """An archive with the zip64 end record that Python writes for more than 65,535 entries, and 3 entries."""
    whole = zipped(path, Odd(b"a"), Odd(b"b")).read_bytes()
    end = whole.index(b"PK\5\6")
    start, size = whole.index(b"PK\1\2"), end - whole.index(b"PK\1\2")
    record = zips.END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, size, start)
    locator = zips.END64_LOCATOR.pack(b"PK\6\7", 0, end, 1)
    return whole[:end] + record + locator + whole[end:]


def test_the_two_end_records_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    whole = large(path)
    path.write_bytes(whole)
    assert contents(path) == {"good": TEXT, "a": b"", "b": b""}
    record, end = whole.index(b"PK\6\6"), whole.index(b"PK\5\6")
    path.write_bytes(whole[: end + 8] + b"\xff" * 12 + whole[end + 20 :])  # all of it in the zip64 record alone
    assert contents(path) == {"good": TEXT, "a": b"", "b": b""}
    fields = {16: "disk", 20: "first", 24: "here", 32: "count", 40: "size", 48: "start"}
    for position in fields:
        changed = bytearray(whole)
        changed[record + position] += 1
        path.write_bytes(changed)
        refused(path, "contradict")
    changed = bytearray(whole)
    changed[record + 4] += 1
    path.write_bytes(changed)
    refused(path, "wrong length")


def test_archives_cut_off_or_continued_anywhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    for whole in (zipped(path, Odd(b"a", TEXT)).read_bytes(), large(path)):
        for length in range(1, len(whole)):
            path.write_bytes(whole[:length])
            refused(path, "cut off")
        for tail in (b"\0", b"garbage", b"PK\5\6", whole):
            path.write_bytes(whole + tail)
            refused(path, "something follows|not where|wrong length")


def test_the_number_of_entries_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "x.zip", *(Odd(b"%d" % n) for n in range(20)))
    monkeypatch.setattr(zips, "MAX_ENTRIES", 21)
    assert len(contents(path)) == 21
    monkeypatch.setattr(zips, "MAX_ENTRIES", 20)
    refused(path, "21 entries, more than 20")


def test_the_size_of_the_directory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "x.zip", *(Odd(b"%d" % n) for n in range(10, 20)))
    size = len(b"good") + zips.CENTRAL.size + 10 * (2 + zips.CENTRAL.size)
    monkeypatch.setattr(zips, "MAX_DIRECTORY", size)
    assert len(contents(path)) == 11
    monkeypatch.setattr(zips, "MAX_DIRECTORY", size - 1)
    refused(path, f"directory has {size} bytes, more than {size - 1}")


def test_only_small_entries_are_copied(tmp_path: Path) -> None:
    archive = ZipArchive(SourceFile(zipped(tmp_path / "x.zip")))
    assert archive.content(archive.entries["good"], 16) == TEXT
    with pytest.raises(FormatError, match="more than the 15 it may have"):
        archive.content(archive.entries["good"], 15)


def test_python_s_own_archives_are_read(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name in ("a", "b/ü", "c"):
                with archive.open(name, "w", force_zip64=name == "c") as entry:
                    entry.write(name.encode() * 100)
        (tmp_path / "x.zip").write_bytes(buffer.getvalue())
        assert contents(tmp_path / "x.zip") == {name: name.encode() * 100 for name in ("a", "b/ü", "c")}
