"""How many CPU cores this process may use: a container's quota is no part of what os.cpu_count() says.

It imports nothing but Python's own modules, because launch/ asks before anything is installed.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available(root: Path = Path("/")) -> int:
    """Returns the cores that this process may run on, or the quota of its cgroups, rounded up, if that is less.

    `root` is where /proc and /sys/fs/cgroup are.
    """
    return min([_allowed(), *(math.ceil(quota) for quota in _quotas(root))])


def limit() -> int | None:
    """Returns the cores of a quota that is less than this process may run on, or None: then the libraries find out by
    themselves, and count physical cores."""
    cores = available()
    return cores if cores < _allowed() else None


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yields the quota in cores of each cgroup that this process is in and that has one: its own and those above."""
    groups = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        home = groups / "cpu" if controllers else groups  # which is a link where cpu and cpuacct are mounted together
        # In a container the path may be the host's, while only what is below the container's own group is mounted.
        inner = home / path.strip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(home):
                break
            if controllers:
                yield from _quota(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
            else:
                yield from _quota(*(_read(folder / "cpu.max").split() or ("", "")))


def _quota(quota: str, period: str = "100000") -> Iterator[float]:
    """Yields one quota in cores, or nothing for "max", -1 and a file that is not there."""
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return
    if cores > 0:
        yield cores


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
