"""Whatever ends a conversion, and whenever: the target is the old file or the whole new one, and no process stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from densenets import canonical_weights

import denseport
from denseport.checkpoint import Checkpoint, Tensor
from denseport.net.config import DenseNetConfig

CONFIG = DenseNetConfig.bc(40, (4, 6, 8, 4), num_classes=10)
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ROOT = FIXTURES.parent


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two nets of one architecture and 13 MB each."""
    folder = tmp_path_factory.mktemp("sources")
    paths = [folder / "first.safetensors", folder / "second.safetensors"]
    for seed, path in enumerate(paths):
        arrays = canonical_weights(CONFIG, seed)
        denseport.write(Checkpoint({name: Tensor.of(array) for name, array in arrays.items()}), path)
    return paths


def heed_signals() -> None:
    """Undoes what a shell does to processes in the background, and `nohup` to all."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def started(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """The command line in a process that heeds signals, even where the tests themselves do not."""
    return subprocess.Popen(
        [sys.executable, "-m", "denseport", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        preexec_fn=heed_signals,
    )


def converting(source: Path, target: Path, *options: str) -> subprocess.Popen[str]:
    return started("convert", "--no-verify", *options, source, target)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a process, and what it said, but for notes."""
    _, said = process.communicate()
    return process.returncode, "".join(line for line in said.splitlines() if not line.startswith("note: "))


def converted(source: Path, target: Path) -> bytes:
    """What a conversion of `source` to a file of that name gives."""
    target.parent.mkdir()
    assert ended(converting(source, target)) == (0, "")
    return target.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 30) -> None:
    """Waits for a condition that holds before the process ends."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("name", ["x.pth", "x.weights.h5", "x.safetensors"])
def test_killed_at_any_moment(sources: list[Path], tmp_path: Path, name: str) -> None:
    old, new = (converted(source, tmp_path / source.stem / name) for source in sources)
    folder = tmp_path / "folder"
    folder.mkdir()
    target = folder / name
    target.write_bytes(old)

    def at_work(process: subprocess.Popen[str]) -> float:
        """Waits for the temporary folder, or the end; returns the time."""
        while len(names(folder)) == 1 and process.poll() is None:
            time.sleep(0.001)
        return time.monotonic()

    started_at = time.monotonic()
    process = converting(sources[1], target, "--force")
    before = at_work(process) - started_at
    assert ended(process) == (0, "")
    work = time.monotonic() - started_at - before
    instants, left, replaced = 17, 0, 0
    for instant in range(instants):
        target.write_bytes(old)
        process = converting(sources[1], target, "--force")
        if instant % 2:
            at_work(process)
            time.sleep(work * (instant - 1) / instants)
        else:
            time.sleep((before + work) * (instant + random.random()) / instants)
        process.kill()
        process.communicate()
        assert target.read_bytes() in (old, new)
        replaced += target.read_bytes() == new
        left += len(names(folder)) > 1
    assert left, "no kill met a conversion at work"
    assert replaced < instants
    assert ended(converting(sources[1], target, "--force")) == (0, "")
    assert target.read_bytes() == new
    assert names(folder) == [name]


@pytest.mark.parametrize(
    ("sent", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["INT", "TERM", "HUP"],
)
def test_a_signal_ends_it_in_one_line(sources: list[Path], tmp_path: Path, sent: int, exit_code: int) -> None:
    target = tmp_path / "x.pth"
    target.write_bytes(b"old")
    process = converting(sources[0], target, "--force")
    wait_until(lambda: len(names(tmp_path)) > 1, process)
    process.send_signal(sent)
    code, said = ended(process)
    assert (code, said.count("denseport: "), said.count("Traceback")) == (exit_code, 1, 0), said
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["x.pth"]


def test_two_conversions_to_one_target_leave_one_whole_file(sources: list[Path], tmp_path: Path) -> None:
    wanted = [converted(source, tmp_path / source.stem / "x.h5") for source in sources]
    folder = tmp_path / "folder"
    folder.mkdir()
    for _ in range(3):
        both = [converting(source, folder / "x.h5", "--force") for source in sources]
        assert [ended(process) for process in both] == [(0, "")] * 2
        assert (folder / "x.h5").read_bytes() in wanted
        assert names(folder) == ["x.h5"]


def test_only_one_of_two_conversions_makes_a_new_file(sources: list[Path], tmp_path: Path) -> None:
    wanted = [converted(source, tmp_path / source.stem / "x.h5") for source in sources]
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        both = [converting(source, folder / "x.h5") for source in sources]
        codes, said = zip(*map(ended, both), strict=True)
        assert sorted(codes) == [0, 2]
        assert "--force" in said[codes.index(2)]
        assert (folder / "x.h5").read_bytes() == wanted[codes.index(0)]
        assert names(folder) == ["x.h5"]


@contextmanager
def verifying(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[], list[int]]]]:
    """A conversion that runs both frameworks, and a function that gives the process ids of its living workers."""
    mark = uuid.uuid4().hex
    (folder / "temporary").mkdir(exist_ok=True)
    process = started(
        *("convert", "--force", "--device", "cpu", FIXTURES / "digits-torch.pth", folder / "x.weights.h5"),
        TMPDIR=str(folder / "temporary"),
        DENSEPORT_TEST=mark,
    )

    def workers() -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"DENSEPORT_TEST={mark}".encode() in (entry / "environ").read_bytes()
                if marked and b"denseport.running.child" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended, or is another user's
        return found

    yield process, workers


def temporary(folder: Path) -> list[str]:
    """What a check has among the system's temporary files; torch keeps a folder of its own there."""
    return [name for name in names(folder / "temporary") if not name.startswith("torchinductor_")]


