"""The worker processes of parity checks: one a framework, started when needed, used again, and never left over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from denseport import errors
from denseport.errors import DenseportError, VerificationError, quoted
from denseport.running.request import Request

PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])

FRAMEWORKS = ("keras", "torch")

Progress = Callable[[], None]


class Workers:
    """Processes that each hold one framework; within a `with` block, and never beyond it.

    Checks that share them save the seconds in which frameworks are imported: `verify(a, b, workers=workers)`. Only one
    check can use them at a time.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[object, ...], Worker] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self, *, device: str, allow_tf32: bool, keras_backend: str) -> None:
        """Lets both frameworks be imported, which takes seconds, while their requests are not yet known."""
        for framework in FRAMEWORKS:
            self._worker(framework, allow_tf32, _without_gpu(device), keras_backend)

    def run(
        self, requests: Sequence[Request], device: str, keras_backend: str, one_batch_done: Progress
    ) -> list[dict[str, Any]]:
        """Runs each request in a worker of its own, all at once, and returns their last replies.

        Args:
            requests: One a framework.
            device: Where; `auto` becomes `cuda` where every framework can use it, else `cpu`.
            keras_backend: What Keras runs on.
            one_batch_done: Is called from threads of this function's own.

        Raises:
            DenseportError: What a worker raised.
            VerificationError: A worker ended without a reply.
        """
        without_gpu = _without_gpu(device)
        done = False
        # After a failure nobody knows what the other worker is at. Ending both ends the threads that read from them.
        with ThreadPoolExecutor(len(requests)) as threads:
            try:
                workers = [
                    self._worker(request.framework, request.allow_tf32, without_gpu, keras_backend)
                    for request in requests
                ]
                if device == "auto":
                    able = not without_gpu and all(worker.has_cuda() for worker in workers)
                    device = "cuda" if able else "cpu"
                for worker, request in zip(workers, requests, strict=True):
                    worker.tell({**request.to_json(), "device": device})
                replies = [
                    threads.submit(worker.last_reply, request, one_batch_done)
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

    def _worker(self, framework: str, allow_tf32: bool, without_gpu: bool, keras_backend: str) -> Worker:
        backend = keras_backend if framework == "keras" else ""
        key = (framework, allow_tf32, without_gpu, backend)
        if key not in self._running:
            self._running[key] = Worker(framework, allow_tf32, without_gpu, backend)
        return self._running[key]


def _without_gpu(device: str) -> bool:
    """Whether the frameworks need not look for a GPU: none was asked for, or there is none."""
    return device == "cpu" or (device == "auto" and not any(Path("/dev").glob("nvidia[0-9]*")))


class Worker:
    """A process of `denseport.running.child`, started at once; whoever makes one ends it."""

    def __init__(self, framework: str, allow_tf32: bool, without_gpu: bool, keras_backend: str) -> None:
        self._framework = framework
        self._diagnostics = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - open as long as the process
        replies, its_end = os.pipe()  # of its own, since anything may print on standard output as Python starts
        command = [sys.executable, "-P", "-m", "denseport.running.child", str(its_end)]
        self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
            command,
            pass_fds=[its_end],
            stdin=subprocess.PIPE,
            stdout=self._diagnostics,
            stderr=self._diagnostics,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([PACKAGE_FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])]),
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "NVIDIA_TF32_OVERRIDE": "1" if allow_tf32 else "0",
                "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
                # Two frameworks share the cores: threads that spin while they wait take them from the other one.
                "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
                **({"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"} if without_gpu else {}),
                **({"KERAS_BACKEND": keras_backend} if keras_backend else {}),
            },
        )
        os.close(its_end)
        self._replies = os.fdopen(replies)
        self._able: bool | None = None
        self.tell({"framework": framework, "allow_tf32": allow_tf32})

    def end(self) -> None:
        """Kills the process and waits until it is gone."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._replies, self._diagnostics):
            with suppress(BrokenPipeError):
                if stream:
                    stream.close()

    def tell(self, message: dict[str, Any]) -> None:
        """Sends a message; where the worker has ended, reading its reply will say why."""
        with suppress(BrokenPipeError):
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def has_cuda(self) -> bool:
        """Whether the framework can use a CUDA device, which is the first thing that a worker says."""
        if self._able is None:
            self._able = bool(self._reply("")["cuda"])
        return self._able

    def last_reply(self, request: Request, one_batch_done: Progress) -> dict[str, Any]:
        """The reply that ends the work on a request; progress on the way is passed on.

        Raises:
            DenseportError: What the worker raised.
            VerificationError: The process has ended.
        """
        self.has_cuda()
        while "progress" in (reply := self._reply(f"{request.file}: ")):
            one_batch_done()
        return reply

    def _reply(self, about: str) -> dict[str, Any]:
        line = next(self._replies, "")
        if not line:
            raise self._ended(about)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind: type[DenseportError] = getattr(errors, reply["kind"], VerificationError)
            raise kind(reply["error"])
        return reply

    def _ended(self, about: str) -> VerificationError:
        code = self._process.wait()
        self._diagnostics.seek(0)
        said = [line for line in self._diagnostics.read().splitlines() if line.strip()] or ["it said nothing"]
        return VerificationError(
            f"{about}{self._framework} ended with exit code {code} before it had an output: {quoted(said[-1], 300)}"
        )
