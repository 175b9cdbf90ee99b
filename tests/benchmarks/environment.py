"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "denseport", "numpy", "h5py", "safetensors", "torch", "torchvision", "timm", "keras", "keras-hub", "tensorflow",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The machine, how busy it is, and the versions of what takes part."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "system": f"{platform.system()} {platform.release()}",
            "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def sentence(environment: Mapping[str, Any]) -> str:
    """The same in one line for people."""
    machine = environment["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    memory = f"{machine['memory_bytes'] / 1e9:.0f} GB"
    return f"{machine['processor']}, {machine['cores']} cores, {memory}, {machine['system']}; {versions}"


def _processor() -> str:
    """The processor's name, which Linux keeps in /proc."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
