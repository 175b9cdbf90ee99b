"""The command line: results on stdout, everything else on stderr, exit codes that mean something."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("denseport: ") and "Traceback" not in text


def test_convert_prints_its_result(denseport: Run, fixtures: Path, tmp_path: Path) -> None:
    done = denseport("convert", "--no-verify", fixtures / "digits-torch.pth", tmp_path / "x.h5")
    assert done.returncode == 0
    for label in ("variant", "from", "to", "assumed", "tensors", "parameters", "dtype", "parity", "time", "file"):
        assert f"\n{label}" in f"\n{done.stdout}"
    assert "note: written in layout denseport" in done.stderr


def test_json_is_one_object_on_stdout(denseport: Run, fixtures: Path, tmp_path: Path) -> None:
    done = denseport("convert", "--json", "--device", "cpu", fixtures / "digits-torch-legacy.pth", tmp_path / "x.h5")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["parity"]["passed"] is True
    assert report["source_layout"] == "torchvision"
    assert report["config"]["traits"]["epsilon"] == 1e-5
    assert any("module." in note for note in report["notes"])


def test_without_a_target_the_source_gets_the_new_suffix(denseport: Run, fixtures: Path, tmp_path: Path) -> None:
    source = tmp_path / "net.pth.tar"
    source.write_bytes((fixtures / "digits-torch.pth").read_bytes())
    assert denseport("convert", "--no-verify", "--to", "safetensors", source).returncode == 0
    assert (tmp_path / "net.safetensors").exists()


def test_parity_beyond_the_tolerance_is_exit_code_1(denseport: Run, fixtures: Path, tmp_path: Path) -> None:
    arguments = ("--json", "--device", "cpu", "--tolerance", "1e-12", fixtures / "digits-torch.pth", tmp_path / "x.h5")
    done = denseport("convert", *arguments)
    assert done.returncode == 1
    assert one_line(done.stderr.splitlines(keepends=True)[-1])
    assert json.loads(done.stdout)["parity"]["passed"] is False
    assert list(tmp_path.iterdir()) == []


def test_diff_of_equal_and_of_different_files(denseport: Run, fixtures: Path, tmp_path: Path) -> None:
    denseport("convert", "--no-verify", fixtures / "digits-torch.pth", tmp_path / "x.h5")
    done = denseport("diff", fixtures / "digits-torch.pth", tmp_path / "x.h5")
    assert done.returncode == 0
    assert "0 not" in done.stdout
    denseport("convert", "--no-verify", "--dtype", "float16", fixtures / "digits-torch.pth", tmp_path / "y.h5")
    done = denseport("diff", "--json", fixtures / "digits-torch.pth", tmp_path / "y.h5")
    assert done.returncode == 1
    kinds = {row["kind"] for row in json.loads(done.stdout)["different"]}
    assert kinds == {"values"}


def test_inspect_says_what_a_file_is(denseport: Run, fixtures: Path) -> None:
    done = denseport("inspect", fixtures / "digits-keras.h5")
    assert done.returncode == 0
    assert "keras-applications" in done.stdout
    report = json.loads(denseport("inspect", "--json", fixtures / "digits-torch-legacy.pth").stdout)
    assert (report["wrapper"], report["layout"], report["problem"]) == ("state_dict", "torchvision", "")
    assert report["others"] == ["epoch"]


def test_a_trait_is_stated_on_every_command_that_reads_a_net(denseport: Run, fixtures: Path, tmp_path: Path) -> None:
    source, target, derived = fixtures / "digits-torch.pth", tmp_path / "x.pth", tmp_path / "mine.toml"
    traits = ("--trait", "epsilon=0.002", "--trait", "padding=same")
    done = denseport("convert", "--no-verify", *traits, source, target)
    assert (
        "\nstated      epsilon 0.002, padding same\nshown       stem_pool max, concatenation old-first" in done.stdout
    )
    assert "\nassumed     stem_stride 2, " in done.stdout
    assert "note: written in layout denseport, since layout torchvision has epsilon 1e-05" in done.stderr
    shown = denseport("inspect", *traits, source).stdout
    assert "\nstated       epsilon 0.002, padding same\n" in shown
    report = json.loads(denseport("inspect", "--json", target).stdout)
    assert (report["config"]["traits"]["epsilon"], report["origins"]["epsilon"]) == (0.002, "stated")
    assert denseport("diff", *traits, source, target).returncode == 0
    assert denseport("layouts", "derive", "--trait", "epsilon=0.002", source, "-o", derived).returncode == 0
    assert "\nepsilon = 0.002\n" in derived.read_text()


def test_layouts_lists_every_layout(denseport: Run) -> None:
    names = {row["name"] for row in json.loads(denseport("layouts", "--json").stdout)["layouts"]}
    assert {"torchvision", "torchvision-0.2", "keras-applications", "keras-applications-2", "denseport"} <= names


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "missing.pth", "x.h5"),
        ("convert", "{fixtures}/digits-torch.pth"),
        ("convert", "{fixtures}/digits-torch.pth", "{tmp}/x.unknown"),
        ("convert", "--from", "h5", "{fixtures}/digits-torch.pth", "{tmp}/x.h5"),
        ("convert", "--from-layout", "nonsense", "{fixtures}/digits-torch.pth", "{tmp}/x.h5"),
        ("convert", "--from-layout", "missing.toml", "{fixtures}/digits-torch.pth", "{tmp}/x.h5"),
        ("convert", "--from-layout", "keras-applications", "{fixtures}/digits-torch.pth", "{tmp}/x.h5"),
        ("convert", "--to-layout", "keras-applications", "{fixtures}/digits-torch.pth", "{tmp}/x.h5"),
        ("convert", "--dtype", "bfloat16", "--no-verify", "{fixtures}/digits-torch.pth", "{tmp}/x.h5"),
        ("convert", "--to-layout", "torchvision", "--no-verify", "{fixtures}/digits-torch.pth", "{tmp}/x.weights.h5"),
        ("convert", "--device", "tpu", "{fixtures}/digits-torch.pth", "{tmp}/x.h5"),
        ("convert", "--tolerance", "-1", "{fixtures}/digits-torch.pth", "{tmp}/x.h5"),
        ("convert", "--frobnicate"),
        ("frobnicate",),
        ("inspect", "{tmp}"),
        ("inspect", "{fixtures}/make.py"),
        ("inspect", "/dev/null"),
        ("verify", "{fixtures}/digits-torch.pth", "{fixtures}/digits-keras.h5"),
        ("diff", "{fixtures}/digits-torch.pth"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(
    denseport: Run, fixtures: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = denseport(*(argument.format(fixtures=fixtures, tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2, done
    assert one_line(done.stderr), done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


NO_THREADS = """
import sys, threading

