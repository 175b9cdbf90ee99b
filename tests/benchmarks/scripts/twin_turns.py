"""Calls in turn within one process, so that what else happens on the machine meets all that are compared alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import chain, repeat
from statistics import median


def in_turn(ways: Mapping[str, Callable[[], object]], runs: int, calls: int) -> dict[str, list[float]]:
    """Seconds of each run by name, where a run is the median of some calls.

    Each is called once before, which is not counted. Who comes first changes from round to round.
    """
    for call in ways.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for _ in range(runs):
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for first in chain.from_iterable(repeat(range(len(names)), calls)):
            for name in names[first:] + names[:first]:
                started = time.perf_counter()
                ways[name]()
                seconds[name].append(time.perf_counter() - started)
        for name in names:
            found[name].append(median(seconds[name]))
    return found
