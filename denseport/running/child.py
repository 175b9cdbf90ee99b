"""The process in which one framework runs files: `python -m denseport.running.child`, requests and replies as JSON.

Each framework has a process of its own: their native libraries do not mix (importing TensorFlow and then torchvision
ends in a segmentation fault), both run at once, and each one's memory is its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from denseport.errors import DenseportError
from denseport.running.garbage import collect_rarely, keep_what_is_there
from denseport.running.images import ImageSet
from denseport.running.request import Pass, Request, Training
from denseport.running.runners import RUNNERS, Runner, configuration
from denseport.running.training import canonical_arrays

BATCH = 32
TAPPED_IMAGES = 2


def main() -> None:
    """Answers what comes on standard input through the descriptor it is given; ends when the parent process does."""
    collect_rarely()
    replies = os.fdopen(int(sys.argv[1]), "w")
    os.set_inheritable(replies.fileno(), False)  # a child of the framework's would keep it open
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    started = time.perf_counter()
    which = messages.get()
    runner = RUNNERS[which["framework"]](which["allow_tf32"])
    keep_what_is_there()  # else to forget a small net takes longer than to run it
    _send(replies, {"cuda": runner.has_cuda()})
    while True:
        request = Request.from_json(messages.get())
        started = started or time.perf_counter()
        try:
            for each in request.passes:
                _run(runner, request, each, lambda: _send(replies, {"progress": 1}))
            if request.training:
                _train(runner, request, request.training)
            reply = {
                "version": runner.version(),
                "device": runner.device_name(request.device),
                "settings": runner.settings(),
                "seconds": time.perf_counter() - started,
                "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        except DenseportError as error:
            reply = {"error": str(error), "kind": type(error).__name__}
        runner.forget()
        _send(replies, reply)
        started = 0.0


def _run(runner: Runner, request: Request, each: Pass, one_batch_done: Callable[[], None]) -> None:
    """Writes the outputs of one pass, and what it saw on the way, in one image of each array or two of one alone."""
    predict = runner.load(each, request.device)
    outputs: dict[str, np.ndarray] = {}
    taps: dict[str, np.ndarray] = {}
    # Noise comes in several arrays, whose first images show what others would; a user's images come in one.
    looked_into = 1 if len(request.images) > 1 else TAPPED_IMAGES
    for n, images in enumerate(map(ImageSet.from_json, request.images)):
        batches: list[np.ndarray] = []
        for batch in images.batches(BATCH):
            tapped = each.tapped and not batches
            logits, activations = predict(batch, tapped)
            batches.append(logits)
            if tapped:
                activations["head"] = logits
            taps |= {f"{tap}/{n}": activation[:looked_into].copy() for tap, activation in activations.items()}
            one_batch_done()
            if each.first_batch:
                break
        outputs[str(n)] = np.concatenate(batches)
    np.savez(request.outputs(each.name), **outputs)  # type: ignore[arg-type]
    if each.tapped:
        np.savez(request.taps(each.name), **taps)  # type: ignore[arg-type]


def _train(runner: Runner, request: Request, training: Training) -> None:
    """Writes losses, the first step's gradients and the tensors after the last one, under canonical names."""
    each = dataclasses.replace(request.passes[0], dtype="float64")
    trained = runner.train(each, request.device, training)
    layout = each.layout if each.library else "denseport"
    arrays = {"losses": np.array(trained.losses)}
    for what, native in (("gradient", trained.gradients), ("updated", trained.updated)):
        canonical = canonical_arrays(native, layout, configuration(each).traits)
        arrays |= {f"{what}/{name}": array for name, array in canonical.items()}
    np.savez(request.trained, **arrays)  # type: ignore[arg-type]


def _send(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _listen(messages: queue.Queue[dict[str, Any]]) -> None:
    """Passes on what the parent says, and ends the process at the end of standard input: the parent is gone."""
    for line in sys.stdin:
        messages.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    main()
