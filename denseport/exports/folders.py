"""Writing a folder whole or not at all: beside its place, synced, then renamed or exchanged into it in one step."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from denseport.atomic import MARK, sync, temporary_folder
from denseport.errors import DenseportError, UsageError, listed

# linux/fs.h and fcntl.h
RENAME_EXCHANGE, AT_FDCWD = 2, -100


@contextmanager
def replacing_folder(target: Path, files: Collection[str], *, force: bool) -> Iterator[Path]:
    """Yields a new folder to write files into; when the block ends without an error, it takes the target's place.

    A folder with files in it is replaced where `force` is set and it has nothing but `files`, so that no folder is lost
    that was named by mistake.

    Raises:
        UsageError: The target exists, holds something else, or its folder cannot be written to.
    """
    final = _free(target, files, force)
    try:
        with temporary_folder(final.parent, f".{final.name[:100]}{MARK}") as outer:
            temporary = outer / final.name
            temporary.mkdir()
            try:
                yield temporary
            except DenseportError as error:
                error.args = tuple(str(text).replace(str(temporary), str(target)) for text in error.args)
                raise
            for written in (*sorted(temporary.iterdir()), temporary):
                sync(written)
            _put(temporary, _free(target, files, force), target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"{target}: cannot be written ({reason}); free space, or choose a folder you can write to"
        ) from None
    with suppress(OSError):  # the folder is in place; not every folder may be read, or can be synced
        sync(final.parent)


def _free(target: Path, files: Collection[str], force: bool) -> Path:
    """The folder that the target is or names; there is none, or it is empty, or may be replaced.

    Raises:
        UsageError: It is in the way.
    """
    try:
        final = target.resolve()
        if not final.parent.is_dir():
            raise UsageError(f"{target}: the folder {final.parent} does not exist; make it first")
        if not os.path.lexists(final):
            return final
        if not final.is_dir():
            raise UsageError(f"{target}: is a file, where a folder is to be written; give another name")
        inside = sorted(final.iterdir())
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{target}: cannot be looked into ({error}); choose a folder you can write to") from None
    if inside and not force:
        raise UsageError(f"{target}: exists already; give --force to replace it, or another name")
    if foreign := [each.name for each in inside if each.name not in files or not each.is_file()]:
        raise UsageError(f"{target}: holds {listed(foreign, 3)}, which --force does not remove; give another name")
    return final


def _put(new: Path, final: Path, target: Path) -> None:
    """Gives the new folder its place; what was there lies where the new one was."""
    if not final.exists() or not any(final.iterdir()):
        new.replace(final)  # POSIX lets a folder replace an empty one
    elif not _exchanged(new, final):
        raise UsageError(f"{target}: this disk cannot exchange two folders at once; remove the old one first")


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two folders have changed places, in one step; False where the system cannot do so.

    Source: renameat2(2).
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)
