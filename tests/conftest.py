"""What every test can ask for: the fixtures' folder, and a fresh process for code that needs a framework."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
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
