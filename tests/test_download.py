"""Presets are downloaded from servers that break, stall and lie; what is in the cache is right, or is not there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pooch
import pytest

from denseport import presets
from denseport.errors import DenseportError, FrameworkMissingError, UsageError
from denseport.presets import download

CONTENT = random.Random(1).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
NAME = "lab/net"
PULL = "import sys; from denseport import presets; print(presets.pull(sys.argv[1]))"

PRESET = """
[presets."lab/net"]
variant = "densenet121"
architecture = {architecture}
layout = "torchvision"
url = "{url}/weights/net.pth"
hash = "{hash}"
preprocessing = "torch"
crop = 32
licence = "none"
source = "a test"
"""
# What fixtures/digits-torch.pth holds.
DIGITS = """{ growth_rate = 8, block_config = [2, 3, 2], stem_widths = [18], bottleneck_width = 32,
  transition_widths = [17, 20], num_classes = 10 }""".replace("\n", "")

Answer = Callable[["Handler"], None]
Register = Callable[..., None]


class Server(ThreadingHTTPServer):
    """Serves one file, but answers its first requests as `script` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.script: list[Answer] = []
        self.requests: list[tuple[str, str | None]] = []
        self.encodings: set[str] = set()
        self.outwaited = False
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Range"]))
        self.server.encodings.add(self.headers["Accept-Encoding"])
        answer = self.server.script.pop(0) if self.server.script else whole
        answer(self)

    def log_message(self, *arguments: object) -> None:
        pass

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def whole(handler: Handler) -> None:
    """A sound server's answer, from where the client asks for."""
    content = handler.server.content
    tag = f'"{hashlib.md5(content).hexdigest()}"'
    start = int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if handler.headers["If-Range"] not in (None, tag):
        start = 0
    if start >= len(content):
        handler.send(416, Content_Range=f"bytes */{len(content)}")
    elif start:
        handler.send(206, content[start:], Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}", ETag=tag)
    else:
        handler.send(200, content, ETag=tag)


def without_ranges(handler: Handler) -> None:
    handler.send(200, handler.server.content)


def other_range(handler: Handler) -> None:
    """Goes on, but from the file's start."""
    content = handler.server.content
    handler.send(206, content, Content_Range=f"bytes 0-{len(content) - 1}/{len(content)}")


def cut(at: int) -> Answer:
    """Sends the first bytes of what was asked for, and hangs up."""

    def answer(handler: Handler) -> None:
        content = handler.server.content
        start = int((handler.headers["Range"] or "bytes=0-")[len("bytes=") : -1])
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        length = {"Content_Length": str(len(content) - start), "ETag": tag}
        part = content[start : start + at]
        if start:
            handler.send(206, part, Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}", **length)
        else:
            handler.send(200, part, **length)

    return answer


def stall(at: int) -> Answer:
    """Sends the first bytes, and then nothing."""

    def answer(handler: Handler) -> None:
        cut(at)(handler)
        handler.wfile.flush()
        handler.server.outwaited |= not handler.server.released.wait(30)

    return answer


def redirect(to: str) -> Answer:
    return lambda handler: handler.send(302, Location=to)


def status(code: int) -> Answer:
    return lambda handler: handler.send(code, b"<html>no</html>")


def body(content: bytes, **headers: str) -> Answer:
    return lambda handler: handler.send(200, content, **headers)


def to_its_end(content: bytes) -> Answer:
    """Says no length: the end of the connection is the end of the file."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def changed(handler: Handler) -> None:
    """From now on there is another file at the address; what is asked for is answered by it."""
    handler.server.content = CONTENT[::-1]
    whole(handler)


def to_another_file(handler: Handler) -> None:
    """Breaks off, and then there is the right file at the address, where there was another."""
    handler.server.content = CONTENT[::-1]
    cut(1000)(handler)
    handler.server.content = CONTENT


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def register(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Makes a preset of the server's file, and a cache of its own."""
    for setting in (*download.OFFLINE, download.MIRROR):
        monkeypatch.delenv(setting, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(download.CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv("DENSEPORT_PRESETS", str(tmp_path / "presets.toml"))
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda _seconds: None))
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setattr(download, "CHUNK", 1000)

    def make(hash_: str = f"sha256:{DIGEST}", architecture: str = "{}") -> None:
        text = PRESET.format(url=server.url, hash=hash_, architecture=architecture)
        (tmp_path / "presets.toml").write_text(text)

    make()
    return make


