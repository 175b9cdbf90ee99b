"""Migration: many files, each converted and verified on its own, in processes of this machine or on a cluster.

List the files, leave out what is done, convert the rest, write each result down.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Unpack

from denseport.errors import UsageError
from denseport.migration import manifest, places, results, schedulers
from denseport.migration.jobs import Job
from denseport.migration.results import UNCHANGED, MigrationReport, Result
from denseport.options import Converting, Migrating, among, checked, files_named
from denseport.requirements import keras_backend, require_parity
from denseport.source import sha256

__all__ = ["MigrationReport", "Result", "migrate"]

Progress = Callable[[int, int], None]


def migrate(
    src: str | Path, dst: str | Path, *, progress: Progress | None = None, **options: Unpack[Migrating]
) -> MigrationReport:
    """Converts many files, each on its own: one that fails stops no other.

    What became of each is appended to `denseport-migration.jsonl` in `dst`. A file is left alone when its content, its
    options and its target are those that were written down there; a run that was ended goes on where it was.

    Args:
        src: A folder, whose weight files are converted to `to_format`, or a manifest that ends in .toml or .csv; a path
            or a URL that fsspec knows.
        dst: The folder of targets, a path or a URL; it is made where it is missing.
        progress: Is called with the number of files that are done, and of all files.
        options: How: see `denseport.options.Migrating`. What a row of a manifest says goes before them.

    Raises:
        UsageError: The manifest, the folder or the options cannot be used, or two files have one target; nothing was
            converted.
        FormatError: The file of results is broken.
        FrameworkMissingError: A framework, fsspec or dask.distributed is needed and not installed.
    """
    started = time.perf_counter()
    chosen = checked(Migrating, options)
    scheduler, at_once = chosen["scheduler"], chosen["jobs"]
    if scheduler is not None and at_once > 1:
        raise UsageError(f"--jobs {at_once} is for this machine; leave it out with --scheduler")
    rows = manifest.rows(str(src), str(dst), among(Converting, chosen))
    if scheduler is None:
        for backend in {row.options.get("keras_backend") for row in rows if row.options.get("verify", True)}:
            require_parity(keras_backend(backend))
    with results.opened(str(dst)) as written:
        todo = _jobs(rows, str(dst), chosen["force"], written)
        outcomes = schedulers.on_cluster(todo, scheduler) if scheduler else schedulers.on_this_machine(todo, at_once)
        with closing(outcomes):
            found = _written_down(outcomes, written, lambda done: progress and progress(done, len(todo)))
    return MigrationReport(
        results=tuple(found[row.target] for row in rows),
        results_file=places.absolute(results.FILE_NAME, str(dst)),
        seconds=time.perf_counter() - started,
    )


def _jobs(rows: Sequence[manifest.Row], dst: str, force: bool, written: results.Results) -> list[Job]:
    contents: dict[str, list[str]] = {}
    return [
        Job(
            source=row.source,
            name=row.target,
            target=places.absolute(row.target, dst),
            options=row.options,
            options_sha256=_identity(row.options, contents),
            force=force,
            known=written.by_target.get(row.target),
        )
        for row in rows
    ]


def _written_down(
    outcomes: Iterable[Result], written: results.Results, told: Callable[[int], object]
) -> dict[str, Result]:
    """Each result by its target, written down as soon as it is there."""
    found: dict[str, Result] = {}
    told(0)
    for result in outcomes:
        found[result.target] = result
        if result.status != UNCHANGED:
            written.add(result)
        told(len(found))
    return found


def _identity(options: Mapping[str, Any], contents: dict[str, list[str]]) -> str:
    """A SHA-256 that changes with the options, and with the content of every file that they name.

    `contents` remembers that of each file while rows share it; it is empty at first.
    """
    files = files_named(Converting, options)
    for file in files.values():
        if file not in contents:
            contents[file] = _content(file)
    known = {name: contents[file] for name, file in files.items()}
    return hashlib.sha256(json.dumps([options, known], sort_keys=True).encode()).hexdigest()


def _content(name: str) -> list[str]:
    """The hashes of a file, or of every file in a folder; nothing where there is none."""
    path = Path(name)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [f"{file.relative_to(path)} {sha256(file)}" for file in files if file.is_file()]
