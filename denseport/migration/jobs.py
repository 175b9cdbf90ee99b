"""The work on one file: see whether it is done already, fetch, convert and verify it, and put it in place.

Processes of `denseport.running.child` serve this module.
"""

from __future__ import annotations

import queue
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denseport import conversion
from denseport.atomic import temporary_folder
from denseport.errors import DenseportError, UsageError, VerificationError
from denseport.migration import places
from denseport.migration.results import CONVERTED, FAILED, UNCHANGED, Result
from denseport.options import Converting, checked, needing_verify
from denseport.planning import Plan, planned
from denseport.running.child import Receive, Reply
from denseport.source import sha256

if TYPE_CHECKING:
    from denseport.parity.report import ParityReport
    from denseport.running.workers import Workers

IDLE_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """What a process needs to know to convert one file.

    Attributes:
        source: A path or URL.
        name: The target's name in the folder of targets, and `target` its path or URL.
        options: What `denseport.convert` is given.
        options_sha256: A hash of the options, and of the files that they name.
        force: Whether a target that no migration has written may be replaced.
        known: The result of an earlier run.
    """

    source: str
    name: str
    target: str
    options: Mapping[str, Any]
    options_sha256: str
    force: bool
    known: Result | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Job:
        """The job that `to_dict` gave."""
        return cls(**{**plain, "known": Result.from_dict(plain["known"]) if plain["known"] else None})

    def failed(self, error: str) -> Result:
        """The result where it cannot be done; what an earlier run has put at the target is still there."""
        return Result(
            source=self.source,
            target=self.name,
            options=self.options,
            options_sha256=self.options_sha256,
            status=FAILED,
            target_sha256=self.known.target_sha256 if self.known and self.known.source == self.source else None,
            error=error,
        )


def serve(next_message: Receive, reply: Reply) -> None:
    """Answers each job with its result, until none comes for a while; what one has started is there for the next."""
    workers: Workers | None = None
    with ExitStack() as until_the_end, suppress(queue.Empty):
        while True:
            job = Job.from_dict(next_message(timeout=IDLE_SECONDS))
            if workers is None and job.options.get("verify", True):
                from denseport.running.workers import Workers

                workers = until_the_end.enter_context(Workers())
            reply(perform(job, workers).to_dict())


def perform(job: Job, workers: Workers | None) -> Result:
    """Does the job where it is not done; whatever denseport can say of a failure is in the result.

    Args:
        job: What to do.
        workers: The processes in which both frameworks run; None where nothing is to be verified.
    """
    started = time.perf_counter()
    try:
        with places.fetched(job.source) as source:
            result = _performed(job, source, workers)
    except DenseportError as error:
        result = job.failed(str(error))
        if isinstance(error, VerificationError) and isinstance(error.report, conversion.ConversionReport):
            result = replace(result, relative_error=_relative_error(error.report.parity))
    return replace(result, seconds=time.perf_counter() - started)


def _performed(job: Job, source: Path, workers: Workers | None) -> Result:
    existing = places.digest(job.target)
    untouched = job.known is not None and existing is not None and existing == job.known.target_sha256
    if untouched and job.known and _is_done(job, job.known, source):
        return replace(job.known, source=job.source, status=UNCHANGED)
    from_same_source = untouched and job.known is not None and job.known.source == job.source
    may_replace = job.force or from_same_source or (existing is not None and _gives(existing, job, source))
    try:
        return _converted(job, source, workers, may_replace)
    except UsageError:
        # Of a process that was killed at this very job, the target can appear a moment later.
        appeared = places.digest(job.target)
        if existing is not None or appeared is None or not _gives(appeared, job, source):
            raise
    return _converted(job, source, workers, True)


def _is_done(job: Job, known: Result, source: Path) -> bool:
    return known.options_sha256 == job.options_sha256 and known.source_sha256 == sha256(source, job.source)


def _gives(existing: str, job: Job, source: Path) -> bool:
    """Whether the conversion has the hash of what is there: a run was killed before it wrote down that it was done."""
    with temporary_folder(Path(tempfile.gettempdir()), places.TEMPORARY) as folder:
        again = folder / Path(job.name).name
        needless = needing_verify(job.options)
        options = {name: value for name, value in job.options.items() if name not in needless}
        conversion.converted(_plan(job, source, {**options, "verify": False}), again)
        return sha256(again) == existing


def _plan(job: Job, source: Path, options: Mapping[str, Any]) -> Plan:
    return replace(planned(source, job.name, checked(Converting, options), shown=job.source), target=job.target)


def _converted(job: Job, source: Path, workers: Workers | None, may_replace: bool) -> Result:
    with places.replacing(job.target, force=may_replace) as temporary:
        report = conversion.converted(_plan(job, source, job.options), temporary, workers=workers)
        target_sha256 = sha256(temporary)
    return Result(
        source=job.source,
        target=job.name,
        options=job.options,
        options_sha256=job.options_sha256,
        status=CONVERTED,
        source_sha256=report.source_sha256,
        target_sha256=target_sha256,
        variant=report.variant,
        relative_error=_relative_error(report.parity),
        notes=report.notes,
    )


def _relative_error(parity: ParityReport | None) -> float | None:
    """The figure of a check; None where there was none, or it is not finite."""
    return parity.to_dict()["relative_error"] if parity else None
