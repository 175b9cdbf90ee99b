"""The two worker processes of a parity check: started at once, agreed on a device, and gone when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from denseport.errors import DenseportError, VerificationError, quoted

PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])


def run_both(requests: Sequence[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """Runs a worker for each request, all at once, and returns their last replies.

    `auto` becomes `cuda` where every worker's framework can use it, else `cpu`.

    Raises:
        DenseportError: What a worker raised.
        VerificationError: A worker ended without a reply.
    """
    if device == "auto" and not any(Path("/dev").glob("nvidia[0-9]*")):
        device = "cpu"
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(request, device)) for request in requests]
        if device == "auto":
            able = [worker.reply()["cuda"] for worker in workers]
            for worker in workers:
                worker.tell({"device": "cuda" if all(able) else "cpu"})
        return [worker.reply() for worker in workers]


class Worker:
    """A process of `denseport.parity.worker`; within a `with` block, and never beyond it."""

    def __init__(self, request: dict[str, Any], device: str) -> None:
        self._request = {**request, "device": device}

    def __enter__(self) -> Worker:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([PACKAGE_FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "NVIDIA_TF32_OVERRIDE": "0",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            **({"CUDA_VISIBLE_DEVICES": "-1"} if self._request["device"] == "cpu" else {}),
        }
        self._diagnostics = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "denseport.parity.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._diagnostics,
            text=True,
            env=environment,
        )
        self._replies = iter(self._process.stdout or ())
        self.tell(self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._diagnostics.close()

    def tell(self, message: dict[str, Any]) -> None:
        """Sends a message; where the worker has ended, reading its reply will say why."""
        with suppress(BrokenPipeError):
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def reply(self) -> dict[str, Any]:
        """The worker's next reply; raises what the worker raised."""
        line = next(self._replies, "")
        if not line:
            raise self._ended()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise DenseportError(reply["error"])
        return reply

    def _ended(self) -> VerificationError:
        code = self._process.wait()
        self._diagnostics.seek(0)
        said = [line for line in self._diagnostics.read().splitlines() if line.strip()] or ["it said nothing"]
        return VerificationError(
            f"{self._request['file']}: {self._request['framework']} ended with exit code {code} before it had an "
            f"output: {quoted(said[-1], 300)}"
        )
