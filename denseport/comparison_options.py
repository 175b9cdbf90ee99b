"""What everything takes that compares files: `verify`, `convert` and `assert_parity`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from denseport import options

if TYPE_CHECKING:
    from denseport.parity import Workers


class Comparing(options.Comparing, total=False):
    """The options, and what belongs to one call: who is told how far it is, and the processes that are used."""

    progress: Callable[[int, int], None] | None
    workers: Workers | None
