"""One whole process, with all those that it starts: how long it takes, and how much memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from denseport.errors import quoted

ROOT = Path(__file__).resolve().parents[2]
SECONDS_BETWEEN_SAMPLES = 0.005
PRIVATE = (b"RssAnon:", b"RssShmem:")
# Installed programs have their bytecode; without this, those of a checkout would be compiled again in each run.
IGNORED = "PYTHONDONTWRITEBYTECODE"
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}


class CommandError(Exception):
    """A command that was to be measured has failed."""


def measure(arguments: Sequence[str | Path]) -> tuple[float, int]:
    """Runs a command to its end; returns its wall time in seconds and the peak of its private memory in bytes.

    Private is what the process and its descendants hold of their own, added up: pages of no file. Those of files that
    they have mapped, weights as well as libraries, belong to the page cache, and the system takes them back at will.
    The memory is looked at every 5 ms, and only where the system has /proc, as Linux has; elsewhere it is 0.

    Raises:
        CommandError: It cannot be run, or its exit status is not 0.
    """
    with tempfile.TemporaryFile() as output:
        try:
            started = time.perf_counter()
            process = subprocess.Popen(
                [*map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if name != IGNORED} | ENVIRONMENT,
            )
            with _MemoryWatch(process.pid) as memory:
                process.wait()
                seconds = time.perf_counter() - started
        except OSError as error:
            raise CommandError(f"{arguments[0]}: {error}") from None
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            command = " ".join(map(str, arguments))
            raise CommandError(f"{command}: ended with exit status {process.returncode}: {quoted(said[-1], 300)}")
    return seconds, memory.peak


class _MemoryWatch:
    """Looks at the memory of a process and its descendants from a thread of its own, within a `with` block."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(SECONDS_BETWEEN_SAMPLES):
            self.peak = max(self.peak, sum(map(_private_bytes, _with_descendants(self._pid))))


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):  # it has ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                for child in children.read_bytes().split():
                    yield from _with_descendants(int(child))


def _private_bytes(pid: int) -> int:
    """Resident anonymous and shared memory; 0 where the process has ended.

    Source: Linux, Documentation/filesystems/proc.rst, table of /proc/PID/status.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in status.splitlines() if line.startswith(PRIVATE))
