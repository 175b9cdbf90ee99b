"""The benchmarks' own arithmetic, table and memory; nothing here is timed."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from benchmarks import environment, growth, measure, preparation, table, twins
from benchmarks.__main__ import SECTIONS
from benchmarks.process import CommandError
from benchmarks.process import measure as measure_process
from benchmarks.rows import Row, Target

ROWS = [
    Row("net, a to b", "denseport", [0.5, 0.1, 0.2], 30_000_000),
    Row("net, a to b", "plain script", [4.0, 4.1, 12.0], 900_000_000),
    Row("net, a to b", "floor", [0.1, 0.1], 15_000_000),
    Row("help", "denseport", [1.0], 0),
    Row("help", "click", [2.0], 0),
]
TARGETS = [Target("net, a to b", "plain script", time=1 / 15, memory=1 / 40), Target("net, a to b", "floor", time=1.3)]
MEGABYTES = 64


def test_table_puts_every_target_beside_its_ratio() -> None:
    assert table.markdown(ROWS, TARGETS) == [
        "| task | who | median | spread | peak memory | denseport's time to theirs | memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| net, a to b | denseport | 0.200 s | 0.400 s | 30 MB |  |  |",
        "|  | plain script | 4.1 s | 8.0 s | 900 MB | 0.0488 (at most 0.0667: met) | 0.0333 (at most 0.025: missed) |",
        "|  | floor | 0.100 s | 0.000 s | 15 MB | 2 (at most 1.3: missed) | 2 |",
        "| help | denseport | 1.0 s | 0.000 s | not known |  |  |",
        "|  | click | 2.0 s | 0.000 s | not known | 0.5 |  |",
    ]


def test_json_holds_every_run_and_every_ratio() -> None:
    plain = json.loads(json.dumps(environment.describe() | table.plain(ROWS, TARGETS)))
    assert plain["rows"][0] == {
        "group": "net, a to b",
        "name": "denseport",
        "seconds": [0.5, 0.1, 0.2],
        "peak_bytes": 30_000_000,
        "median": 0.2,
        "spread": 0.4,
    }
    assert plain["comparisons"][1] == {
        "group": "net, a to b",
        "peer": "floor",
        "time": 2.0,
        "time_target": 1.3,
        "memory": 2.0,
        "memory_target": None,
    }
    assert plain["comparisons"][2]["memory"] is None
    assert plain["versions"]["numpy"] == np.__version__
    assert environment.sentence(plain).count(";") == 1


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands are written down in place of being run."""
    ran: list[str] = []

    def measured(arguments: list[str | Path]) -> tuple[float, int]:
        ran.append(" ".join(map(str, arguments)))
        return float(len(ran)), 1

    monkeypatch.setattr(measure, "measure", measured)
    monkeypatch.setattr(measure.os, "sync", lambda: None)
    return ran


def test_commands_are_run_in_turn_and_warm(made_up: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "output"
    output.write_text("of an earlier run")
    commands = [
        measure.Command("denseport", ["a"], [output]),
        measure.Command("slow", ["b"], runs_at_most=1),
        measure.Command("missing", ["c"], needs=["json", "no_such_module"]),
        measure.Command("twice", ["d"], runs_at_most=2),
    ]
    rows = measure.in_turn("task", commands, 3)
    assert made_up == ["a", "d", "a", "b", "d", "a", "d", "a"]
    assert [(row.name, row.seconds) for row in rows] == [
        ("denseport", [3.0, 6.0, 8.0]),
        ("slow", [4.0]),
        ("twice", [5.0, 7.0]),
    ]
    assert not output.exists()
    assert capsys.readouterr().err == "task: missing is left out; it needs no_such_module\n"


@pytest.mark.parametrize("name", SECTIONS)
def test_every_target_is_for_a_row_that_is_measured(
    name: str, made_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "net", lambda *_: tmp_path)
    monkeypatch.setattr(preparation, "small_checkpoints", lambda *_: tmp_path)

    def answered(script: str, arguments: list[object], *_: object) -> dict[object, tuple[float]] | int:
        made_up.append(script)
        return dict.fromkeys(arguments, (1.0,)) if "times" in arguments else 1

    for module in (twins, growth):
        monkeypatch.setattr(module, "answer", answered)
    section: ModuleType = import_module(f"benchmarks.{name}")
    compared = table.comparisons(section.rows(1, tmp_path), section.TARGETS)
    assert {each.target for each in compared if each.target} == set(section.TARGETS)
    assert made_up


@pytest.mark.skipif(sys.platform != "linux", reason="memory is looked at where the system has /proc")
def test_memory_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    code = "import sys, numpy, time; held = numpy.fromfile(sys.argv[1], 'u1'); time.sleep(0.1)"
    assert MEGABYTES << 20 <= peak_in_child(code, tmp_path) < (MEGABYTES + 48) << 20


@pytest.mark.skipif(sys.platform != "linux", reason="memory is looked at where the system has /proc")
def test_pages_of_a_mapped_file_are_not_private(tmp_path: Path) -> None:
    code = "import sys, numpy, time; held = numpy.memmap(sys.argv[1], mode='r'); held.max(); time.sleep(0.1)"
    assert peak_in_child(code, tmp_path) < 48 << 20


def test_bytecode_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else denseport's modules would be compiled in every run, and those of its peers, which are installed, in none."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    (tmp_path / "module.py").write_text("")
    measure_process([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import module"])
    assert list(tmp_path.glob("__pycache__/module.*.pyc"))


def peak_in_child(code: str, folder: Path) -> int:
    """The peak of a process that starts another one, which runs the code with a file of zeros."""
    file = folder / "zeros"
    file.write_bytes(bytes(MEGABYTES << 20))
    start = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True)"
    return measure_process([sys.executable, "-c", start, "-c", code, file])[1]


def test_command_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(CommandError, match=r"ended with exit status 3: .*no weights"):
        measure_process([sys.executable, "-c", "import sys; print('no weights'); sys.exit(3)"])
    with pytest.raises(CommandError, match="no-such-program"):
        measure_process(["no-such-program"])
