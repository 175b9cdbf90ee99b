"""From a preset to its file: out of the cache, or downloaded, gone on with where a connection broke, and checked.

Settings, all from the environment:
    DENSEPORT_CACHE: The folder of downloaded files, in place of the user's cache folder.
    DENSEPORT_MIRROR: Addresses of web servers that hold copies of such a folder, separated by spaces; they are asked
        in that order, and the publishers are not.
    DENSEPORT_OFFLINE, HF_HUB_OFFLINE: Where either is 1, nothing is downloaded.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from denseport import formats, layouts
from denseport.errors import DenseportError, FrameworkMissingError, quoted
from denseport.presets.preset import Preset
from denseport.presets.registry import find, is_preset

if TYPE_CHECKING:
    import requests

Progress = Callable[[int, int], None]

CACHE = "DENSEPORT_CACHE"
MIRROR = "DENSEPORT_MIRROR"
OFFLINE = ("DENSEPORT_OFFLINE", "HF_HUB_OFFLINE")
# Seconds without a byte before a connection is taken for broken, and how often it is then made again.
TIMEOUT = 30.0
RETRIES = 4
# More than any published DenseNet has; it keeps a server from filling the disk.
MAX_BYTES = 1 << 30
# What came of a chunk is lost where the connection breaks in it.
CHUNK = 1 << 16
# Statuses that may pass: the server is busy, or a part of it is down.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class DownloadError(DenseportError):
    """A file could not be downloaded, or is not what its publisher says it is."""


def pull(name: str, *, progress: Progress | None = None) -> Path:
    """The file of a preset, in the cache; downloaded where it is not there yet.

    A file of which a hash is known is held to it each time. Any other is held, when it comes, to the architecture that
    it should have; `Preset.notes` says so.

    Args:
        name: The preset.
        progress: Is called with the bytes that are there, and with all of them.

    Raises:
        UsageError: There is no such preset.
        DownloadError: It cannot be had, or what came is something else; nothing is left that could be used.
        FrameworkMissingError: pooch is not installed.
    """
    preset = find(name)
    file = cached_file(preset)
    import requests

    try:
        if _is_right(file, preset):
            return file
        if any(os.environ.get(setting, "").lower() in ("1", "true", "yes", "on") for setting in OFFLINE):
            raise DownloadError(
                f"{preset.name}: is not in the cache, and {' or '.join(OFFLINE)} forbids to download it; "
                f"put {preset.url} at {file}"
            )
        with _alone(file.parent):
            if not _is_right(file, preset):  # or it came while this process waited
                _download(preset, file, progress or (lambda _done, _total: None))
    except (requests.RequestException, ValueError) as error:  # the latter where a server redirects to no address
        raise DownloadError(
            f"{preset.name}: could not be downloaded ({quoted(error, 300)}); pull it again to go on, name a mirror by "
            f"{MIRROR}, or put {preset.url} at {file}"
        ) from None
    except OSError as error:
        raise DownloadError(
            f"{file}: cannot be read or written ({error.strerror or error}); free space, or name another folder by "
            f"{CACHE}"
        ) from None
    return file


def resolve(name: str | Path, *, progress: Progress | None = None) -> tuple[Path, Preset | None]:
    """A file, and its preset where that is what the name means: a file that exists goes before a preset.

    Raises:
        DenseportError: As for `pull`. A name that is neither is returned as it is.
    """
    if os.path.lexists(name) or not is_preset(str(name)):
        return Path(name), None
    return pull(str(name), progress=progress), find(str(name))


def cached_file(preset: Preset) -> Path:
    """Where a preset's file is, or is going to be.

    Raises:
        FrameworkMissingError: pooch is not installed.
    """
    if find_spec("pooch") is None:
        raise FrameworkMissingError("presets need pooch: pip install 'denseport[download]'")
    import pooch

    folder = os.environ.get(CACHE) or pooch.os_cache("denseport")
    return Path(folder).expanduser().absolute() / preset.name / preset.file_name


@dataclass
class _Resuming:
    """What pooch downloads with: a broken download is kept as `FILE.part`, and the next attempt goes on from there.

    pooch makes the attempts; its own downloader starts each from nothing.
    """

    preset: Preset
    part: Path
    progress: Progress
    version: str = ""

    def __call__(self, url: str, output_file: str, _pooch: object, **_others: object) -> None:
        """Downloads `url` to a path, all of it and checked, or raises what makes pooch try again, or what does not."""
        import requests

        there = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if there:
            headers |= {"Range": f"bytes={there}-"} | ({"If-Range": self.version} if self.version else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if not there or response.status_code != 416:  # which says that nothing follows what is there
                self._require_answer(response)
                self._save(response, there)
        try:
            _check(self.part, self.preset)
        except DownloadError as error:
            self.part.unlink()
            if there:  # the parts may be of different files
                raise requests.ConnectionError(str(error)) from None
            raise
        self.part.replace(output_file)

    def _require_answer(self, response: requests.Response) -> None:
        if response.status_code in PASSING:
            response.raise_for_status()
        if not response.ok:
            raise DownloadError(
                f"{self.preset.name}: {quoted(response.url, 300)} answers {response.status_code} "
                f"{quoted(response.reason)}; name a mirror by {MIRROR}, or put the file at {self.part.with_suffix('')}"
            )

    def _save(self, response: requests.Response, there: int) -> None:
        """Writes what comes, behind what is there where the server goes on from there.

        Raises:
            requests.RequestException: Less comes than the server said.
        """
        goes_on = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {there}-"
        )
        self.version = response.headers.get("ETag", "")
        done = there if goes_on else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else 0
        with self.part.open("ab" if goes_on else "wb") as part:
            for chunk in response.iter_content(CHUNK):
                done += len(chunk)
                if max(done, total) > MAX_BYTES:
                    self.part.unlink()
                    where = quoted(response.url, 300)
                    raise DownloadError(f"{self.preset.name}: {where} sends more than any net has; name a mirror")
                part.write(chunk)
                self.progress(done, max(done, total))


def _download(preset: Preset, file: Path, progress: Progress) -> None:
    """Puts a preset's file in place, from the first server that has it.

    Raises:
        DownloadError, requests.RequestException: No server has it; this is what the last one said.
    """
    import pooch
    import requests

    part = file.with_name(f"{file.name}.part")
    file.unlink(missing_ok=True)
    if not preset.hash:
        part.unlink(missing_ok=True)  # nothing would show that it is of another version
    pooch.get_logger().setLevel(logging.WARNING)
    mirrors = os.environ.get(MIRROR, "").split()
    urls = [f"{mirror.rstrip('/')}/{quote(f'{preset.name}/{file.name}')}" for mirror in mirrors] or [preset.url]
    for n, url in enumerate(urls, 1):
        attempts = pooch.create(
            file.parent, "", registry={file.name: None}, urls={file.name: url}, retry_if_failed=RETRIES
        )
        try:
            attempts.fetch(file.name, downloader=_Resuming(preset, part, progress))
            return
        except (DownloadError, requests.RequestException, ValueError):
            if n == len(urls):
                raise


def _is_right(file: Path, preset: Preset) -> bool:
    """Whether a file is there and, where a hash is known, has it."""
    return file.is_file() and (not preset.hash or _has_hash(file, preset.hash))


def _has_hash(file: Path, hash_: str) -> bool:
    import pooch

    algorithm, _, digits = hash_.partition(":")
    return bool(pooch.file_hash(str(file), alg=algorithm).startswith(digits))


def _check(file: Path, preset: Preset) -> None:
    """Raises DownloadError where a file has not the preset's hash or, where none is known, not its architecture."""
    if preset.hash:
        if not _has_hash(file, preset.hash):
            raise DownloadError(f"{preset.name}: what came has not the hash {preset.hash}; it was thrown away")
        return
    try:
        with formats.read(file) as checkpoint:
            config = layouts.detect(checkpoint, preset.layout).config
    except DenseportError as error:
        why = str(error).removeprefix(f"{file}: ")
        raise DownloadError(f"{preset.name}: what came is no such net and was thrown away: {why}") from None
    if config.replace(traits=preset.config.traits) != preset.config:
        raise DownloadError(f"{preset.name}: what came is {config.variant}, and was thrown away")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes a folder, and keeps every other process that asks for it waiting while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
