"""What every test can ask for: the fixtures' folder, and a fresh process for code that needs a framework."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))
# Tests run side by side: threads that spin while they wait take the cores from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Files whose tests each start processes of their own, and share nothing that is worth keeping together.
SPREAD = (
    "test_command_line.py",
    "test_command_line_parity.py",
    "test_conversion.py",
    "test_ecosystem.py",
    "test_hostile_inputs.py",
    "test_interruption.py",
    "test_migration.py",
    "test_parity.py",
    "test_size.py",
)

# Files whose tests neither import a framework nor start a process that does: `pytest -m quick`, a minute on two cores.
QUICK = (
    "test_atomic.py",
    "test_descriptions.py",
    "test_documentation.py",
    "test_evidence.py",
    "test_files.py",
    "test_formats.py",
    "test_h5_hostile.py",
    "test_heads.py",
    "test_keras_weights.py",
    "test_layout_reference.py",
    "test_layouts.py",
    "test_net.py",
    "test_options.py",
    "test_recognition.py",
    "test_safetensors.py",
    "test_search.py",
    "test_shown.py",
    "test_templates.py",
    "test_text.py",
    "test_zip_archive.py",
)
FRAMEWORKS = ("torch", "keras", "tensorflow")
# CI installs all that any test needs, so that nothing is skipped there.
EVERYTHING_IS_THERE = bool(os.environ.get("CI"))
_not_collected: dict[str, str] = {}


@cache
def is_installed(module: str) -> bool:
    """Whether a module can be imported, found out without importing it."""
    return find_spec(module) is not None


def _missing_imports(file: Path) -> list[str]:
    """The modules that a file imports at its top and that are not installed."""
    imports = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom) and node.module}
    return sorted({name.partition(".")[0] for name in names if not is_installed(name.partition(".")[0])})


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out what is not quick where only that is asked for, and files that import what is not installed.

    To collect a file is to import it, and what it imports; the summary names files that lack something.
    """
    if not collection_path.match("test_*.py"):
        return None
    if config.option.markexpr == "quick" and collection_path.name not in QUICK:
        return True
    if EVERYTHING_IS_THERE:
        return None
    if missing := _missing_imports(collection_path):
        _not_collected[collection_path.name] = ", ".join(missing)
    return bool(missing) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is quick, and skips all else where a framework is missing."""
    absent = [name for name in FRAMEWORKS if not is_installed(name)]
    for item in items:
        if item.path.name in QUICK:
            item.add_marker("quick")
        elif absent and not EVERYTHING_IS_THERE:
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(absent)}: pip install -e '.[test]'"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names the files that were left out."""
    for file, missing in sorted(_not_collected.items()):
        terminalreporter.write_line(f"NOT COLLECTED {file}: needs {missing}: pip install -e '.[test]'")


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fails the test of a quick run that has imported a framework after all, on a worker of xdist too."""
    if item.config.option.markexpr == "quick" and (found := [name for name in FRAMEWORKS if name in sys.modules]):
        pytest.fail(f"imported {', '.join(found)}; take {item.path.name} out of QUICK in conftest.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps the tests of a file on one worker, which makes its fixtures once, but for those that are better spread."""
    from xdist.scheduler import LoadScopeScheduling

    class FilesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if Path(file).name in SPREAD else file

    return FilesTogether(config, log)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of small trained DenseNets."""
    return ROOT / "fixtures"


@pytest.fixture(scope="session")
def script() -> Callable[..., Any]:
    """Runs a file of tests/scripts in a process of its own, and returns the JSON that it prints last.

    Frameworks never share a process: importing TensorFlow and then torchvision ends in a segmentation fault. `python`
    is another interpreter than this one, for libraries that need an environment of their own.
    """

    def run(name: str, *arguments: object, python: str = sys.executable, **environment: str) -> Any:
        done = subprocess.run(
            [python, ROOT / "tests" / "scripts" / f"{name}.py", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **environment},
        )
        absent = re.search(r"^ModuleNotFoundError: No module named '([\w.]+)'", done.stderr, re.MULTILINE)
        if absent and not EVERYTHING_IS_THERE and not is_installed(absent[1].partition(".")[0]):
            pytest.skip(f"needs {absent[1]}: pip install -e '.[test]'")
        assert done.returncode == 0, done.stderr[-4000:]
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    return run


@pytest.fixture(scope="session")
def keras_2_python() -> str:
    """The interpreter of an environment with Keras 2.15 and keras-cv 0.9, which cannot live beside Keras 3."""
    if python := os.environ.get("DENSEPORT_KERAS_2_PYTHON"):
        return python
    return pytest.skip("DENSEPORT_KERAS_2_PYTHON names no Python with keras 2.15 and keras-cv 0.9.0")


@pytest.fixture
def denseport() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line as a user does."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "denseport", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, **environment},
        )

    return run
