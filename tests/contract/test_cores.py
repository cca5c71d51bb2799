"""The count of usable cores: affinity, capped by the quotas of cgroup v2 and v1, at every level."""

import os
from pathlib import Path

import pytest

from unfreeze.contract import cores

V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


def _v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder in the place of `/`, on a machine of 64 cores."""
    monkeypatch.setattr(cores, "SYSTEM_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    return tmp_path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ({f"{V2}/cpu.max": "max 100000\n"}, 64),
        ({f"{V2}/cpu.max": "50000 100000\n"}, 1),
        ({f"{V2}/cpu.max": "390000 100000\n"}, 3),
        ({f"{V2}/cpu.max": "9900000 100000\n"}, 64),
        ({f"{V2}/cpu.max": "not a quota"}, 64),
        ({f"{V2}/cpu.max": "100000 0"}, 64),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/cpu.max": "max 100000", f"{V2}/a/cpu.max": "500000 100000"}, 5),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/cpu.max": "600000 100000", f"{V2}/a/cpu.max": "4000 1000"}, 4),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/cpu.max": "400000 100000", f"{V2}/a/cpu.max": "6000 1000"}, 4),
        ({"proc/self/cgroup": "0::/a\n", f"{V2}/b/cpu.max": "100000 100000"}, 64),
        ({"proc/self/cgroup": "0::/host/only\n", f"{V2}/cpu.max": "700000 100000"}, 7),
        ({"proc/self/cgroup": "0::/../up\n", f"{V2}/cpu.max": "700000 100000"}, 7),
        (_v1(V1, 200_000), 2),
        (_v1(V1, -1), 64),
        (_v1(V1, 50_000), 1),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/a/b\n"} | _v1(f"{V1}/a/b", 300_000), 3),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/a/b\n"} | _v1(f"{V1}/a/b", -1) | _v1(f"{V1}/a", 250_000), 2),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/a\n"} | _v1("sys/fs/cgroup/cpu/a", 300_000), 3),
        ({"proc/self/cgroup": "7:memory:/a\n"} | _v1("sys/fs/cgroup/memory/a", 300_000), 64),
        ({"proc/self/cgroup": "5:cpuset:/a\n4:cpu:/b\n0::/\n"} | _v1("sys/fs/cgroup/cpu/b", 600_000), 6),
        (
            {"proc/self/cgroup": "4:cpu:/a\n0::/a\n", "sys/fs/cgroup/unified/a/cpu.max": "900 100"}
            | _v1("sys/fs/cgroup/cpu/a", 1_100_000),
            9,
        ),
    ],
)
def test_smallest_quota_of_all_groups_caps_the_affinity(files: dict[str, str], expected: int, system: Path) -> None:
    """Quotas of version 2 and 1, of the own group and those above, whole or in fractions, damaged or missing."""
    for name, content in files.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(content)
    assert cores.usable_cores() == expected


def test_affinity_caps_the_quota(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process pinned to fewer cores than its quota allows uses the cores that it is pinned to."""
    (system / V2).mkdir(parents=True)
    (system / V2 / "cpu.max").write_text("800000 100000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert cores.usable_cores() == 2


def test_systems_without_affinity_count_their_cores(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS and Windows there is neither an affinity nor a control group."""
    assert list(system.iterdir()) == []
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert cores.usable_cores() == 10
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == 1
