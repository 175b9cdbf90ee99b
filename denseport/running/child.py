"""A process of its own for what needs one: `python -P -m denseport.running.child MODULE DESCRIPTOR`.

MODULE has a function `serve(next_message, reply)`, which is called once; `next_message(timeout=SECONDS)` raises
`queue.Empty` where none comes. Messages and replies are JSON, one a line: messages come on standard input, replies go
through DESCRIPTOR, since anything may print on standard output.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

Message = dict[str, Any]
Receive = Callable[..., Message]
Reply = Callable[[Message], None]

SECONDS_TO_END = 4.0
ENDED_BY_SIGTERM = 128 + signal.SIGTERM
# A command makes tens of thousands of objects that stay until its end, a framework as it is imported ten times as many;
# to look through them again and again takes time.
OBJECTS_BETWEEN_COLLECTIONS = 100_000


def main() -> NoReturn:
    """Serves until the module has enough, or the parent sends SIGTERM or is gone; what is half done is then removed."""
    collect_rarely()
    module, descriptor = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process, and the parent ends this one
    signal.signal(signal.SIGTERM, _unwind)
    replies = os.fdopen(int(descriptor), "w")
    os.set_inheritable(replies.fileno(), False)  # a child of this one's would keep it open
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()

    def reply(message: Message) -> None:
        print(json.dumps(message), file=replies, flush=True)

    code = 1
    try:
        import_module(module).serve(messages.get, reply)
        code = 0
    except SystemExit:
        code = ENDED_BY_SIGTERM
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)  # the other thread may be reading standard input, which Python could not close


def collect_rarely() -> None:
    """Lets a process make more objects between two collections; not for one that is somebody else's."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)


def _listen(messages: queue.SimpleQueue[Message]) -> None:
    """Passes on what the parent says, and ends the process when the parent is gone, soon even where it is stuck."""
    for line in sys.stdin:
        messages.put(json.loads(line))
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os._exit(1)


def _unwind(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit


if __name__ == "__main__":
    main()
