"""Migration: each file on its own, whatever ends a process, a run or a cluster's worker; manifests from strangers."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from densenets import canonical_weights, checkpoint

import denseport as library
from denseport import terminal, text
from denseport.errors import FormatError, FrameworkMissingError, UsageError
from denseport.migration import jobs, manifest, migrate, places, results, schedulers
from denseport.migration.jobs import Job, perform
from denseport.migration.results import MigrationReport, Result
from denseport.net.config import DenseNetConfig
from denseport.source import sha256

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "denseport-migration.jsonl"
CONFIG = DenseNetConfig.bc(4, (1, 1, 1, 1), 8, num_classes=3)
Run = Callable[..., subprocess.CompletedProcess[str]]


def net(path: Path, seed: int = 0) -> Path:
    """A small net's weights in a file of that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    library.write(checkpoint(canonical_weights(CONFIG, seed)), path, force=True)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder tree with four nets."""
    folder = tmp_path / "source"
    for seed, name in enumerate(("a.safetensors", "b.pth", "deep/c.safetensors", "deep/er/d.h5")):
        net(folder / name, seed)
    return folder


def plain(folder: Path, target: Path, **given: Any) -> MigrationReport:
    """A migration that runs no framework."""
    return migrate(folder, target, **{"to_format": "safetensors", "verify": False, **given})


def statuses(report: MigrationReport) -> dict[str, str]:
    return {result.target: result.status for result in report.results}


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the results, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RESULTS
    }


def test_a_tree_keeps_its_shape_and_is_left_alone_the_second_time(source: Path, tmp_path: Path) -> None:
    (source / "readme.md").write_text("no weights")
    (source / "a.safetensors").rename(
        source / "\udcff \u202e.safetensors"
    )  # a name that is no UTF-8, and one that lies
    (source / ".hidden.pth").write_text("no weights")
    target = tmp_path / "target"
    seen: list[tuple[int, int]] = []
    report = plain(source, target, jobs=2, progress=lambda *counts: seen.append(counts))
    assert statuses(report) == dict.fromkeys(
        ("\udcff \u202e.safetensors", "b.safetensors", "deep/c.safetensors", "deep/er/d.safetensors"), "converted"
    )
    assert seen == [(done, 4) for done in range(5)]
    for result in report.results:
        assert library.diff(result.source, target / result.target).different == ()
    before = {name: (target / name).stat().st_mtime_ns for name in files(target)}
    lines_before = written(target)
    again = plain(source, target)
    assert set(statuses(again).values()) == {"unchanged"}
    assert {name: (target / name).stat().st_mtime_ns for name in files(target)} == before
    assert written(target) == lines_before


def test_targets_inside_the_source_are_no_sources(source: Path) -> None:
    assert len(plain(source, source / "out").results) == 4
    assert set(statuses(plain(source, source / "out")).values()) == {"unchanged"}


def test_a_bad_file_in_the_middle_stops_nothing(denseport: Run, source: Path, tmp_path: Path) -> None:
    (source / "bad.pth").write_bytes(b"PK\x03\x04 nothing")
    np.save(source / "none", np.zeros(3))
    (source / "none.npy").rename(source / "none.bin")
    command = ("migrate", "--no-verify", "--to", "safetensors", source, tmp_path / "target")
    done = denseport(*command)
    assert done.returncode == 1
    assert done.stderr == ""
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed ")]
    assert [Path(line.split()[1].rstrip(":")).name for line in failed] == ["bad.pth", "none.bin", "2"]
    assert "converted  4\n" in done.stdout
    assert sorted(files(tmp_path / "target")) == [
        "a.safetensors",
        "b.safetensors",
        "deep/c.safetensors",
        "deep/er/d.safetensors",
    ]
    net(source / "bad.pth", 9)
    (source / "none.bin").unlink()
    done = denseport(*command, "--json")
    assert done.returncode == 0
    found = {row["target"]: row["status"] for row in json.loads(done.stdout)["results"]}
    assert found.pop("bad.safetensors") == "converted"
    assert set(found.values()) == {"unchanged"}


