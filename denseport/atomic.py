"""Writing a file whole or not at all: in a temporary folder beside the target, synced, then renamed into place."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from denseport import formats
from denseport.checkpoint import Checkpoint, Tensor
from denseport.errors import DenseportError, UsageError, VerificationError, listed

MARK = ".denseport-"
RANDOM_BYTES = 8


@contextmanager
def replacing(target: Path, *, force: bool) -> Iterator[Path]:
    """Yields a path to write to; when the block ends without an error, that file takes the target's place.

    The path has the target's name, in a temporary folder beside the file. A symbolic link is followed: the file that it
    names is replaced, the link stays.

    Raises:
        UsageError: The target exists and `force` is not set, is no regular file, or its folder cannot be written to.
    """
    if os.path.lexists(target) and not force:
        raise UsageError(f"{target}: exists already; give --force to replace it, or another name")
    final = _followed(target)
    try:
        with temporary_folder(final.parent, f".{_beginning(final.name)}{MARK}") as folder:
            temporary = folder / target.name
            try:
                yield temporary
            except DenseportError as error:
                error.args = tuple(str(text).replace(str(temporary), str(target)) for text in error.args)
                raise
            sync(temporary)
            if final.exists():
                temporary.chmod(stat.S_IMODE(final.stat().st_mode))
            if force or not _linked(temporary, final):
                if os.path.lexists(target) and not force:
                    raise UsageError(f"{target}: appeared while it was being written; give --force to replace it")
                temporary.replace(final)
    except OSError as error:
        raise _unwritable(target, error) from None
    with suppress(OSError):  # the file is in place; not every folder may be read, or can be synced
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


def confirm(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Reads a file back and compares it with the tensors that were written to it, bit by bit, while it is synced.

    Raises:
        OSError: The disk has not taken what was written.
        VerificationError: A name, shape, dtype or bit differs; the message names the tensors.
    """
    with ThreadPoolExecutor(1) as background, formats.read(path) as written:
        syncing = background.submit(sync, path)  # the disk is slow, and has nothing to wait for
        wrong = sorted(tensors.keys() ^ written.tensors.keys())
        wrong += [
            name
            for name, tensor in tensors.items()
            if name in written.tensors and not tensor.same_bits(written.tensors[name])
        ]
        syncing.result()
    if wrong:
        raise VerificationError(f"{path}: reading it back gave something else for {listed(wrong)}; is the disk sound?")


def write(
    checkpoint: Checkpoint,
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the option's name
    force: bool = False,
) -> None:
    """Writes a checkpoint's tensors and metadata under the names they have, whole or not at all, and reads them back.

    Args:
        checkpoint: What to write.
        path: The file; a name that ends in `.weights.h5` gives Keras 3's container, any other h5 name the legacy one.
        format: `pth`, `h5` or `safetensors`; None goes by the suffix.
        force: Whether an existing file may be replaced.

    Raises:
        UsageError: The file exists, or cannot be written.
        FormatError: The format cannot hold such names or dtypes.
        VerificationError: Reading back gave something else.
    """
    target = Path(path)
    if checkpoint.backend == "theano":
        raise UsageError(f"{target}: these kernels are Theano's, which a copy would not say; use convert")
    with replacing(target, force=force) as temporary:
        formats.write(checkpoint.tensors, checkpoint.metadata, temporary, format or formats.by_suffix(target))
        confirm(checkpoint.tensors, temporary)


def _unwritable(target: Path, error: BaseException) -> UsageError:
    reason = getattr(error, "strerror", None) or str(error)
    return UsageError(f"{target}: cannot be written ({reason}); free space, or choose a folder you can write to")


def _followed(target: Path) -> Path:
    """The file that the target is or, where it is a symbolic link, names; it may be written, as far as one can tell.

    Raises:
        UsageError: It cannot be a file, or is read-only.
    """
    try:
        final = target.resolve()
        if final.exists() and not final.is_file():
            raise UsageError(f"{target}: is no regular file; give the name of a file to write")
        if not final.parent.is_dir():
            raise UsageError(f"{target}: the folder {final.parent} does not exist; make it first")
        if final.exists() and not os.access(final, os.W_OK):
            raise UsageError(f"{target}: is read-only; give another name, or make it writable")
    except (OSError, RuntimeError) as error:
        raise _unwritable(target, error) from None
    return final


def _beginning(name: str, size: int = 150) -> str:
    """As much of a file's name as leaves room for more in the 255 bytes that a name may have."""
    return name.encode("utf-8", "ignore")[:size].decode("utf-8", "ignore")


def _linked(temporary: Path, final: Path) -> bool:
    """Puts the file at a place that must be free, in one step; False where it is taken, or links cannot be made."""
    try:
        os.link(temporary, final)
    except OSError:
        return False
    return True


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


def sync(path: Path) -> None:
    """Waits until what was written to a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