def in_cache(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / NAME
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("hash_", [f"sha256:{DIGEST}", f"sha256:{DIGEST[:8]}", f"md5:{MD5}"])
def test_a_file_comes_once_and_its_progress_is_told(
    server: Server, register: Register, tmp_path: Path, hash_: str
) -> None:
    register(hash_)
    told: list[tuple[int, int]] = []
    file = presets.pull(NAME, progress=lambda done, total: told.append((done, total)))
    assert file == tmp_path / "cache" / "lab" / "net" / "net.pth"
    assert file.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert presets.pull(NAME) == presets.pull("net") == file
    assert len(server.requests) == 1
    assert in_cache(tmp_path) == ["net.pth"]


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([cut(70_000)], [None, "bytes=70000-"]),
        ([cut(70_000), cut(50_000), cut(0)], [None, "bytes=70000-", "bytes=120000-", "bytes=120000-"]),
        ([cut(0)], [None, None]),
        ([stall(70_000)], [None, "bytes=70000-"]),
        ([cut(70_000), without_ranges], [None, "bytes=70000-"]),
        ([cut(70_000), other_range], [None, "bytes=70000-"]),
        ([cut(70_000), status(500), status(503), status(429)], [None] + ["bytes=70000-"] * 4),
        ([redirect("/elsewhere"), redirect("weights/net.pth")], [None] * 3),
        ([cut(70_000), redirect("/elsewhere")], [None, "bytes=70000-", "bytes=70000-"]),
        ([to_its_end(CONTENT)], [None]),
        ([body(CONTENT, Content_Length=str(len(CONTENT) + 100))], [None, f"bytes={len(CONTENT)}-"]),
        ([body(CONTENT, Content_Length="much")], [None]),
        ([to_another_file], [None, "bytes=1000-"]),
    ],
    ids=[
        "cut", "cut thrice", "cut at once", "stalls", "knows no ranges", "sends another range", "is busy",
        "redirects", "redirects when resumed", "says no length", "says too great a length", "says no number",
        "had another file",
    ],
)  # fmt: skip
def test_a_download_survives(server: Server, tmp_path: Path, script: list[Answer], ranges: list[str | None]) -> None:
    server.script = list(script)
    assert presets.pull(NAME).read_bytes() == CONTENT
    assert [range_ for _, range_ in server.requests] == ranges
    assert in_cache(tmp_path) == ["net.pth"]
    assert server.encodings == {"identity"}  # ranges are of the file itself
    assert not server.outwaited


def test_a_server_that_ignores_whether_the_file_changed_is_found_out(server: Server) -> None:
    """The second part is of another file than the first, and the hash shows it; the third attempt is anew."""

    def mixed(handler: Handler) -> None:
        content = CONTENT[::-1]
        handler.send(206, content[70_000:], Content_Range=f"bytes 70000-{len(content) - 1}/{len(content)}")

    server.script = [cut(70_000), mixed]
    assert presets.pull(NAME).read_bytes() == CONTENT
    assert [range_ for _, range_ in server.requests] == [None, "bytes=70000-", None]


