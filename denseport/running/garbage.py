"""How often Python looks for garbage in a process of denseport's own, and through what."""

from __future__ import annotations

import gc

# A command makes tens of thousands of objects that stay until its end, a framework as it is imported ten times as many;
# to look through them again and again takes time.
OBJECTS_BETWEEN_COLLECTIONS = 100_000


def collect_rarely() -> None:
    """Lets a process make more objects between two collections; not for one that is somebody else's."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)


def keep_what_is_there() -> None:
    """Leaves all objects that there are, such as an imported framework's million, out of every later collection."""
    gc.freeze()
