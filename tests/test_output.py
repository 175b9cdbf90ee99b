"""A target is replaced whole or not at all, and nothing is left beside it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from denseport import FormatError, UsageError, VerificationError, formats, write
from denseport.checkpoint import Checkpoint, Tensor
from denseport.output import replacing

CHECKPOINT = Checkpoint({"a.weight": Tensor.of(np.arange(6, dtype=np.float32).reshape(2, 3))}, {"note": "kept"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with replacing(target, force=False) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.name == "x.bin"
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["x.bin"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(target, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    target.chmod(0o640)
    with pytest.raises(UsageError, match="--force"), replacing(target, force=False):
        pass
    with replacing(target, force=True) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with pytest.raises(UsageError, match="appeared"), replacing(target, force=False) as temporary:
        temporary.write_bytes(b"new")
        target.write_bytes(b"a neighbour's")
    assert target.read_bytes() == b"a neighbour's"
    assert names(tmp_path) == ["x.bin"]


def test_a_symbolic_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    real, link = tmp_path / "folder" / "real.bin", tmp_path / "link.bin"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with pytest.raises(UsageError, match="exists"), replacing(link, force=False):
        pass
    with replacing(link, force=True) as temporary:
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert names(tmp_path / "folder") == ["real.bin"]


def test_a_link_that_leads_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError), replacing(tmp_path / "a", force=True):
        pass


@pytest.mark.parametrize("target", ["missing/x.bin", "file/x.bin", "folder", "/dev/null", "/sys/x.bin"])
def test_a_target_that_cannot_be_a_file_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=Path(target).name), replacing(tmp_path / target, force=True):
        pass


def test_what_a_killed_process_left_is_removed_and_a_neighbours_work_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\nfrom denseport.output import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1]), force=True) as temporary:\n"
        "    temporary.write_bytes(b'half')\n    print('written', flush=True)\n    time.sleep(60)\n"
    )
    target = tmp_path / "x.bin"
    started = [
        subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
    assert len(names(tmp_path)) == 2
    started[0].send_signal(signal.SIGKILL)
    started[0].communicate()
    with replacing(target, force=True) as temporary:
        temporary.write_bytes(b"new")
    assert len(names(tmp_path)) == 2, "the living neighbour's folder, and the target"
    started[1].kill()
    started[1].communicate()


def test_two_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom denseport.output import replacing\n"
        "for _ in range(40):\n    with replacing(pathlib.Path(sys.argv[1]), force=True) as temporary:\n"
        "        temporary.write_bytes(sys.argv[2].encode() * 100_000)\n"
    )
    target = tmp_path / "x.bin"
    both = [subprocess.Popen([sys.executable, "-c", code, target, letter]) for letter in "ab"]
    seen = 0
    while any(process.poll() is None for process in both):
        if target.exists():
            seen += 1
            assert set(target.read_bytes()) in ({ord("a")}, {ord("b")})
        time.sleep(0.002)
    assert seen
    assert [process.returncode for process in both] == [0, 0]
    assert names(tmp_path) == ["x.bin"]


def test_write_reads_back_what_it_wrote(tmp_path: Path) -> None:
    write(CHECKPOINT, tmp_path / "x.safetensors")
    with formats.read(tmp_path / "x.safetensors") as written:
        assert written.metadata == {"note": "kept"}
        np.testing.assert_array_equal(written.tensors["a.weight"].read(), np.arange(6).reshape(2, 3))


def test_a_writer_that_writes_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = formats.write

    def dishonest(tensors, metadata, path, file_format) -> None:
        changed = {name: Tensor.of(tensor.read() * (1 + 2**-20)) for name, tensor in tensors.items()}
        honest(changed, metadata, path, file_format)

    monkeypatch.setattr(formats, "write", dishonest)
    with pytest.raises(VerificationError, match=r"a\.weight"):
        write(CHECKPOINT, tmp_path / "x.safetensors")
    assert names(tmp_path) == []


def test_an_error_names_the_target_and_not_the_temporary_file(tmp_path: Path) -> None:
    wrong = Checkpoint({"a.weight": Tensor.of(np.zeros(2, np.complex64))})
    with pytest.raises(FormatError, match=f"^{tmp_path}/x.safetensors: "):
        write(wrong, tmp_path / "x.safetensors")
