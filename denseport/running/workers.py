"""Processes for what needs one of its own, and those that each hold a framework: started when needed, and used again.

No process outlives the one that started it, however that ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from denseport import errors
from denseport.atomic import temporary_folder
from denseport.background import submitted
from denseport.errors import DenseportError, UsageError, VerificationError, quoted
from denseport.running.child import ENDED_BY_SIGTERM, Message
from denseport.running.request import Request

PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])
FRAMEWORKS = ("keras", "torch")

Progress = Callable[[int, int], None]


class Process:
    """A process of `denseport.running.child` that serves one module, started at once; whoever makes one ends it.

    Args:
        module: The module whose `serve` answers.
        environment: What its environment has beyond that of this process.

    Raises:
        OSError: No process can be started.
    """

    def __init__(self, module: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self._diagnostics = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - open as long as the process
        replies, other_end = os.pipe()
        self._replies = os.fdopen(replies)
        python_path = [PACKAGE_FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-P", "-m", "denseport.running.child", module, str(other_end)],
                pass_fds=[other_end],
                stdin=subprocess.PIPE,
                stdout=self._diagnostics,
                stderr=self._diagnostics,
                text=True,
                env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(python_path)},
            )
        finally:
            os.close(other_end)

    def tell(self, message: Message) -> None:
        """Sends a message; where the process has ended, there will be no reply."""
        with suppress(OSError, ValueError):  # it has ended, or its pipes are closed
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def reply(self) -> Message | None:
        """The next reply; None where the process has ended before it had one."""
        with suppress(OSError, ValueError):
            line = self._replies.readline()
            if line.endswith("\n"):
                reply: Message = json.loads(line)
                return reply
        return None

    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def obituary(self) -> tuple[bool, str]:
        """Whether a mistake, and no signal, has ended the process; and its exit code with the last that it said."""
        code = self._process.wait()
        said = ["it said nothing"]
        with suppress(ValueError):  # closed already
            self._diagnostics.seek(0)
            said = [line for line in self._diagnostics.read().splitlines() if line.strip()] or said
        return code > 0 and code != ENDED_BY_SIGTERM, f"exit code {code}: {quoted(said[-1], 300)}"

    def ask_to_end(self) -> None:
        """Lets the process remove what is half done, within `child.SECONDS_TO_END`, and end."""
        self._process.terminate()

    def end(self, patience: float = 0) -> None:
        """Kills the process where it has not ended after some seconds, and waits until it is gone."""
        if patience:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._replies, self._diagnostics):
            with suppress(OSError):
                if stream:
                    stream.close()


class Workers:
    """Processes that each hold one framework; within a `with` block, and never beyond it.

    Checks that share them save the seconds in which frameworks are imported: `verify(a, b, workers=workers)`. Only one
    check can use them at a time.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[object, ...], _Framework] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, *, device: str, allow_tf32: bool, keras_backend: str) -> None:
        """Lets both frameworks be imported, which takes seconds, while their requests are not yet known."""
        for framework in FRAMEWORKS:
            self._worker(framework, device, allow_tf32, keras_backend)

    def run(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Message]:
        """Runs the requests, each in another process and all at once, and returns their last replies.

        Args:
            requests: One a framework; the device `auto` becomes `cuda` where every framework can use it, else `cpu`.
            progress: Is called with the number of batches that are done, and of all batches, from another thread.

        Raises:
            DenseportError: What a worker raised, or the system starts no more threads.
            VerificationError: A worker ended without a reply.
        """
        device, done = requests[0].device, False
        total = sum(request.batch_count for request in requests)
        counted = iter(range(1, total + 1))

        def one_batch_done() -> None:
            if progress is not None:
                progress(next(counted, total), total)

        # After a failure nobody knows what the other worker is at. Ending both ends the threads that read from them.
        with ThreadPoolExecutor(len(requests)) as threads:
            try:
                workers = [
                    self._worker(each.framework, device, each.allow_tf32, each.keras_backend) for each in requests
                ]
                if device == "auto":
                    able = not _without_gpu(device) and all(worker.has_cuda for worker in workers)
                    device = "cuda" if able else "cpu"
                replies = [
                    submitted(threads, worker.last_reply, replace(request, device=device), one_batch_done)
                    for worker, request in zip(workers, requests, strict=True)
                ]
                for failed in wait(replies, return_when=FIRST_EXCEPTION).done:
                    failed.result()
                results = [reply.result() for reply in replies]
                done = True
            finally:
                if not done:
                    self.end()
        return results

    def end(self) -> None:
        """Ends every process."""
        while self._running:
            self._running.popitem()[1].end()

    def _worker(self, framework: str, device: str, allow_tf32: bool, keras_backend: str) -> _Framework:
        without_gpu, backend = _without_gpu(device), keras_backend if framework == "keras" else ""
        key = (framework, allow_tf32, without_gpu, backend)
        if key not in self._running:
            self._running[key] = _Framework(framework, allow_tf32, without_gpu, backend)
        return self._running[key]


@contextmanager
def results_folder() -> Iterator[Path]:
    """Where the results of requests go; gone when the block ends.

    Raises:
        UsageError: There is no folder for temporary files that can be used.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(Path(tempfile.gettempdir()), "denseport-running-"))
        except OSError as error:
            raise UsageError(
                f"temporary files cannot be made ({error.strerror}); set TMPDIR to a folder with space"
            ) from None
        yield folder


def _without_gpu(device: str) -> bool:
    """Whether the frameworks need not look for a GPU: none was asked for, or there is none."""
    return device == "cpu" or (device == "auto" and not any(Path("/dev").glob("nvidia[0-9]*")))


class _Framework(Process):
    """A process that holds a framework."""

    def __init__(self, name: str, allow_tf32: bool, without_gpu: bool, keras_backend: str) -> None:
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "NVIDIA_TF32_OVERRIDE": "1" if allow_tf32 else "0",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            # Two frameworks share the cores: threads that spin while they wait take them from the other one.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            **({"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"} if without_gpu else {}),
            **({"KERAS_BACKEND": keras_backend} if keras_backend else {}),
        }
        super().__init__("denseport.running.runners", environment)
        self._name = name
        self.tell({"framework": name, "allow_tf32": allow_tf32})

    @cached_property
    def has_cuda(self) -> bool:
        """Whether the framework can use a CUDA device, which is the first thing that its process says."""
        return bool(self._answer("")["cuda"])

    def last_reply(self, request: Request, one_batch_done: Callable[[], None]) -> Message:
        """The reply that ends the work on a request; progress on the way is passed on.

        Raises:
            DenseportError: What the worker raised.
            VerificationError: The process has ended.
        """
        self.tell(request.to_json())
        _ = self.has_cuda
        while "progress" in (reply := self._answer(f"{request.shown}: ")):
            one_batch_done()
        return reply

    def _answer(self, about: str) -> Message:
        reply = self.reply()
        if reply is None:
            _, last_words = self.obituary()
            raise VerificationError(f"{about}{self._name} ended before it had an output, with {last_words}")
        if "error" in reply:
            kind: type[DenseportError] = getattr(errors, reply["kind"], VerificationError)
            raise kind(reply["error"])
        return reply
