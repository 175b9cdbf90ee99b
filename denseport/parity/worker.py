"""The process in which one framework runs one file: `python -m denseport.parity.worker`, request and reply as JSON.

Each framework has a process of its own: their native libraries do not mix (importing TensorFlow and then torchvision
ends in a segmentation fault), both run at once, and each one's memory is its own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from denseport.config import Traits
from denseport.errors import DenseportError
from denseport.parity.runners import RUNNERS, Runner

BATCH = 32


def main() -> None:
    """Answers one request from standard input on standard output; ends when the parent process does."""
    started = time.perf_counter()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints must not get between the replies
    request = json.loads(sys.stdin.readline())
    try:
        runner = RUNNERS[request["framework"]]()
        if request["device"] == "auto":
            _send(replies, {"cuda": runner.has_cuda()})
            request["device"] = json.loads(sys.stdin.readline())["device"]
        threading.Thread(target=_end_with_parent, daemon=True).start()
        outputs = {
            f"{name}{n}": output
            for name, options in request["passes"].items()
            for n, output in enumerate(_outputs(runner, request, options))
        }
        np.savez(request["outputs"], **outputs)  # type: ignore[arg-type]
        _send(
            replies,
            {
                "version": runner.version(),
                "device": runner.device_name(request["device"]),
                "seconds": time.perf_counter() - started,
                "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            },
        )
    except DenseportError as error:
        _send(replies, {"error": str(error)})


def _outputs(runner: Runner, request: dict[str, Any], options: dict[str, Any]) -> Iterator[np.ndarray]:
    """The outputs (N, C) for each of the request's image arrays."""
    traits = Traits(**options["traits"]) if options["traits"] else None
    options = {**options, "layout": request["layout"], "head": request["head"], "traits": traits}
    predict = runner.predictor(Path(request["file"]), request["device"], options)
    with np.load(request["inputs"], allow_pickle=False) as inputs:
        for name in request["images"]:
            images = inputs[name]
            batches = [images[at : at + BATCH].astype(np.float32) for at in range(0, len(images), BATCH)]
            yield np.concatenate([predict(batch) for batch in batches])


def _send(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _end_with_parent() -> None:
    """Waits for the end of standard input, which the parent never closes while it lives and waits."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
