"""The number of CPU cores that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SYSTEM_ROOT = Path("/")  # tests set another one
_MOUNT = "sys/fs/cgroup"
_assigned: list[float] = []


def limit_cores(cores: float) -> None:
    """Let this process use at most a number of cores, for schedulers that assign cores without enforcing it.

    Args:
        cores: the assigned cores; replaces an earlier limit.
    """
    _assigned[:] = [cores]


def usable_cores() -> int:
    """Count the cores that this process may use: its CPU affinity, capped by quotas and by `limit_cores`.

    Quotas are those of its control groups. They are rounded down to whole cores: more threads than that would take
    turns.

    Returns:
        At least 1, and never more than the affinity.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([affinity, *_quotas(), *_assigned])))


def _quotas() -> Iterator[float]:
    """List the quotas, in cores, of this process's control group and of all groups that contain it."""
    for folder in _group_folders():
        for read in (_quota_v2, _quota_v1):
            try:
                quota = read(folder)
            except (OSError, ValueError, ZeroDivisionError):  # another version of cgroup, or a damaged file
                continue
            if quota is not None:
                yield quota


def _quota_v2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    return None if quota < 0 else quota / int((folder / "cpu.cfs_period_us").read_text())


def _group_folders() -> Iterator[Path]:
    """Yield the folders of this process's groups and of their parents, from `/proc/self/cgroup`.

    Inside a container the listed path may be the host's and not exist; the mount's root is then the container's group.
    """
    mount = SYSTEM_ROOT / _MOUNT
    try:
        lines = (SYSTEM_ROOT / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            hierarchies = [mount, mount / "unified"]  # version 2, alone or together with version 1
        elif "cpu" in controllers.split(","):
            hierarchies = [mount / controllers, mount / "cpu"]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:  # outside of the container's namespace
            group = PurePosixPath()
        for hierarchy in hierarchies:
            yield from (hierarchy / above for above in (group, *group.parents))
    yield from (mount, mount / "cpu", mount / "cpu,cpuacct")
