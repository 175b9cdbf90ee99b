"""Who does the jobs: processes of this machine, or a Dask cluster. Both yield results as they come."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from denseport.errors import FrameworkMissingError, UsageError, quoted
from denseport.migration import cluster
from denseport.migration.jobs import Job
from denseport.migration.processes import Processes
from denseport.migration.report import Result

SECONDS_TO_CONNECT = 10
ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/]+:\d{1,5}")


def on_this_machine(jobs: Sequence[Job], processes_at_once: int) -> Generator[Result, None, None]:
    """Does the jobs in this many processes; none of them outlives the generator."""
    with ThreadPoolExecutor(min(processes_at_once, len(jobs)) or 1) as threads, Processes() as processes:
        futures = [threads.submit(processes.perform, job) for job in jobs]
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
            futures = client.map(cluster.perform, [job.to_dict() for job in jobs], pure=False)
            job_of = dict(zip((future.key for future in futures), jobs, strict=True))
            try:
                for done in completed(futures, loop=client.loop):
                    yield _result(done, job_of[done.key])
            finally:
                client.cancel(futures)
                if client.status == "running":
                    client.run(cluster.release, on_error="ignore")


def _result(done: Any, job: Job) -> Result:
    """The result of a Dask future that has ended one way or another."""
    status = done.status
    if status == "finished":
        return Result.from_dict(done.result())
    if status == "error":
        error = done.exception()
        return job.failed(
            f"{job.source}: a worker of the cluster failed: {quoted(f'{type(error).__name__}: {error}', 300)}"
        )
    return job.failed(f"{job.source}: the connection to the cluster was lost; run the migration again")


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
