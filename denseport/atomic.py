"""Writing a file or a folder whole or not at all: beside the target, synced, then put in its place in one step."""

from __future__ import annotations

import ctypes
import fcntl
import glob
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from denseport.errors import UsageError, listed

MARK = ".denseport-"
RANDOM_BYTES = 8
# linux/fs.h and fcntl.h
RENAME_EXCHANGE, AT_FDCWD = 2, -100


@contextmanager
def replacing(target: Path, *, force: bool, files: Collection[str] | None = None) -> Iterator[Path]:
    """Yields a path to write to; when the block ends without an error, what is there takes the target's place.

    The path has the target's name, in a temporary folder beside it. A symbolic link is followed: what it names is
    replaced, the link stays.

    Args:
        target: The file or folder to write.
        force: Whether one that exists may be replaced; an empty folder always may.
        files: Where a folder is to be written, the names that may be in it, and the path is a new folder. One with any
            other file is not replaced, so that no folder is lost that was named by mistake.

    Raises:
        UsageError: The target exists and may not be replaced, is of the other kind, or its folder cannot be written to.
    """
    final = _free(target, force, files)
    try:
        with temporary_folder(final.parent, f".{_beginning(final.name)}{MARK}") as folder:
            temporary = folder / (target.name if files is None else final.name)
            if files is not None:
                temporary.mkdir()
            yield temporary
            for written in (*sorted(temporary.glob("*")), temporary):
                sync(written)
            if files is None:
                _put_file(temporary, target, final, force)
            else:
                _put_folder(temporary, target, _free(target, force, files))
    except OSError as error:
        raise _unwritable(target, error) from None
    with suppress(OSError):  # the target is in place; not every folder may be read, or can be synced
        sync(final.parent)


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder that is gone when the block ends, and with it what killed processes left under the same prefix.

    It is locked while it is in use, so that what a killed process left can be told from a neighbour's work.

    Raises:
        OSError: No folder can be made in `parent`.
    """
    _remove_leftovers(parent, prefix)
    with ExitStack() as clean_up:
        lock = None
        while lock is None:
            folder = parent / f"{prefix}{os.urandom(RANDOM_BYTES).hex()}"
            # Registered before there is one, since an interruption may come right after.
            clean_up.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir(0o700)
            lock = _locked(folder)
        clean_up.callback(os.close, lock)
        yield folder


def sync(path: Path) -> None:
    """Waits until what was written to a file or folder is on the disk.

    Raises:
        OSError: The disk has not taken it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(target: Path, force: bool, files: Collection[str] | None) -> Path:
    """What the target is or, where it is a symbolic link, names; it may be written, as far as one can tell.

    Raises:
        UsageError: It is in the way, cannot be what is to be written, or is read-only.
    """
    try:
        final = target.resolve()
        if not final.parent.is_dir():
            raise UsageError(f"{target}: the folder {final.parent} does not exist; make it first")
        if files is None:
            taken, foreign = os.path.lexists(target), []
            if final.exists() and not final.is_file():
                raise UsageError(f"{target}: is no regular file; give the name of a file to write")
            if final.exists() and not os.access(final, os.W_OK):
                raise UsageError(f"{target}: is read-only; give another name, or make it writable")
        else:
            if os.path.lexists(final) and not final.is_dir():
                raise UsageError(f"{target}: is a file, where a folder is to be written; give another name")
            inside = sorted(final.iterdir()) if final.exists() else []
            taken, foreign = (
                bool(inside),
                [each.name for each in inside if each.name not in files or not each.is_file()],
            )
    except (OSError, RuntimeError) as error:
        raise _unwritable(target, error) from None
    if taken and not force:
        raise UsageError(f"{target}: exists already; give --force to replace it, or another name")
    if foreign:
        raise UsageError(f"{target}: holds {listed(foreign, 3)}, which --force does not remove; give another name")
    return final


def _unwritable(target: Path, error: BaseException) -> UsageError:
    reason = getattr(error, "strerror", None) or str(error)
    return UsageError(f"{target}: cannot be written ({reason}); free space, or choose a folder you can write to")


def _put_file(temporary: Path, target: Path, final: Path, force: bool) -> None:
    """Gives a new file its place, and the mode of the one that was there."""
    if final.exists():
        temporary.chmod(stat.S_IMODE(final.stat().st_mode))
    if not force:
        with suppress(OSError):  # the place is taken, or this disk has no hard links
            os.link(temporary, final)
            return
        if os.path.lexists(target):
            raise UsageError(f"{target}: appeared while it was being written; give --force to replace it")
    temporary.replace(final)


def _put_folder(temporary: Path, target: Path, final: Path) -> None:
    """Gives a new folder its place; what was there lies where the new one was."""
    if not final.exists() or not any(final.iterdir()):
        temporary.replace(final)  # POSIX lets a folder replace an empty one
    elif not _exchanged(temporary, final):
        raise UsageError(f"{target}: this disk cannot exchange two folders at once; remove the old one first")


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two folders have changed places, in one step; False where the system cannot do so.

    Source: renameat2(2).
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def _beginning(name: str, size: int = 150) -> str:
    """As much of a file's name as leaves room for more in the 255 bytes that a name may have."""
    return name.encode("utf-8", "ignore")[:size].decode("utf-8", "ignore")


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the lock of a new folder while it is open; None where a neighbour was faster.

    Until it is locked, a neighbour may take it for a leftover. The folder is locked and not the file in it, since HDF5
    takes a lock of its own on the file.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.exists():
            return lock
    os.close(lock)
    return None


def _remove_leftovers(parent: Path, prefix: str) -> None:
    """Removes temporary folders of this prefix that no living process has locked."""
    ours = re.compile(f"{re.escape(prefix)}[0-9a-f]{{{2 * RANDOM_BYTES}}}")  # and no folder that a user named so
    for leftover in (path for path in parent.glob(f"{glob.escape(prefix)}*") if ours.fullmatch(path.name)):
        with suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(descriptor)
