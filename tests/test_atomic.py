"""A target is replaced whole or not at all, and nothing is left or written beside it."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from denseport import FormatError, UsageError, VerificationError, atomic, convert, formats, read, write
from denseport.atomic import replacing, temporary_folder
from denseport.checkpoint import Checkpoint, Tensor

CHECKPOINT = Checkpoint({"a.weight": Tensor.of(np.arange(6, dtype=np.float32).reshape(2, 3))}, {"note": "kept"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_disk_that_says_once_that_it_failed_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of a lost write at the first sync, and no longer at the next."""
    failures = [OSError(errno.EIO, "Input/output error")]
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UsageError, match="Input/output error"):
        write(CHECKPOINT, tmp_path / "x.safetensors")
    assert names(tmp_path) == []


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
        "import sys, time, pathlib\nfrom denseport.atomic import replacing\n"
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
        "import sys, pathlib\nfrom denseport.atomic import replacing\n"
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

    def dishonest(tensors, *others, **more) -> None:
        changed = {name: Tensor.of(tensor.read() * (1 + 2**-20)) for name, tensor in tensors.items()}
        honest(changed, *others, **more)

    monkeypatch.setattr(formats, "write", dishonest)
    with pytest.raises(VerificationError, match=r"a\.weight"):
        write(CHECKPOINT, tmp_path / "x.safetensors")
    assert names(tmp_path) == []


def test_an_error_names_the_target_and_not_the_temporary_file(tmp_path: Path) -> None:
    wrong = Checkpoint({"a.weight": Tensor.of(np.zeros(2, np.complex64))})
    with pytest.raises(FormatError, match=f"^{tmp_path}/x.safetensors: "):
        write(wrong, tmp_path / "x.safetensors")


def test_a_target_with_the_longest_name_is_written(tmp_path: Path) -> None:
    name = "\u91cd" * 83 + "x.pth"  # 254 bytes, of the 255 that a name may have
    write(CHECKPOINT, tmp_path / name)
    assert names(tmp_path) == [name]


def test_the_target_s_own_name_says_the_container_and_not_the_file_s_that_it_links_to(tmp_path: Path) -> None:
    link = tmp_path / "model.weights.h5"
    link.symlink_to(tmp_path / "5f3c")
    conv = Checkpoint({"conv/kernel": Tensor.of(np.zeros((3, 3, 4, 8), np.float32))})
    write(conv, link, force=True)
    with read(tmp_path / "5f3c") as written:
        assert written.container == "Keras 3 .weights.h5"


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_file_that_appears_at_the_last_moment_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    target = tmp_path / "x.bin"

    def link(source: Path, goal: Path) -> None:
        target.write_bytes(b"a neighbour's")
        if not links:
            raise OSError(errno.EPERM, "Operation not permitted")
        real(source, goal)

    real = os.link
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(UsageError, match="appeared"), replacing(target, force=False) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"a neighbour's"
    assert names(tmp_path) == ["x.bin"]


def test_a_file_is_written_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    write(CHECKPOINT, tmp_path / "x.pth")
    assert names(tmp_path) == ["x.pth"]


def test_a_neighbour_who_takes_the_new_folder_for_a_leftover_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []

    def locked(folder: Path) -> int | None:
        if not taken:
            taken.append(folder)
            shutil.rmtree(folder)
        return real(folder)

    real = atomic._locked
    monkeypatch.setattr(atomic, "_locked", locked)
    write(CHECKPOINT, tmp_path / "x.pth")
    assert taken
    assert names(tmp_path) == ["x.pth"]


def test_an_interruption_right_after_the_folder_was_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> int:
        assert folder.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "_locked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(CHECKPOINT, tmp_path / "x.pth")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["x.pth", "x.h5", "x.weights.h5", "x.safetensors"])
def test_a_file_can_be_converted_onto_itself(fixtures: Path, tmp_path: Path, name: str) -> None:
    convert(fixtures / "digits-torch.pth", tmp_path / name, verify=False)
    with read(tmp_path / name) as before:
        expected = {tensor: values.read().copy() for tensor, values in before.tensors.items()}
    convert(tmp_path / name, tmp_path / name, verify=False, force=True)
    with read(tmp_path / name) as after:
        assert after.tensors.keys() == expected.keys()
        assert all(np.array_equal(values.read(), expected[tensor]) for tensor, values in after.tensors.items())
    assert names(tmp_path) == [name]


