"""Where files are: in a local folder, or behind any URL that fsspec knows; fetched whole, and uploaded whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from denseport import atomic
from denseport.errors import DenseportError, FrameworkMissingError, UsageError, VerificationError, quoted
from denseport.source import sha256

if TYPE_CHECKING:
    import fsspec

TEMPORARY = "denseport-migration-"
LOCAL = ("file://", "local://")


def is_remote(place: str) -> bool:
    """Whether only fsspec can open it."""
    return "://" in place and not place.startswith(LOCAL)


def local(place: str) -> Path:
    """The path of a place that is not remote.

    Raises:
        UsageError: It is a URL of another machine's file.
    """
    if not place.startswith(LOCAL):
        return Path(place)
    url = urlsplit(place)
    if url.netloc not in ("", "localhost"):
        raise UsageError(f"{place}: names the machine {quoted(url.netloc)}; write file:///, and then the whole path")
    return Path(unquote(url.path))


def absolute(place: str, folder: str) -> str:
    """The place that a name in `folder` means, which may itself be a whole path or URL."""
    if is_remote(place):
        return place
    if is_remote(folder) and not place.startswith(LOCAL):
        return f"{folder.rstrip('/')}/{place}"
    return str(Path(os.path.normpath(local(folder).absolute() / local(place))))


def real(place: str) -> str:
    """The same place without the symbolic links of its folders and its own; a remote one as it is."""
    return place if is_remote(place) else os.path.realpath(place)


@contextmanager
def fetched(source: str) -> Iterator[Path]:
    """The file itself, or a copy of a remote one that is gone when the block ends.

    Raises:
        UsageError: It cannot be fetched.
    """
    if not is_remote(source):
        yield local(source)
        return
    with atomic.temporary_folder(Path(tempfile.gettempdir()), TEMPORARY) as folder:
        copy = folder / _file_name(source)
        system, path = _opened(source)
        with _driven(source):
            system.get_file(path, str(copy))
        yield copy


def digest(place: str) -> str | None:
    """The SHA-256 of what is there; None where nothing is.

    Raises:
        UsageError: It cannot be read.
    """
    if not is_remote(place):
        return sha256(local(place)) if os.path.lexists(local(place)) else None
    system, path = _opened(place)
    with _driven(place):
        if not system.exists(path):
            return None
    with fetched(place) as copy:
        return sha256(copy, place)


@contextmanager
def replacing(target: str, *, force: bool) -> Iterator[Path]:
    """Yields a local path to write to; when the block ends without an error, that file is at `target`, whole.

    Folders are made where they are missing. A remote file is sent in one of fsspec's transactions: file systems that
    know them, as object stores do, show nothing of it before it is whole.

    Raises:
        UsageError: The target exists and `force` is not set, or cannot be written.
        VerificationError: What has arrived is not as long as what was sent.
    """
    if not is_remote(target):
        path = local(target)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(target, error) from None
        with atomic.replacing(path, force=force) as temporary:
            yield temporary
        return
    system, remote = _opened(target)
    try:
        with atomic.temporary_folder(Path(tempfile.gettempdir()), TEMPORARY) as folder:
            copy = folder / _file_name(target)
            with _driven(target):
                taken = not force and system.exists(remote)
            if taken:
                raise UsageError(f"{target}: exists already; give --force to replace it, or another name")
            yield copy
            with _driven(target):
                system.makedirs(system._parent(remote), exist_ok=True)
                with system.transaction, copy.open("rb") as whole, system.open(remote, "wb") as sent:
                    shutil.copyfileobj(whole, sent)
                if system.size(remote) != copy.stat().st_size:
                    raise VerificationError(f"{target}: was not uploaded completely; run the migration again")
    except OSError as error:
        raise _unusable(target, error) from None


def files_below(folder: str) -> list[str]:
    """The names of all files below a folder, relative to it, in order; hidden ones are left out.

    Raises:
        UsageError: It is no folder, or cannot be read.
    """
    if not is_remote(folder):
        top = local(folder)
        if not top.is_dir():
            raise UsageError(f"{folder}: is neither a folder nor a manifest that ends in .toml or .csv; check the path")
        names = [
            str((Path(at) / name).relative_to(top)) for at, _, files in os.walk(top, onerror=_refuse) for name in files
        ]
    else:
        system, path = _opened(folder)
        prefix = path.rstrip("/") + "/"
        with _driven(folder):
            names = [found.removeprefix(prefix) for found in system.find(path)]
    return sorted(name for name in names if not any(part.startswith(".") for part in PurePosixPath(name).parts))


def _refuse(error: OSError) -> None:
    raise _unusable(str(error.filename), error)


def _opened(place: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the path in it.

    Raises:
        FrameworkMissingError: fsspec is not installed.
        UsageError: There is no such file system, or what it needs is missing.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise FrameworkMissingError(f"{place}: this needs fsspec: pip install 'denseport[cluster]'") from None
    if "::" in place:
        raise UsageError(f"{place}: is a chain of URLs; give a plain one")
    try:
        found: tuple[Any, str] = url_to_fs(place)
    except (ImportError, OSError, ValueError) as error:
        raise _unusable(place, error) from None
    return found


@contextmanager
def _driven(place: str) -> Iterator[None]:
    """Turns whatever a driver of fsspec raises into one line; their errors have no class in common.

    Raises:
        UsageError: The driver failed.
    """
    try:
        yield
    except DenseportError:
        raise
    except Exception as error:  # botocore's and aiohttp's are neither OSError nor each other's
        raise _unusable(place, error) from None


def _file_name(place: str) -> str:
    name = PurePosixPath(urlsplit(place).path).name
    return name if name and len(name.encode()) < 200 and name != ".." else "file"


def _unusable(place: str, error: BaseException) -> UsageError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, FileNotFoundError) and not error.strerror:
        reason = f"not found: {place}"
    return UsageError(f"{place}: cannot be used ({quoted(reason, 200)}); check the address and your access to it")
