"""The memory of the process that asks."""

from __future__ import annotations

from pathlib import Path


def peak_private_memory() -> int:
    """Bytes that this process held at most, as the system counted them, without the libraries and files it has mapped.

    0 where the system has no /proc, as Linux has.

    Source: Linux, Documentation/filesystems/proc.rst, table of /proc/PID/status.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in status.read_text().splitlines() if "kB" in line}
    return 1024 * (kilobytes["VmHWM:"] - kilobytes["RssFile:"])
