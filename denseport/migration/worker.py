"""The process that converts one file after the other: `python -m denseport.migration.worker`, jobs and results as JSON.

It keeps the frameworks that it has started, so that they are loaded once and not once a file.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

from denseport.migration.jobs import Job, perform
from denseport.running.garbage import collect_rarely

if TYPE_CHECKING:
    from denseport.parity import Workers

SECONDS_TO_END = 4.0


def main() -> None:
    """Answers jobs from standard input on standard output; ends at its end, and then removes what is half done."""
    collect_rarely()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything prints must not get between the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process, and the parent ends this one
    signal.signal(signal.SIGTERM, _end)
    messages: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    try:
        with ExitStack() as until_the_end:
            _work(messages, replies, until_the_end)
    except SystemExit:
        # The other thread may be reading standard input, which Python cannot close then.
        os._exit(128 + signal.SIGTERM)


def _work(messages: queue.Queue[str], replies: TextIO, until_the_end: ExitStack) -> NoReturn:
    workers: Workers | None = None
    while True:
        job = Job.from_dict(json.loads(messages.get()))
        if workers is None and job.options.get("verify", True):
            from denseport.parity import Workers

            workers = until_the_end.enter_context(Workers())
        print(json.dumps(perform(job, workers).to_dict()), file=replies, flush=True)


def _listen(messages: queue.Queue[str]) -> None:
    """Passes on what the parent says, and ends the process when the parent is gone, soon even where it is stuck."""
    for line in sys.stdin:
        messages.put(line)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os._exit(1)


def _end(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit


if __name__ == "__main__":
    main()