@pytest.mark.parametrize(
    ("script", "message", "left"),
    [
        ([body(CONTENT[::-1])], "has not the hash", []),
        ([body(CONTENT[:-100])], "has not the hash", []),
        ([to_its_end(CONTENT[:-100])], "has not the hash", []),
        ([status(404)], r"answers 404 Not Found; name a mirror", []),
        ([status(403)], r"answers 403", []),
        ([status(416)], r"answers 416", []),
        ([status(500)] * 5, r"500 Server Error", []),
        ([cut(70_000), *[cut(0)] * 4], r"pull it again to go on", ["net.pth.part"]),
        ([redirect("/again")] * 200, r"Exceeded 30 redirects", []),
        ([redirect("http://[rubbish")] * 5, r"could not be downloaded", []),
        ([redirect("file:///etc/passwd")] * 5, r"could not be downloaded", []),
    ],
    ids=[
        "wrong bytes", "too short", "cut, says no length", "not there", "forbidden", "no range at all", "broken",
        "cut each time", "redirects in circles", "redirects to nowhere", "redirects to a file",
    ],
)  # fmt: skip
def test_a_download_fails_and_leaves_nothing_usable(
    server: Server, tmp_path: Path, script: list[Answer], message: str, left: list[str]
) -> None:
    server.script = list(script)
    with pytest.raises(download.DownloadError, match=message) as caught:
        presets.pull(NAME)
    assert "\n" not in str(caught.value)
    assert in_cache(tmp_path) == left


def test_a_refusal_is_final_at_once(server: Server) -> None:
    server.script = [status(404)]
    with pytest.raises(download.DownloadError):
        presets.pull(NAME)
    assert len(server.requests) == 1


def test_no_server_fills_the_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", len(CONTENT) - 1)
    for answer in (whole, to_its_end(CONTENT)):
        server.script = [answer]
        with pytest.raises(download.DownloadError, match="sends more than any net has"):
            presets.pull(NAME)
        assert in_cache(tmp_path) == []


def test_a_later_pull_goes_on(server: Server) -> None:
    server.script = [cut(70_000), *[cut(0)] * 4]
    with pytest.raises(download.DownloadError):
        presets.pull(NAME)
    assert presets.pull(NAME).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=70000-"


