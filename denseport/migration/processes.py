"""The processes that do jobs: started when needed, used again, replaced when they die, and never left over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from denseport.errors import quoted
from denseport.migration.jobs import Job
from denseport.migration.report import Result

PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])
ATTEMPTS = 3
SECONDS_TO_END = 5.0
ENDED_BY_SIGTERM = 128 + signal.SIGTERM


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def perform(self, job: Job) -> Result:
        """Does a job in a process of its own; each thread that calls this waits for its own one.

        A process that is killed loses nothing: the job is done again, and fails only where that happens every time. One
        that ends by itself has met a mistake in a library or in denseport, which is then the job's error.

        Raises:
            StoppedError: `end` was called.
        """
        error = ""
        for _ in range(ATTEMPTS):
            try:
                process = self._taken()
            except OSError as refused:
                return job.failed(
                    f"{job.source}: no process can be started ({refused.strerror}); give fewer --jobs, and run it again"
                )
            if (result := process.perform(job)) is not None:
                with self._lock:
                    self._idle.append(process)
                return result
            killed, error = process.obituary()
            with self._lock:
                self._every.discard(process)
            if self._ended:
                raise StoppedError
            if not killed:
                break
        return job.failed(f"{job.source}: {error}")

    def end(self) -> None:
        """Ends every process; what is half done is removed by each."""
        with self._lock:
            self._ended = True
            every, self._every, self._idle = self._every, set(), []
        for process in every:
            process.ask_to_end()
        for process in every:
            process.end()

    def _taken(self) -> Process:
        with self._lock:
            if self._ended:
                raise StoppedError
            if self._idle:
                return self._idle.pop()
            process = Process()
            self._every.add(process)
            return process


class Process:
    """A process of `denseport.migration.worker`, started at once; whoever makes one ends it."""

    def __init__(self) -> None:
        self._diagnostics = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "denseport.migration.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._diagnostics,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([PACKAGE_FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])]),
            },
        )

    def perform(self, job: Job) -> Result | None:
        """The result of a job; None where the process has ended before it had one."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return None
        with suppress(OSError, ValueError):  # it has ended, and its pipes are closed
            print(json.dumps(job.to_dict()), file=stdin, flush=True)
            line = stdout.readline()
            if line.endswith("\n"):
                return Result.from_dict(json.loads(line))
        return None

    def obituary(self) -> tuple[bool, str]:
        """Whether the process, which has ended, was killed; and what there is to say of it."""
        code = self._process.wait()
        said = ["it said nothing"]
        with suppress(ValueError):  # closed already
            self._diagnostics.seek(0)
            said = [line for line in self._diagnostics.read().splitlines() if line.strip()] or said
        self.end()
        killed = code < 0 or code == ENDED_BY_SIGTERM
        return killed, f"the process at work on it ended with exit code {code}: {quoted(said[-1], 300)}"

    def ask_to_end(self) -> None:
        """Lets the process remove what is half done, and end."""
        self._process.terminate()

    def end(self) -> None:
        """Waits a moment until the process is gone, and kills it if it is not."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(SECONDS_TO_END)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._diagnostics):
            with suppress(OSError):
                if stream:
                    stream.close()
