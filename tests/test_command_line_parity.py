"""`verify` and `convert` on the command line: text when piped, tables on a terminal, a page and JSON, one verdict."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from densenets import SMALL, canonical_weights, checkpoint
from PIL import Image

import denseport as library

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a right pair, a.pth and b.h5, a broken.h5, small images and a folder of pictures."""
    folder = tmp_path_factory.mktemp("nets")
    arrays = canonical_weights(SMALL["CIFAR"][0])
    traits = vars(SMALL["CIFAR"][0].traits)
    library.write(checkpoint(arrays, **traits), folder / "a.pth")
    arrays["block2.layer1.norm1.bias"] = arrays["block2.layer1.norm1.bias"][::-1]
    library.write(checkpoint(arrays, **traits), folder / "broken.pth")
    for source, target in (("a.pth", "b.h5"), ("broken.pth", "broken.h5")):
        library.convert(folder / source, folder / target, to_layout="denseport", verify=False)
    random = np.random.default_rng(1)
    np.savez(folder / "images.npz", images=random.standard_normal((2, 32, 32, 3), np.float32))
    for name in range(10):
        (folder / "pictures" / str(name)).mkdir(parents=True)
        picture = random.integers(0, 256, (40, 36, 3), np.uint8)
        Image.fromarray(picture).save(folder / "pictures" / str(name) / "one.png")
    return folder


def test_the_verdict_is_text_when_piped_and_a_page_where_one_is_named(
    denseport: Run, nets: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    options = ["-v", "--device", "cpu", "--inputs", nets / "images.npz", "--report", page]
    good = denseport("verify", *options, nets / "a.pth", nets / "b.h5")
    assert good.returncode == 0, good.stderr
    assert re.search(r"\nparity +passed: ", good.stdout)
    assert re.search(r"\n  block3\.layer2 +\d", good.stdout), "-v shows every tap"
    assert "Both files" in page.read_text(encoding="utf-8")
    bad = denseport("verify", *options, nets / "a.pth", nets / "broken.h5")
    assert bad.returncode == 1
    assert re.search(r"\nparity +FAILED: ", bad.stdout)
    assert "block2.layer1.norm1.bias holds the same values in another order" in bad.stdout
    assert "These files do not compute the same" in page.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_json_has_every_tap_and_the_divergence(denseport: Run, nets: Path) -> None:
    done = denseport(
        "verify", "--json", "--device", "cpu", "--inputs", nets / "images.npz", nets / "a.pth", nets / "broken.h5"
    )
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["passed"] is False
    assert report["divergence"]["tap"] == "block2.layer1"
    assert [tap["name"] for tap in report["taps"]][:2] == ["stem", "block1.layer1"]
    assert report["dtype"] == "float32"


def test_verify_and_convert_show_the_same_tables_on_a_terminal(nets: Path, tmp_path: Path) -> None:
    options = ["-v", "--device", "cpu", "--inputs", nets / "images.npz"]
    verified = on_terminal("verify", *options, nets / "a.pth", nets / "b.h5")
    converted = on_terminal("convert", *options, "--to-layout", "denseport", nets / "a.pth", tmp_path / "b.h5")
    assert "passed: " in verified
    assert "block3.layer2" in verified
    assert compared(verified) == compared(converted)
    coloured = on_terminal("verify", *options, nets / "a.pth", nets / "broken.h5", kind="xterm")
    assert re.search(r"parity +\x1b\[1;31mFAILED: ", coloured)
    assert re.search(r"\x1b\[1;31m  block2\.layer1 ", coloured), "the place where they part stands out"
    assert "block2.layer1.norm1.bias holds the same values" in coloured
    plain = on_terminal("verify", *options, nets / "a.pth", nets / "broken.h5", kind="xterm", NO_COLOR="1")
    assert "FAILED: " in plain
    assert "[1;31m" not in plain


def compared(shown: str) -> list[list[str]]:
    """The lines about parity, without the space between their columns."""
    lines = [line.split() for line in shown.splitlines()]
    verdict, last = (next(n for n, line in enumerate(lines) if line[:1] == [label]) for label in ("parity", "time"))
    return lines[verdict:last]


def test_a_migration_on_a_terminal_counts_its_files(nets: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.pth").write_bytes((nets / "a.pth").read_bytes())
    folders = tmp_path / "source", tmp_path / "target"
    shown = on_terminal("migrate", "--no-verify", "--to", "safetensors", *folders, kind="xterm")
    assert "migrating ..." in shown
    assert "1/1" in shown
    assert "a minute" in shown
    assert re.search(r"^converted +1\r?$", shown, re.MULTILINE)


def on_terminal(*arguments: object, kind: str = "dumb", **environment: str) -> str:
    """What a terminal of 160 columns shows; a dumb one has no progress bars."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "denseport", *map(str, arguments)]
    given = {**os.environ, "COLUMNS": "160", "TERM": kind, **environment}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=given):
        os.close(theirs)
        shown = b""
        while True:
            try:
                more = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            shown += more
    os.close(ours)
    return shown.decode()


def test_a_folder_of_pictures_gives_accuracy_and_names_disagreements(denseport: Run, nets: Path) -> None:
    done = denseport(
        "verify", "--json", "--device", "cpu", "--inputs", nets / "pictures", "--preprocess", "torch",
        nets / "a.pth", nets / "broken.h5",
    )  # fmt: skip
    report = json.loads(done.stdout)
    (comparison,) = report["comparisons"]
    assert comparison["input_shape"] == [10, 32, 32, 3]
    assert all(0 <= share <= 1 for share in comparison["accuracy"])
    for row in report["disagreements"]:
        assert row["image"] == f"{row['label']}/one.png"
        assert row["a"] != row["b"]
    expected = round((1 - comparison["top1_agreement"]) * 10)
    assert len(report["disagreements"]) == expected


def test_a_failed_conversion_still_writes_its_page(denseport: Run, nets: Path, tmp_path: Path) -> None:
    page, target = tmp_path / "page.html", tmp_path / "b.h5"
    options = ["--to-layout", "denseport", "--device", "cpu", "--inputs", nets / "images.npz", "--report", page]
    done = denseport("convert", *options, "--tolerance", "1e-12", nets / "a.pth", target)
    assert done.returncode == 1
    assert not target.exists()
    assert str(target) in page.read_text(encoding="utf-8") or "b.h5" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["verify", "--report", "nowhere/page.html", "a.pth", "b.h5"],
            "--report nowhere/page.html: is a folder, or in",
        ),
        (["verify", "--report", "a.pth", "a.pth", "b.h5"], "give it a name that ends in .html"),
        (["convert", "--no-verify", "--exact", "a.pth", "c.h5"], "--exact says how outputs are compared"),
        (["convert", "--no-verify", "--report", "page.html", "a.pth", "c.h5"], "leave out --no-verify"),
        (["verify", "--exact", "--keras-backend", "jax", "a.pth", "b.h5"], "give --keras-backend tensorflow"),
        (["verify", "--train-steps", "1001", "a.pth", "b.h5"], "train-steps"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_2(nets: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "denseport", *arguments], capture_output=True, text=True, check=False, cwd=nets
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (nets / "page.html").exists()
    assert not (nets / "c.h5").exists()
