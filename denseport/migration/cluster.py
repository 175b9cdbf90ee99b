"""What runs inside the workers of a Dask cluster: the same processes as on one machine, kept between jobs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from denseport.migration.jobs import Job
from denseport.migration.processes import Processes

IDLE_SECONDS = 60.0

_lock = threading.Lock()
_state: dict[str, Any] = {"processes": None, "busy": 0, "timer": None}


def perform(job: Mapping[str, Any]) -> dict[str, Any]:
    """Does a job in a process of this Dask worker's, which stays for the next one, if that comes soon."""
    with _lock:
        _stop_timer()
        _state["processes"] = processes = _state["processes"] or Processes()
        _state["busy"] += 1
    try:
        return processes.perform(Job.from_dict(job)).to_dict()
    finally:
        with _lock:
            _state["busy"] -= 1
            if not _state["busy"]:
                # Nobody tells the workers when a client was killed.
                _state["timer"] = timer = threading.Timer(IDLE_SECONDS, release)
                timer.daemon = True
                timer.start()


def release() -> None:
    """Ends the processes, unless another migration is using them."""
    with _lock:
        if _state["busy"]:
            return
        _stop_timer()
        processes, _state["processes"] = _state["processes"], None
    if processes is not None:
        processes.end()


def _stop_timer() -> None:
    if _state["timer"] is not None:
        _state["timer"].cancel()
        _state["timer"] = None