def test_a_changed_source_is_converted_again_and_nothing_else(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    plain(source, target)
    net(source / "b.pth", 99)
    found = statuses(plain(source, target))
    assert found.pop("b.safetensors") == "converted"
    assert set(found.values()) == {"unchanged"}
    assert library.diff(source / "b.pth", target / "b.safetensors").different == ()


def test_changed_options_convert_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    plain(source, target)
    assert set(statuses(plain(source, target, dtype="float16")).values()) == {"converted"}
    assert set(statuses(plain(source, target, dtype="float16", head="keep", exact=False)).values()) == {"unchanged"}


def test_a_changed_layout_file_converts_again(denseport: Run, source: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(denseport("layouts", "show", "denseport").stdout)
    for status in ("converted", "unchanged"):
        assert set(statuses(plain(source, tmp_path / "target", to_layout=own)).values()) == {status}
    own.write_text(own.read_text() + "\n# another one\n")
    assert set(statuses(plain(source, tmp_path / "target", to_layout=own)).values()) == {"converted"}


def test_a_layouts_name_is_no_folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "denseport").mkdir()
    for status in ("converted", "unchanged"):
        (tmp_path / "denseport" / status).touch()
        layout = Path("denseport")  # a path where the name of a layout is usual
        assert set(statuses(plain(source, tmp_path / "target", to_layout=layout)).values()) == {status}


@pytest.mark.parametrize("place", ["link", "file in folder", "local URL"])
def test_a_source_is_never_replaced_by_its_own_conversion(source: Path, tmp_path: Path, place: str) -> None:
    net(source / "c.safetensors", seed=3)
    before = (source / "c.safetensors").read_bytes()
    target, src = tmp_path / "target", str(source)
    if place == "link":
        target.symlink_to(source)
    else:
        target.mkdir()
        (target / "c.safetensors").symlink_to(source / "c.safetensors")
    if place == "local URL":
        src = f"local://{source}"
    with pytest.raises(UsageError, match=r"folder of targets as well|is a source as well"):
        plain(src, target, dtype="float16", force=True)
    assert (source / "c.safetensors").read_bytes() == before


@pytest.mark.parametrize("option", ["exact", "inputs", "preprocess", "against", "train_steps"])
def test_what_a_killed_run_left_is_known_whatever_it_compared(source: Path, tmp_path: Path, option: str) -> None:
    target = tmp_path / "b.safetensors"
    library.convert(source / "b.pth", target, verify=False)
    job = Job(str(source / "b.pth"), target.name, str(target), {option: ["any"]}, "", False, None)
    assert jobs._gives(sha256(target), job, source / "b.pth")


def test_another_folder_does_not_replace_what_a_first_one_became(source: Path, tmp_path: Path) -> None:
    other, target = tmp_path / "other", tmp_path / "target"
    net(other / "a.pth", seed=9)
    plain(source, target)
    first = (target / "a.safetensors").read_bytes()
    for _ in range(2):
        assert statuses(plain(other, target)) == {"a.safetensors": "failed"}
        assert (target / "a.safetensors").read_bytes() == first
    assert statuses(plain(other, target, force=True)) == {"a.safetensors": "converted"}


def test_what_a_driver_raises_is_one_line(tmp_path: Path) -> None:
    class Broken(fsspec.get_filesystem_class("memory")):
        def find(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no credentials")

    fsspec.register_implementation("broken", Broken, clobber=True)
    with pytest.raises(UsageError, match=r"broken://nets: cannot be used \(no credentials\)"):
        plain("broken://nets", tmp_path / "target")


def test_results_that_cannot_be_written_are_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "write", full)
    with pytest.raises(UsageError, match=r"jsonl: cannot be written \(No space left"):
        plain(source, tmp_path / "target")


def test_a_target_that_somebody_changed_is_kept_unless_forced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    plain(source, target)
    (target / "a.safetensors").write_bytes(b"precious")
    (target / "b.safetensors").unlink()
    report = plain(source, target)
    assert statuses(report)["b.safetensors"] == "converted"
    assert [result.target for result in report.failed] == ["a.safetensors"]
    assert "--force" in str(report.failed[0].error)
    assert (target / "a.safetensors").read_bytes() == b"precious"
    assert statuses(plain(source, target, force=True))["a.safetensors"] == "converted"


def test_after_a_failure_the_target_still_counts_as_the_migrations_own(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    plain(source, target)
    assert len(plain(source, target, to_layout="torchvision-0.3").failed) == 4
    assert set(statuses(plain(source, target, dtype="float16")).values()) == {"converted"}


@pytest.mark.parametrize("torn", [10, -1], ids=["in the middle", "at its end"])
def test_a_torn_last_line_is_found_out_again(source: Path, tmp_path: Path, torn: int) -> None:
    target = tmp_path / "target"
    plain(source, target)
    whole = (target / RESULTS).read_bytes().splitlines(keepends=True)
    last = json.loads(whole[-1])["target"]
    (target / RESULTS).write_bytes(b"".join(whole[:-1]) + whole[-1][:torn])
    found = statuses(plain(source, target))
    assert found.pop(last) == "converted"
    assert set(found.values()) == {"unchanged"}
    assert len(written(target)) == 4


KNOWN = {"source": "a", "target": "b", "options": {}, "options_sha256": "", "status": "converted"}
WRONG = ({"target": 1}, {"status": []}, {"relative_error": "4e-7"}, {"notes": [["x"]]}, {"error": 1}, {"more": 1})


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "7", '{"target": "b"}', *(json.dumps(KNOWN | wrong) for wrong in WRONG), "\0\0", "[" * 100_000],
)
def test_a_line_that_is_no_result_is_an_error(source: Path, tmp_path: Path, line: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / RESULTS).write_text(f"{line}\n")
    with pytest.raises(FormatError, match="line 1 is no result"):
        plain(source, target)
    assert files(target) == {}


