"""Who does the jobs: processes of this machine, or the same ones in the workers of a Dask cluster."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from denseport.background import submitted
from denseport.errors import FrameworkMissingError, UsageError, quoted
from denseport.migration.jobs import Job
from denseport.migration.results import Result
from denseport.running.child import SECONDS_TO_END
from denseport.running.workers import Process

ATTEMPTS = 3
SECONDS_TO_CONNECT = 10
ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/]+:\d{1,5}")


class StoppedError(Exception):
    """The processes have been ended, and with them this job."""


class Processes:
    """As many processes as jobs are performed at a time; within a `with` block, and never beyond it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._every: set[Process] = set()
        self._idle: list[Process] = []
        self._ended = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def perform(self, job: Job) -> Result:
        """Does a job in a process that no other job uses meanwhile; each thread that calls this waits for its result.

        A process that is killed loses nothing: the job is done again, and fails only where that happens every time. One
        that ends by itself has met a mistake in a library or in denseport, which is then the job's error.

        Raises:
            StoppedError: `end` was called.
        """
        last_words = ""
        for _ in range(ATTEMPTS):
            try:
                process = self._taken()
            except OSError as refused:
                return job.failed(
                    f"{job.source}: no process can be started ({refused.strerror}); give fewer --jobs, and run it again"
                )
            process.tell(job.to_dict())
            if (result := process.reply()) is not None:
                with self._lock:
                    self._idle.append(process)
                return Result.from_dict(result)
            mistaken, last_words = process.obituary()
            process.end()
            with self._lock:
                self._every.discard(process)
            if self._ended:
                raise StoppedError
            if mistaken:
                break
        return job.failed(f"{job.source}: the process at work on it ended with {last_words}")

    def end(self) -> None:
        """Ends every process; what is half done is removed by each."""
        with self._lock:
            self._ended = True
            every, self._every, self._idle = self._every, set(), []
        for process in every:
            process.ask_to_end()
        for process in every:
            process.end(SECONDS_TO_END + 1)

    def _taken(self) -> Process:
        with self._lock:
            if self._ended:
                raise StoppedError
            while self._idle:
                process = self._idle.pop()
                if process.is_alive():
                    return process
                self._every.discard(process)
                process.end()
            process = Process("denseport.migration.jobs")
            self._every.add(process)
            return process


_processes = Processes()  # of a Dask worker


def on_this_machine(jobs: Sequence[Job], processes_at_once: int) -> Generator[Result, None, None]:
    """Does the jobs in this many processes; none of them outlives the generator."""
    with ThreadPoolExecutor(min(processes_at_once, len(jobs)) or 1) as threads, Processes() as processes:
        futures = [submitted(threads, processes.perform, job) for job in jobs]
        try:
            for done in as_completed(futures):
                yield done.result()
        finally:
            for future in futures:
                future.cancel()


def on_cluster(jobs: Sequence[Job], address: str) -> Generator[Result, None, None]:
    """Does the jobs on the workers of a Dask cluster, which need denseport and the same paths as this machine.

    Dask gives a job whose worker is lost to another one.

    Raises:
        FrameworkMissingError: dask.distributed is not installed.
        UsageError: No scheduler answers, or it has no workers.
    """
    if not ADDRESS.fullmatch(address):
        raise UsageError(f"--scheduler {quoted(address)}: is no address of a Dask scheduler, such as tcp://host:8786")
    try:
        from dask.distributed import Client
        from dask.distributed import as_completed as completed
    except ImportError:
        raise FrameworkMissingError(
            "--scheduler needs dask.distributed: pip install 'denseport[cluster]', or use --jobs"
        ) from None
    with _quiet():
        try:
            client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
        except OSError as error:
            raise UsageError(
                f"--scheduler {quoted(address)}: no Dask scheduler answers there ({quoted(error, 200)}); check the "
                "address, and whether it runs"
            ) from None
        with client:
            try:
                client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
            except TimeoutError:
                raise UsageError(
                    f"--scheduler {quoted(address)}: has no workers; start some with `dask worker`"
                ) from None
            futures = client.map(_perform, [job.to_dict() for job in jobs], pure=False)
            job_of = dict(zip((future.key for future in futures), jobs, strict=True))
            try:
                for done in completed(futures, loop=client.loop):
                    yield _result(done, job_of[done.key])
            finally:
                client.cancel(futures)


def _result(done: Any, job: Job) -> Result:
    """The result of a Dask future that is done; where it was lost with its worker, Dask has the job done again."""
    if done.status == "cancelled":
        return job.failed(f"{job.source}: the connection to the cluster was lost; run the migration again")
    try:
        return Result.from_dict(done.result())
    except Exception as error:  # whatever a worker raises that denseport does not
        reason = quoted(f"{type(error).__name__}: {error}", 300)
        return job.failed(f"{job.source}: a worker of the cluster failed: {reason}")


def _perform(job: Mapping[str, Any]) -> dict[str, Any]:
    """Does a job in a Dask worker, in a process that stays for the next one, and ends when none comes for a while."""
    return _processes.perform(Job.from_dict(job)).to_dict()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Dask from writing its own account of what is reported as an error or a result."""
    # Dask gives several of its loggers levels and handlers of their own.
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    talking = [logger for logger in map(logging.getLogger, names) if not logger.disabled]
    for logger in talking:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in talking:
            logger.disabled = False