def without_privileges() -> None:
    """Takes from root, for the program that is started next, the right to write what is read-only."""
    drop, override, read_search = 24, 1, 2
    for capability in (override, read_search):
        ctypes.CDLL(None).prctl(drop, capability, 0, 0, 0)


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def refused(fixtures: Path, target: Path, before_start: Callable[[], None] | None = None) -> str:
    """The one line with which a conversion of a file of 100 KB to the target is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "denseport", "convert", "--no-verify", "--force", fixtures / "digits-torch.pth", target],
        capture_output=True,
        text=True,
        cwd=fixtures.parent,
        preexec_fn=before_start,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert (done.returncode, len(lines), done.stdout) == (2, 1, ""), done
    return lines[0]


def test_a_read_only_target_is_kept(fixtures: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.pth"
    target.write_bytes(b"old")
    target.chmod(0o444)
    assert refused(fixtures, target, without_privileges) == (
        f"denseport: {target}: is read-only; give another name, or make it writable"
    )
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["x.pth"]


def test_a_target_in_a_read_only_folder_is_kept(fixtures: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"old")
    tmp_path.chmod(0o555)
    try:
        said = refused(fixtures, tmp_path / "x.pth", without_privileges)
    finally:
        tmp_path.chmod(0o755)
    assert f"{tmp_path}/x.pth: cannot be written (Permission denied)" in said
    assert (tmp_path / "x.pth").read_bytes() == b"old"
    assert names(tmp_path) == ["x.pth"]


def test_a_folder_that_may_be_written_and_not_read_will_do(fixtures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    target = folder / "x.safetensors"
    folder.mkdir(mode=0o300)
    try:
        subprocess.run(
            [sys.executable, "-m", "denseport", "convert", "--no-verify", fixtures / "digits-torch.pth", target],
            check=True,
            capture_output=True,
            cwd=fixtures.parent,
            preexec_fn=without_privileges,
        )
    finally:
        folder.chmod(0o700)
    assert names(folder) == ["x.safetensors"]


FORMATS = pytest.mark.parametrize("name", ["x.pth", "x.h5", "x.weights.h5", "x.safetensors"])


@FORMATS
def test_a_limit_on_the_size_of_files_keeps_the_target(fixtures: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"old")
    assert f"{tmp_path / name}: cannot be written (File too large)" in refused(fixtures, tmp_path / name, limited)
    assert (tmp_path / name).read_bytes() == b"old"
    assert names(tmp_path) == [name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not permitted; a limit on the size of files stands in for a full disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


@FORMATS
def test_a_full_disk_keeps_the_target(fixtures: Path, small_disk: Path, name: str) -> None:
    (small_disk / name).write_bytes(b"old")
    said = refused(fixtures, small_disk / name)
    assert f"{small_disk / name}: cannot be written (No space left on device); free space" in said
    assert (small_disk / name).read_bytes() == b"old"
    assert names(small_disk) == [name]


WATCHED = """
import json, os, sys
seen = []

def watch(event, arguments):
    if event.startswith("socket.") or event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
        seen.append([event, str(arguments[1:2])])
    elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        seen.append([event, os.fspath(arguments[0])])
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.chmod"):
        seen.append([event, os.fspath(arguments[1 if event == "os.rename" else 0])])

sys.addaudithook(watch)
import denseport
for target in sys.argv[3:]:
    denseport.convert(sys.argv[1], target, verify=False)
    denseport.diff(sys.argv[1], target)
    denseport.inspect(target)
done = len(seen)
import socket
socket.socket().close()
open(sys.argv[2], "w").close()
print(json.dumps([seen[:done], seen[done:]]))
"""


def test_a_conversion_opens_no_socket_and_writes_nowhere_else(fixtures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    targets = [folder / name for name in ("x.pth", "x.h5", "x.weights.h5", "x.safetensors")]
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED, fixtures / "digits-torch.pth", tmp_path / "elsewhere", *targets],
        capture_output=True,
        text=True,
        check=True,
        cwd=fixtures.parent,
    )
    seen, control = json.loads(done.stdout)
    assert {"socket.__new__", "open"} <= {event for event, _ in control}, "the watch sees what it should"
    assert {event for event, _ in seen} >= {"open", "os.mkdir", "os.link"}
    # Within an open folder, files are removed by the last part of their names.
    outside = [
        [event, path]
        for event, path in seen
        if not path.startswith(f"{folder}/") and (event not in ("os.remove", "os.rmdir") or "/" in path)
    ]
    asked_by_h5py = [["subprocess.Popen", "(['uname', '-p'],)"], ["open", os.devnull]]  # what it runs on, once
    assert [each for each in outside if each not in asked_by_h5py] == []
    assert len(outside) <= len(asked_by_h5py)
    assert names(folder) == sorted(target.name for target in targets)


def test_a_result_that_cannot_be_printed_is_one_line(fixtures: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "denseport", "inspect", fixtures / "digits-torch.pth"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=fixtures.parent,
        )
    assert done.stderr.startswith("denseport: the result could not be printed (No space left on device)")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_a_folder_that_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    for name in ("denseport-parity-mine", "denseport-parity-0123456789abcde", "denseport-parity-0123456789abcdef"):
        (tmp_path / name).mkdir()
    with temporary_folder(tmp_path, "denseport-parity-"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"denseport-parity-mine", "denseport-parity-0123456789abcde"}