def test_one_migration_at_a_time_in_a_folder(source: Path, tmp_path: Path) -> None:
    with results.opened(str(tmp_path / "target")), pytest.raises(UsageError, match="another migration"):
        plain(source, tmp_path / "target")


def marked(mark: str) -> dict[int, str]:
    """The living processes whose environment has this mark, and their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"DENSEPORT_TEST={mark}".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended, or is another user's
    return found


def parent(number: int) -> int | None:
    """The process that started this one; None where it has ended."""
    try:
        status = Path(f"/proc/{number}/status").read_text()
    except OSError:
        return None
    return int(re.findall(r"^PPid:\s*(\d+)$", status, re.MULTILINE)[0])


def left_over(mark: str) -> dict[int, str]:
    """What lives 8 seconds later; it is killed."""
    end = time.monotonic() + 8
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.01)
    for number in left:
        os.kill(number, signal.SIGKILL)
    return left


class Running:
    """A migration in a process of its own, and those that it starts."""

    every: ClassVar[list[Running]] = []

    def __init__(self, *arguments: object) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "denseport", "migrate", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "DENSEPORT_TEST": self.mark},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.every.append(self)

    def serving(self, module: str) -> set[int]:
        """The processes started to serve a module; a child of theirs has their command line at first."""
        served = f"-m denseport.running.child denseport.{module} "
        found = {number for number, command in marked(self.mark).items() if served in command}
        return {number for number in found if parent(number) not in found}

    def wait_until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.002)

    def ended(self) -> tuple[int, str, str]:
        said, complained = self.process.communicate(timeout=120)
        return self.process.returncode, said, complained

    def left_over(self) -> dict[int, str]:
        return left_over(self.mark)


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """Ends the migrations that a failed test has left at work."""
    yield
    while Running.every:
        running = Running.every.pop()
        running.process.kill()
        running.process.communicate()


def many(folder: Path, count: int) -> Path:
    """A folder of that many nets."""
    for seed in range(count):
        net(folder / f"{seed:02}.safetensors", seed)
    return folder


def test_killed_runs_are_taken_up_again(tmp_path: Path) -> None:
    folder = many(tmp_path / "source", 24)
    target = tmp_path / "target"
    command = ("--no-verify", "--to", "h5", "--jobs", 2, folder, target)
    plain(folder, tmp_path / "wanted", to_format="h5")
    done = 0
    for at_least in (1, 6, 12):
        running = Running(*command)
        running.wait_until(lambda least=at_least: (target / RESULTS).exists() and len(written_lines(target)) >= least)
        running.process.kill()
        running.ended()
        assert running.left_over() == {}
        assert done <= len(written_lines(target)) < 24
        done = len(written_lines(target))
    running = Running("--json", *command)
    code, said, complained = running.ended()
    assert (code, complained) == (0, "")
    counts = [result["status"] for result in json.loads(said)["results"]]
    assert counts.count("unchanged") >= 12
    assert files(target) == files(tmp_path / "wanted")


def written_lines(folder: Path) -> list[bytes]:
    return (folder / RESULTS).read_bytes().splitlines()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["INT", "TERM", "KILL"])
def test_a_signal_ends_every_process_and_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nfrom denseport import formats\nformats.write = lambda *arguments: time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    folder = many(tmp_path / "source", 4)
    target = tmp_path / "target"
    running = Running("--no-verify", "--to", "h5", "--jobs", 2, folder, target)
    running.wait_until(lambda: target.exists() and len(list(target.glob(".*"))) == 2)
    running.process.send_signal(sent)
    code, said, complained = running.ended()
    if sent != signal.SIGKILL:
        assert (code, said, complained.count("denseport: ")) == (128 + sent, "", 1), complained
        assert "Traceback" not in complained
    assert running.left_over() == {}
    assert [path.name for path in target.iterdir()] == [RESULTS]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_frameworks_are_loaded_once_and_end_with_the_run(tmp_path: Path, sent: int) -> None:
    folder = many(tmp_path / "source", 6)
    target = tmp_path / "target"
    running = Running("--device", "cpu", "--to", "h5", folder, target)
    running.wait_until(lambda: (target / RESULTS).exists() and len(written_lines(target)) >= 1)
    frameworks = running.serving("running.runners")
    assert len(frameworks) == 2
    running.wait_until(lambda: len(written_lines(target)) >= 3)
    assert running.serving("running.runners") == frameworks
    running.process.send_signal(sent)
    running.ended()
    assert running.left_over() == {}
    for result in written(target):
        assert result["status"] == "converted"
        assert 0 < result["relative_error"] < 1e-5


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    folder = many(tmp_path / "source", 24)
    target = tmp_path / "target"
    running = Running("--no-verify", "--to", "h5", "--jobs", 2, folder, target)
    running.wait_until(lambda: (target / RESULTS).exists() and len(written_lines(target)) >= 2)
    first, second = running.serving("migration.jobs")
    os.kill(first, signal.SIGKILL)
    os.kill(second, signal.SIGTERM)
    code, said, _ = running.ended()
    assert (code, "converted  24\n" in said) == (0, True), said
    assert len(files(target)) == 24


def test_processes_that_ended_while_they_had_nothing_to_do_are_replaced(tmp_path: Path) -> None:
    jobs_at_once = [job(str(net(tmp_path / f"{n}.pth", n)), str(tmp_path / f"{n}.h5")) for n in range(5)]
    with schedulers.Processes() as processes, ThreadPoolExecutor(4) as threads:
        first = list(threads.map(processes.perform, jobs_at_once[:4]))
        for process in processes._idle:
            process.ask_to_end()
            process.obituary()
        assert [result.status for result in (*first, processes.perform(jobs_at_once[4]))] == ["converted"] * 5


def test_a_process_ends_when_no_job_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "IDLE_SECONDS", 0.01)
    assert jobs.serve(queue.SimpleQueue().get, lambda _: None) is None


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "exit code -9: it said nothing"),
        ("raise RuntimeError('a mistake')", "exit code 1: RuntimeError: a mistake"),
    ],
)
def test_a_file_at_which_its_process_always_dies(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, told: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, signal\nfrom denseport import conversion\nconverted = conversion.converted\n"
        "def deadly(plan, *rest, **options):\n"
        "    if plan.source.path.name == 'b.pth':\n"
        f"        open({str(tmp_path / 'attempts')!r}, 'a').write('x')\n"
        f"        {statement}\n"
        "    return converted(plan, *rest, **options)\n"
        "conversion.converted = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    report = plain(source, tmp_path / "target")
    assert [Path(result.source).name for result in report.failed] == ["b.pth"]
    assert told in str(report.failed[0].error)
    assert (tmp_path / "attempts").read_text() == ("xxx" if "kill" in statement else "x")


def rows(folder: Path, text: str | bytes, suffix: str = "toml") -> list[manifest.Row]:
    """The rows of a manifest with this text."""
    path = folder / f"files.{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return manifest.rows(str(path), str(folder / "target"), {})


def one(target: str = "x.h5", source: str = "x.pth", more: str = "") -> str:
    return f"[[files]]\nsource = {json.dumps(source)}\ntarget = {json.dumps(target)}\n{more}\n"


def test_a_manifest_gives_each_file_its_options(tmp_path: Path) -> None:
    text = '[options]\ndtype = "float16"\nverify = true\nexact = true\n'
    text += one("y/./z.h5", more='dtype = "keep"\nverify = false\nto_layout = "own.toml"\nagainst = ["timm"]\n')
    text += one("file.h5", "/elsewhere/x.pth", "tolerance = 1\nexact = false") + one("w.h5", "memory://a/x.pth")
    own = str(tmp_path / "own.toml")
    assert rows(tmp_path, text) == [
        manifest.Row(
            str(tmp_path / "x.pth"),
            "y/z.h5",
            {"verify": False, "exact": True, "to_layout": own, "against": ("timm",)},
        ),
        manifest.Row("/elsewhere/x.pth", "file.h5", {"dtype": "float16", "tolerance": 1}),
        manifest.Row("memory://a/x.pth", "w.h5", {"dtype": "float16", "exact": True}),
    ]


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    text = (
        '\ufeffsource,target,verify,classes,against,tolerance\r\n"a, ""b"".pth",x.h5,FALSE,7,timm keras-hub,1e-4\r\n'
        '\r\n"two\r\nlines.pth","ü.h5",,,,\r\n'
    )
    assert rows(tmp_path, text, "csv") == [
        manifest.Row(
            str(tmp_path / 'a, "b".pth'),
            "x.h5",
            {"verify": False, "classes": 7, "against": ("timm", "keras-hub"), "tolerance": 1e-4},
        ),
        manifest.Row(str(tmp_path / "two\r\nlines.pth"), "ü.h5", {}),
    ]


HOSTILE: dict[str, tuple[str | bytes, str, str]] = {
    "absolute target": (one("/etc/x.h5"), "toml", "not inside"),
    "target above": (one("../x.h5"), "toml", "not inside"),
    "target above in the end": (one("a/../../x.h5"), "toml", "not inside"),
    "target that is a URL": (one("memory://x.h5"), "toml", "not inside"),
    "target with a backslash": (one("..\\x.h5"), "toml", "not inside"),
    "target with a zero byte": (one("x\0.h5"), "toml", "not inside"),
    "empty target": (one(""), "toml", "not inside"),
    "target that is a folder": (one("."), "toml", "not inside"),
    "the file of results": (one(RESULTS), "toml", "the file of results"),
    "empty source": (one(source=""), "toml", "names no file"),
    "source with a zero byte": (one(source="x\0"), "toml", "names no file"),
    "two sources for one target": (one() + one("./x.h5", "y.pth"), "toml", "would both become"),
    "a source as a target": (one(source="target/y.h5") + one("y.h5"), "toml", "is a source as well"),
    "unknown key": (one(more="nonsense = 1"), "toml", "nonsense is no option"),
    "unknown shared key": ("[options]\nforce = true\n" + one(), "toml", "force is no option"),
    "unknown table": ("[files2]\n" + one(), "toml", "and not files2"),
    "files of another kind": ("files = 7", "toml", "of that kind"),
    "a file of another kind": ("files = [7]", "toml", "file 1: must be a table"),
    "source of another kind": ("[[files]]\nsource = 1\ntarget = 'x.h5'", "toml", "must be a table"),
    "switch that is a text": (one(more='verify = "no"'), "toml", "verify must be true or false, not 'no'"),
    "number that is a switch": (one(more="classes = true"), "toml", "classes must be a whole number"),
    "number without end": (
        one(more="classes = 0x" + "f" * 10_000),
        "toml",
        "classes must be a whole number from 1 to 1,000,000",
    ),
    "decimal number without end": (one(more="classes = " + "9" * 10_000), "toml", "not TOML"),
    "no number": (one(more="tolerance = nan"), "toml", "tolerance must be a number from 0 to 1, not nan"),
    "list of numbers": (one(more="against = [1]"), "toml", "a list of names"),
    "no TOML": ("source = x", "toml", "not TOML"),
    "deep TOML": ("x = " + "[" * 100_000, "toml", "not TOML"),
    "no UTF-8": (b"\xff\xfe", "toml", "not UTF-8"),
    "dotted keys": ("a." * 500_000 + "a = 1", "toml", "more than 100 dots"),
    "2 MB of TOML": (one() * 55_000, "toml", "larger than 2 MiB"),
    "10 MB of TOML": (one() * 250_000, "toml", "larger than 8 MiB"),
    "10 MB of CSV": ("source,target\n" + "x,x.h5\n" * 1_500_000, "csv", "larger than 8 MiB"),
    "many rows": ("source,target\n" + "x,x.h5\n" * 100_001, "csv", "more than 100,000 rows"),
    "no header": ("x.pth,x.h5\n", "csv", "the first line must name"),
    "column twice": ("source,target,target\n", "csv", "the first line must name"),
    "unknown column": ("source,target,nonsense\n", "csv", "nonsense is no option"),
    "a cell too many": ("source,target\nx,x.h5,1\n", "csv", "line 2: has 3 cells and not 2"),
    "wrong switch": ("source,target,verify\nx,x.h5,maybe\n", "csv", "verify must be true or false, not 'maybe'"),
    "wrong number": ("source,target,classes\nx,x.h5,\u0661x\n", "csv", "classes must be a whole number"),
    "open quotes": ('source,target\n"x,x.h5\n', "csv", "not CSV"),
    "a cell of a megabyte": ("source,target\n" + "x" * 1_000_000 + ",x.h5\n", "csv", "not CSV"),
    "target above in CSV": ("source,target\nx,../x.h5\n", "csv", "not inside"),
    "empty CSV": ("", "csv", "the first line must name"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    text, suffix, told = HOSTILE[name]
    started = time.process_time()
    with pytest.raises(UsageError, match=re.escape(told)) as refused:
        rows(tmp_path, text, suffix)
    assert time.process_time() - started < 60
    assert len(str(refused.value)) < 1000 + len(str(tmp_path))
    assert not (tmp_path / "target").exists()


def test_two_files_of_a_folder_that_become_one_are_an_error_before_any_work(denseport: Run, tmp_path: Path) -> None:
    net(tmp_path / "source" / "x.pth")
    net(tmp_path / "source" / "x.safetensors")
    done = denseport("migrate", "--no-verify", "--to", "h5", tmp_path / "source", tmp_path / "target")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "would both become x.h5" in done.stderr
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--no-verify", "{tmp}/missing", "{tmp}/target"), "neither a folder nor a manifest"),
        (("--no-verify", "--to", "h5", "{tmp}/source", "{tmp}/source/."), "is the folder of targets as well"),
        (("--no-verify", "--to", "h5", "{tmp}/empty", "{tmp}/target"), "holds no file that ends in"),
        (("--no-verify", "{tmp}/missing.csv", "{tmp}/target"), "cannot be read"),
        (("--no-verify", "{tmp}/source", "{tmp}/target"), "--to"),
        (("--no-verify", "--to", "h5", "{tmp}/source", "{tmp}/source/x.pth"), "cannot be written"),
        (("--no-verify", "--to", "h5", "nonsense://x", "{tmp}/target"), "cannot be used"),
        (("--no-verify", "--to", "h5", "simplecache::memory://x", "{tmp}/target"), "chain of URLs"),
        (("--no-verify", "--to", "h5", "--scheduler", "nonsense", "{tmp}/source", "{tmp}/target"), "is no address"),
        (
            ("--no-verify", "--to", "h5", "--scheduler", "tcp://127.0.0.1:9", "{tmp}/source", "{tmp}/target"),
            "no Dask scheduler",
        ),
        (("--jobs", "2", "--scheduler", "tcp://x", "--to", "h5", "{tmp}/source", "{tmp}/target"), "leave it out"),
    ],
)
def test_what_cannot_be_used_is_one_line(denseport: Run, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    net(tmp_path / "source" / "x.pth")
    (tmp_path / "empty").mkdir()
    done = denseport("migrate", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert told in done.stderr


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def job(source: str, target: str, **given: Any) -> Job:
    return Job(source, "x.h5", target, {"verify": False}, "", **{"force": False, "known": None, **given})


def test_remote_files_are_fetched_and_sent(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    local = net(tmp_path / "x.pth")
    memory.put_file(str(local), "/bucket/x.pth")
    first = perform(job("memory://bucket/x.pth", "memory://bucket/deep/x.h5"), None)
    assert (first.status, first.error) == ("converted", None)
    library.convert(local, tmp_path / "x.h5", verify=False)
    assert memory.cat_file("/bucket/deep/x.h5") == (tmp_path / "x.h5").read_bytes()
    again = perform(job("memory://bucket/x.pth", "memory://bucket/deep/x.h5", known=first), None)
    assert again.status == "unchanged"
    memory.pipe_file("/bucket/deep/x.h5", b"precious")
    refused = perform(job("memory://bucket/x.pth", "memory://bucket/deep/x.h5", known=first), None)
    assert refused.error == "memory://bucket/deep/x.h5: exists already; give --force to replace it, or another name"
    assert memory.cat_file("/bucket/deep/x.h5") == b"precious"
    missing = perform(job("memory://bucket/y.pth", "memory://bucket/y.h5"), None)
    assert str(missing.error).startswith("memory://bucket/y.pth: cannot be used (")
    memory.pipe_file("/bucket/y.pth", b"no weights")
    broken = perform(job("memory://bucket/y.pth", "memory://bucket/y.h5"), None)
    assert str(broken.error).startswith("memory://bucket/y.pth: starts with no")
    for target in ("memory://bucket/z.h5", str(tmp_path / "z.h5")):
        narrow = perform(replace(job(str(local), target), options={"verify": False, "dtype": "bfloat16"}), None)
        assert str(narrow.error).startswith(f"{target}: ")
    assert sorted(places.files_below("memory://bucket")) == ["deep/x.h5", "x.pth", "y.pth"]


def test_an_upload_that_breaks_shows_nothing(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(whole: Any, sent: Any) -> None:
        sent.write(whole.read(1000))
        raise ConnectionResetError("the line is dead")

    memory.pipe_file("/bucket/x.h5", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", broken)
        for target in ("memory://bucket/x.h5", "memory://bucket/y.h5"):
            result = perform(job(str(net(tmp_path / "x.pth")), target, force=True), None)
            assert (
                result.error == f"{target}: cannot be used (the line is dead); check the address and your access to it"
            )
    assert memory.cat_file("/bucket/x.h5") == b"old"
    assert not memory.exists("/bucket/y.h5")
    assert perform(job(str(tmp_path / "x.pth"), "memory://bucket/x.h5", force=True), None).status == "converted"


def test_remote_results_are_kept_whole(memory: fsspec.AbstractFileSystem) -> None:
    failed = job("a.pth", "memory://bucket/x.h5").failed("no reason")
    for count in (1, 2):
        with results.opened("memory://bucket") as found:
            assert len(found.by_target) == min(count - 1, 1)
            found.add(failed)
        assert memory.cat_file(f"/bucket/{RESULTS}").count(b"\n") == count


def test_file_urls(source: Path, tmp_path: Path) -> None:
    text = "".join(
        one(f"{n}.h5", path.as_uri()) for n, path in enumerate(sorted(source.rglob("*.*"))) if path.is_file()
    )
    (tmp_path / "with space.toml").write_text(text)
    target = tmp_path / "target"
    report = migrate((tmp_path / "with space.toml").as_uri(), target.as_uri(), verify=False)
    assert set(statuses(report).values()) == {"converted"}
    assert report.results_file == str(target / RESULTS)
    assert len(files(target)) == 4


def test_without_fsspec_a_url_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(FrameworkMissingError, match=r"denseport\[cluster\]"):
        migrate("memory://x", tmp_path, to_format="h5", verify=False)


def test_the_target_of_a_process_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    local = net(tmp_path / "x.pth")
    target = tmp_path / "x.h5"
    library.convert(local, target, verify=False)
    assert perform(job(str(local), str(target)), None).status == "converted"
    target.write_bytes(b"precious")
    assert "--force" in str(perform(job(str(local), str(target)), None).error)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and two workers of one thread on loopback: its address, and the workers."""
    told = tmp_path / "scheduler.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "DENSEPORT_TEST": (mark := uuid.uuid4().hex),
    }

    def started(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{name}", *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=environment, cwd=tmp_path, **quiet)

    processes = [
        started("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told))
    ]
    try:
        end = time.monotonic() + 60
        while not told.exists() or not told.read_text():
            assert processes[0].poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        address = json.loads(told.read_text())["address"]
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
        processes += [started("dask_worker", address, *options) for _ in range(2)]
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        assert left_over(mark) == {}


def test_a_cluster_that_loses_a_worker_loses_nothing(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    address, workers = cluster
    folder = many(tmp_path / "source", 40)
    (folder / "20-bad.pth").write_bytes(b"no weights")
    target = tmp_path / "target"
    running = Running("--json", "--no-verify", "--to", "h5", "--scheduler", address, folder, target)
    running.wait_until(lambda: (target / RESULTS).exists() and len(written_lines(target)) >= 4)
    workers[0].kill()
    workers[0].wait()
    assert len(written_lines(target)) < 41
    code, said, complained = running.ended()
    assert (code, complained) == (1, "")
    found = {row["target"]: row["status"] for row in json.loads(said)["results"]}
    assert found.pop("20-bad.h5") == "failed"
    assert list(found.values()) == ["converted"] * 40, said
    assert len(files(target)) == 40
    code, said, _ = Running("--no-verify", "--to", "h5", "--scheduler", address, folder, target).ended()
    assert (code, "unchanged  40\n" in said) == (1, True), said


def test_the_report_in_lines() -> None:
    near, far, note = 1e-7, 4e-7, "written in layout denseport"
    results = (
        Result("a.pth", "a.h5", {}, "", "converted", relative_error=near, notes=(note, note)),
        Result("b.pth", "b.h5", {}, "", "unchanged", relative_error=far, notes=(note, "prefix")),
        Result("c.pth", "c.h5", {}, "", "failed", relative_error=0.5, error="c.pth: outputs differ", notes=("worse",)),
        Result("d.pth", "d.h5", {}, "", "failed", error="no layout"),
    )
    assert terminal.plain(text.migration(MigrationReport(results, "x.jsonl", 2.0))) == [
        "files      4",
        "converted  1",
        "unchanged  1",
        "error      at most 4.0e-07 relative, in b.pth; 2 verified",
        "time       2.0 s, 0.50 files a second",
        "results    x.jsonl",
        "note       2 of 4 files: written in layout denseport",
        "note       1 of 4 files: prefix",
        "failed     c.pth: outputs differ",
        "failed     d.pth: no layout",
        "failed     2 of 4; mend them, and run it again",
    ]
    quiet = [line.split()[0] for line in terminal.plain(text.migration(MigrationReport(results[3:], "x.jsonl", 2.0)))]
    assert quiet == ["files", "converted", "unchanged", "time", "results", "failed", "failed"]


def test_nothing_heavy_is_imported() -> None:
    heavy = ("torch", "keras", "tensorflow", "rich", "dask", "distributed", "fsspec", "denseport.parity.verification")
    code = f"import sys, denseport.migration.jobs\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("wrong", [{"dtype": "float8"}, {"head": "lose"}, {"classes": 0}, {"to_format": "onnx"}])
def test_a_wrong_value_is_an_error_before_any_work(source: Path, tmp_path: Path, wrong: dict[str, object]) -> None:
    name, value = next(iter(wrong.items()))
    rows = tmp_path / "rows.csv"
    rows.write_text(f"source,target,{name}\n{source / 'a.pth'},a.h5,\n{source / 'b.pth'},b.h5,{value}\n")
    with pytest.raises(UsageError, match=f"rows.csv: line 3: {name} must be .*, not .*{value}"):
        plain(rows, tmp_path / "target", to_format=None)
    assert not (tmp_path / "target").exists()


def test_an_unknown_option_is_an_error_before_any_work(source: Path, tmp_path: Path) -> None:
    for option, told in (("nonsense", "nonsense is no option"), ("jobs", "jobs must be a whole number of 1 or more")):
        with pytest.raises(UsageError, match=told):
            plain(source, tmp_path / "target", **{option: 0})
    assert not (tmp_path / "target").exists()