def test_a_part_that_is_whole_is_checked_and_taken(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / NAME
    folder.mkdir(parents=True)
    (folder / "net.pth.part").write_bytes(CONTENT)
    assert presets.pull(NAME).read_bytes() == CONTENT
    (folder / "net.pth").unlink()
    (folder / "net.pth.part").write_bytes(CONTENT + b"more")
    assert presets.pull(NAME).read_bytes() == CONTENT
    assert [range_ for _, range_ in server.requests] == ["bytes=300000-", "bytes=300004-", None]


def test_a_file_in_the_cache_is_held_to_its_hash(server: Server) -> None:
    file = presets.pull(NAME)
    file.write_bytes(CONTENT[:-1] + b"x")
    assert presets.pull(NAME).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_without_a_hash_the_architecture_is_what_a_file_is_held_to(
    server: Server, register: Register, fixtures: Path, tmp_path: Path
) -> None:
    server.content = (fixtures / "digits-torch.pth").read_bytes()
    register("none", DIGITS)
    (note,) = presets.find(NAME).notes
    assert "states no hash" in note
    for wrong in (CONTENT, b"<html>log in</html>", server.content[: len(server.content) // 2], b""):
        server.script = [body(wrong)]
        with pytest.raises(download.DownloadError, match=r"no such net and was thrown away|could not be"):
            presets.pull(NAME)
        assert in_cache(tmp_path) == []
    assert presets.pull(NAME).read_bytes() == server.content


def test_without_a_hash_another_net_is_refused(
    server: Server, register: Register, fixtures: Path, tmp_path: Path
) -> None:
    server.content = (fixtures / "digits-torch.pth").read_bytes()
    register("none", DIGITS.replace("num_classes = 10", "num_classes = 11"))
    with pytest.raises(download.DownloadError, match="what came is densenet-b k=8 blocks=2-3-2"):
        presets.pull(NAME)
    assert in_cache(tmp_path) == []


def test_without_a_hash_nothing_old_is_gone_on_with(
    server: Server, register: Register, fixtures: Path, tmp_path: Path
) -> None:
    server.content = (fixtures / "digits-torch.pth").read_bytes()
    register("none", DIGITS)
    folder = tmp_path / "cache" / NAME
    folder.mkdir(parents=True)
    (folder / "net.pth.part").write_bytes(b"of last year")
    server.script = [cut(5000)]
    assert presets.pull(NAME).read_bytes() == server.content
    assert [range_ for _, range_ in server.requests] == [None, "bytes=5000-"]


def test_without_a_hash_a_file_that_changed_on_the_way_is_taken_anew(
    server: Server, register: Register, fixtures: Path
) -> None:
    register("none", DIGITS)
    right = (fixtures / "digits-torch.pth").read_bytes()

    def other(handler: Handler) -> None:
        handler.server.content = bytes(len(right))
        cut(5000)(handler)
        handler.server.content = right

    server.script = [other]
    assert presets.pull(NAME).read_bytes() == right
    assert len(server.requests) == 2


@pytest.mark.parametrize("setting", download.OFFLINE)
def test_offline_says_what_to_put_where(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv(setting, "1")
    file = tmp_path / "cache" / NAME / "net.pth"
    with pytest.raises(download.DownloadError, match=f"put {server.url}/weights/net.pth at {file}"):
        presets.pull(NAME)
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT[::-1])
    with pytest.raises(download.DownloadError, match="forbids"):
        presets.pull(NAME)
    file.write_bytes(CONTENT)
    assert presets.pull(NAME) == file
    assert server.requests == []


def test_mirrors_are_asked_in_place_of_the_publisher(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [status(404), body(CONTENT[::-1]), whole]
    monkeypatch.setenv(download.MIRROR, f"{server.url}/a/ {server.url}/b {server.url}/c")
    assert presets.pull(NAME).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == [f"/{mirror}/lab/net/net.pth" for mirror in "abc"]
    (tmp_path / "cache" / NAME / "net.pth").unlink()
    server.script = [status(404)] * 3
    with pytest.raises(download.DownloadError, match=r"/c/lab/net/net\.pth answers 404"):
        presets.pull(NAME)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download.MIRROR, "http://127.0.0.1:1")
    with pytest.raises(download.DownloadError, match="could not be downloaded"):
        presets.pull(NAME)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(download.DownloadError, match="name another folder by DENSEPORT_CACHE"):
        presets.pull(NAME)


def test_two_processes_pull_at_once(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.2)
        whole(handler)

    server.script = [slow]
    both = [subprocess.Popen([sys.executable, "-c", PULL, NAME], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].strip() for process in both]
    assert said == [str(tmp_path / "cache" / NAME / "net.pth")] * 2
    assert Path(said[0]).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_what_came_while_a_process_waited_is_taken(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / NAME
    folder.mkdir(parents=True)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as background:
        pulled = background.submit(presets.pull, NAME)
        time.sleep(0.3)
        assert not pulled.done()
        (folder / "net.pth").write_bytes(CONTENT)
        os.close(lock)
        assert pulled.result(10) == folder / "net.pth"
    assert server.requests == []


def test_a_process_that_is_killed_leaves_what_the_next_goes_on_with(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "cache" / NAME / "net.pth.part"
    server.script = [stall(200_000)]
    with subprocess.Popen([sys.executable, "-c", PULL, NAME]) as process:
        until = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    there = part.stat().st_size
    assert there
    assert not (tmp_path / "cache" / NAME / "net.pth").exists()
    assert presets.pull(NAME).read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={there}-"


def test_a_name_is_a_file_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert presets.resolve("no-such.pth") == (Path("no-such.pth"), None)
    file, preset = presets.resolve(NAME)
    assert file.read_bytes() == CONTENT
    assert preset == presets.find(NAME)
    (tmp_path / "lab").mkdir()
    (tmp_path / NAME).touch()
    assert presets.resolve(NAME) == (Path(NAME), None)


def test_without_pooch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "find_spec", lambda _name: None)
    with pytest.raises(FrameworkMissingError, match=r"denseport\[download\]"):
        presets.pull(NAME)


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(download.CACHE)
    assert download.cached_file(presets.find(NAME)) == Path(pooch.os_cache("denseport")) / "lab" / "net" / "net.pth"


def test_an_unknown_preset() -> None:
    assert issubclass(download.DownloadError, DenseportError)
    with pytest.raises(UsageError, match="no such preset"):
        presets.pull("no/such")
