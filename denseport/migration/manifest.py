"""Which files become which: from a folder tree, or from a TOML or CSV manifest; checked before any work."""

from __future__ import annotations

import codecs
import csv
import io
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from denseport import formats
from denseport.errors import UsageError, listed, quoted
from denseport.migration import places
from denseport.migration.results import FILE_NAME
from denseport.options import Converting, files_named, parsed, valid, without_defaults
from denseport.planning import folder_kind, target_path

MAX_BYTES = 8 << 20
MAX_TOML_BYTES = 2 << 20
MAX_DOTS = 100
MAX_ROWS = 100_000
MANIFESTS = (".toml", ".csv")


@dataclass(frozen=True)
class Row:
    """One file to convert: a path or URL, the target's name in the folder of targets, and options for `convert`."""

    source: str
    target: str
    options: Mapping[str, Any]


def rows(src: str, dst: str, options: Mapping[str, Any]) -> list[Row]:
    """The rows of a folder tree or a manifest, each with `options` where it says nothing else.

    A manifest's relative names of sources, layouts and inputs start from the folder that it is in. Of a folder, files
    are taken whose suffix is that of a weight file.

    Raises:
        UsageError: The manifest is too large or malformed, has unknown keys or values of the wrong kind; a target is
            not inside `dst`, or is that of two sources, or one of the sources.
    """
    options = _with_absolute_files(options, Path.cwd())
    every = _manifest(src, options) if src.lower().endswith(MANIFESTS) else _tree(src, dst, options)
    _check_targets(every, dst)
    return every


def _tree(src: str, dst: str, options: Mapping[str, Any]) -> list[Row]:
    """A row for each weight file below `src`, but for those in `dst`; targets keep the tree's shape."""
    targets = places.real(places.absolute("", dst)).rstrip("/") + "/"
    if targets == places.real(places.absolute("", src)).rstrip("/") + "/":
        raise UsageError(f"{src}: is the folder of targets as well; give another one")
    found = []
    options = without_defaults(Converting, options)
    for name in places.files_below(src):
        source = places.absolute(name, src)
        if Path(name).suffix.lower() in formats.SUFFIXES and not places.real(source).startswith(targets):
            target, _ = target_path(Path(name), None, options.get("to_format"))
            found.append(Row(source, target.as_posix(), options))
    if not found:
        raise UsageError(f"{src}: holds no file that ends in {', '.join(formats.SUFFIXES)}; check the path")
    return found


def _manifest(src: str, options: Mapping[str, Any]) -> list[Row]:
    text = _text(src)
    folder = src.rpartition("/")[0] if places.is_remote(src) else str(places.local(src).absolute().parent)
    base = Path.cwd() if places.is_remote(src) else Path(folder)
    parse = _toml_rows if src.lower().endswith(".toml") else _csv_rows
    found = []
    for n, (where, source, target, given) in enumerate(parse(text, src)):
        if n == MAX_ROWS:
            raise UsageError(f"{src}: has more than {MAX_ROWS:,} rows; split it")
        if not source or "\0" in source:
            raise UsageError(f"{where}: source {quoted(source)} names no file")
        merged = without_defaults(Converting, {**options, **_with_absolute_files(given, base)})
        found.append(Row(places.absolute(source, folder), _checked_target(target, where), merged))
    if not found:
        raise UsageError(f"{src}: names no files; add a row for each, with source and target")
    return found


def _with_absolute_files(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    files = {name: str(folder.absolute() / file) for name, file in files_named(Converting, options).items()}
    return {**options, **files}


def _text(src: str) -> str:
    with places.fetched(src) as path:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UsageError(f"{src}: cannot be read ({error.strerror}); check the path") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"{src}: is larger than {MAX_BYTES >> 20} MiB; split the manifest")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{src}: is not UTF-8 at byte {error.start}; save it as UTF-8") from None


Parsed = Iterator[tuple[str, str, str, dict[str, Any]]]


def _toml_rows(text: str, src: str) -> Parsed:
    """Where a row is, its source, its target and its options, for each of `[[files]]`; `[options]` are for all."""
    if len(text) > MAX_TOML_BYTES:
        raise UsageError(f"{src}: is larger than {MAX_TOML_BYTES >> 20} MiB; split the manifest, or write it as CSV")
    # The time to parse a key grows with the square of its parts.
    if any(line.count(".") > MAX_DOTS for line in text.splitlines()):
        raise UsageError(f"{src}: has a line with more than {MAX_DOTS} dots; write it as CSV")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{src}: is not TOML ({quoted(error, 200)}); correct that line") from None
    files, shared = document.pop("files", []), document.pop("options", {})
    if document or not isinstance(files, list) or not isinstance(shared, dict):
        unknown = f"and not {listed(document)}" if document else "of that kind"
        raise UsageError(f"{src}: a manifest has [options] and [[files]], {unknown}")
    shared = valid(Converting, shared, f"{src}: [options]")
    for n, row in enumerate(files, 1):
        where = f"{src}: file {n}"
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("source", "target")):
            raise UsageError(f'{where}: must be a table with source = "..." and target = "..."')
        given = {key: value for key, value in row.items() if key not in ("source", "target")}
        yield where, row["source"], row["target"], {**shared, **valid(Converting, given, where)}


def _csv_rows(text: str, src: str) -> Parsed:
    """The same for each line below the header `source,target,...`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if not {"source", "target"} <= set(header) or len(set(header)) < len(header):
            raise UsageError(f"{src}: the first line must name the columns, each once: source,target and options")
        parsed(Converting, {name: "" for name in header if name not in ("source", "target")}, src)
        for cells in reader:
            if not cells:
                continue
            where = f"{src}: line {reader.line_num}"
            if len(cells) != len(header):
                raise UsageError(f"{where}: has {len(cells)} cells and not {len(header)}")
            row = dict(zip(header, cells, strict=True))
            source, target = row.pop("source"), row.pop("target")
            yield where, source, target, parsed(Converting, row, where)
    except csv.Error as error:
        raise UsageError(f"{src}: line {reader.line_num}: is not CSV ({error}); correct its quotes") from None


def _checked_target(target: str, where: str) -> str:
    """The target's name, without what changes nothing in it.

    Raises:
        UsageError: It is not inside the folder of targets.
    """
    path = PurePosixPath(target)
    outside = path.is_absolute() or ".." in path.parts or "://" in target
    if outside or not path.parts or any(letter in target for letter in "\0\\"):
        raise UsageError(f"{where}: target {quoted(target)} is not inside the folder of targets; give a relative name")
    return str(path)


def _check_targets(every: list[Row], dst: str) -> None:
    """Raises UsageError where two sources have one target, or a target is a source or would be a folder."""
    sources = {places.real(row.source) for row in every}
    taken: dict[str, str] = {FILE_NAME: "the file of results"}
    for row in every:
        if folder_kind(Path(row.target), row.options.get("to_format"), row.options.get("to_layout")):
            raise UsageError(f"{quoted(row.target)}: would be a folder, and migrate writes files; use convert")
        if row.target in taken:
            raise UsageError(
                f"{quoted(row.source)} and {quoted(taken[row.target])} would both become {quoted(row.target)}; "
                "give each another target in a manifest"
            )
        taken[row.target] = row.source
        if places.real(places.absolute(row.target, dst)) in sources:
            raise UsageError(f"{quoted(row.target)}: is a source as well; give another folder for targets")