def refuse(_):
    raise RuntimeError("can't start new thread")

threading.Thread.start = refuse
from denseport.cli import main
sys.argv = ["denseport", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("convert", "--no-verify", "{fixtures}/digits-torch.pth", "{tmp}/x.h5"), 2),
        (("convert", "{fixtures}/digits-torch.pth", "{tmp}/x.keras"), 2),
        (("predict", "{fixtures}/digits-torch.pth", "{fixtures}/digits-test.npz"), 2),
        (("inspect", "{fixtures}/digits-torch.pth"), 0),  # needs none
        (("diff", "{fixtures}/digits-torch.pth", "{fixtures}/digits-torch.pth"), 0),
    ],
)
def test_a_system_that_refuses_threads_is_told_in_one_line(
    fixtures: Path, tmp_path: Path, arguments: tuple[str, ...], exit_code: int
) -> None:
    command = [argument.format(fixtures=fixtures, tmp=tmp_path) for argument in arguments]
    done = subprocess.run([sys.executable, "-c", NO_THREADS, *command], capture_output=True, text=True)
    assert done.returncode == exit_code, done.stderr
    if exit_code:
        assert one_line(done.stderr), done.stderr
        assert "can't start new thread" in done.stderr
        assert "ulimit -u" in done.stderr
    assert list(tmp_path.iterdir()) == []


HEAVY = ("torch", "keras", "tensorflow", "jax", "rich", "h5py", "safetensors", "numpy")


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import denseport, denseport.cli", set()),
        ("from denseport.cli import cli; cli(['convert', '--help'], standalone_mode=False)", set()),
        ("import denseport; denseport.convert, denseport.inspect, denseport.diff, denseport.translate", {"numpy"}),
        ("import denseport; denseport.verify", {"numpy"}),
        ("import denseport; denseport.convert('{pth}', '{tmp}/x.weights.h5', verify=False)", {"numpy", "h5py"}),
        ("import denseport; denseport.convert('{pth}', '{tmp}/x.safetensors', verify=False)", {"numpy", "safetensors"}),
        ("import denseport; denseport.convert('{pth}', '{tmp}/x.pth', verify=False)", {"numpy"}),
        ("import torch", {"torch", "numpy"}),
    ],
)
def test_no_framework_is_imported(fixtures: Path, tmp_path: Path, statement: str, allowed: set[str]) -> None:
    code = statement.format(pth=fixtures / "digits-torch.pth", tmp=tmp_path)
    check = f"{code}\nimport sys, json\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout.splitlines()[-1])) == allowed


def test_every_public_name_is_there() -> None:
    import denseport as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    assert not hasattr(package, "nonsense")
