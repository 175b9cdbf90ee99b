"""Work in threads beside what needs its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from denseport.errors import UsageError

Given = ParamSpec("Given")
Result = TypeVar("Result")


def submitted(
    threads: ThreadPoolExecutor, work: Callable[Given, Result], *arguments: Given.args, **more: Given.kwargs
) -> Future[Result]:
    """Calls `work` in one of some threads.

    Raises:
        UsageError: The system starts no more threads.
    """
    try:
        return threads.submit(work, *arguments, **more)
    except RuntimeError as error:
        raise UsageError(
            f"the system refuses a thread ({error}); end other programs, or raise the limit (ulimit -u)"
        ) from None


@contextmanager
def in_background(
    work: Callable[Given, Result], *arguments: Given.args, **more: Given.kwargs
) -> Iterator[Future[Result]]:
    """Calls `work` in a thread of its own, which has ended when the block has.

    Raises:
        UsageError: The system starts no more threads.
    """
    with ThreadPoolExecutor(1) as thread:
        yield submitted(thread, work, *arguments, **more)