# Importing a framework takes seconds, most of them in native code that lets no other thread of the process run.
@pytest.mark.parametrize("after", [0.0, 1.0])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["INT", "TERM", "KILL"])
def test_no_worker_outlives_the_check(tmp_path: Path, sent: int, after: float) -> None:
    (tmp_path / "x.weights.h5").write_bytes(b"old")
    with verifying(tmp_path) as (process, workers):
        wait_until(lambda: len(workers()) == 2, process)
        time.sleep(after)
        assert len(workers()) == 2
        process.send_signal(sent)
        process.communicate()
        end = time.monotonic() + 5
        while (left := workers()) and time.monotonic() < end:
            time.sleep(0.01)
        for worker in left:
            os.kill(worker, signal.SIGKILL)
        assert not left
    assert (tmp_path / "x.weights.h5").read_bytes() == b"old"
    if sent != signal.SIGKILL:
        assert names(tmp_path) == ["temporary", "x.weights.h5"]
        assert temporary(tmp_path) == []


def test_what_a_killed_check_left_is_gone_after_the_next_one(tmp_path: Path) -> None:
    with verifying(tmp_path) as (process, workers):
        wait_until(lambda: len(workers()) == 2 and temporary(tmp_path), process)
        process.kill()
        process.communicate()
    assert temporary(tmp_path)
    with verifying(tmp_path) as (process, _):
        assert ended(process)[0] == 0
    assert names(tmp_path) == ["temporary", "x.weights.h5"]
    assert temporary(tmp_path) == []


CHANGES = {
    "truncated": "os.truncate(source, 20_000)",
    "emptied": "os.truncate(source, 0)",
    "written to": "time.sleep(0.01); os.utime(source)",
    "replaced": "os.replace(shutil.copy(source, source.with_suffix('.new')), source)",
    "removed": "source.unlink()",
}


@pytest.mark.parametrize("name", ["x.pth", "x.h5", "x.weights.h5", "x.safetensors"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_while_it_is_read(tmp_path: Path, name: str, change: str) -> None:
    denseport.convert(FIXTURES / "digits-torch.pth", tmp_path / name, verify=False)
    code = (
        "import os, shutil, sys, time, pathlib\n"
        "import denseport\nfrom denseport import formats\n"
        "source, target = map(pathlib.Path, sys.argv[1:])\nwrite = formats.write\n"
        f"def changed(*arguments, **more):\n    {CHANGES[change]}\n    write(*arguments, **more)\n"
        "formats.write = changed\n"
        "try:\n    denseport.convert(source, target, verify=False)\n"
        "except denseport.FormatError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / name, tmp_path / "target.h5"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "while it was read" in done.stdout
    assert not (tmp_path / "target.h5").exists()
    assert not list(tmp_path.glob(".*"))
