"""Concurrent use of the model repository: readers and writers, several writers, and killed writers."""

import itertools
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.manifests import MANIFEST

from unfreeze.contract.model.repository import ModelRepository

CONTENT = bytes(range(256)) * 4096
PUBLISH = f"""
import sys
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.repository import ModelRepository
repository = ModelRepository(sys.argv[1])
manifest = Manifest.from_json({MANIFEST.to_json()!r})
content = bytes(range(256)) * 4096
print("started", flush=True)
for _ in range(int(sys.argv[2])):
    print(repository.publish("insects", content, manifest), flush=True)
"""


def _publisher(root: Path, times: int) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", PUBLISH, str(root), str(times)], stdout=subprocess.PIPE, text=True)


def _read_all(repository: ModelRepository) -> tuple[int, ...]:
    """Read every version that is listed, and compare it with what was published."""
    versions = repository.models().get("insects", ())
    for version in versions:
        assert repository.path("insects", version).read_bytes() == CONTENT
    if versions:
        assert (repository.root / "insects/labels.txt").read_text() == "ant\nbee\n"
        assert (repository.root / "insects/config.pbtxt").read_text().endswith("zero_data: true } } }]\n")
    return versions


def test_readers_only_see_complete_versions(tmp_path: Path) -> None:
    """While a process publishes versions, every version that a reader finds is complete, and none disappears."""
    repository = ModelRepository(tmp_path)
    seen: list[tuple[int, ...]] = []
    with _publisher(tmp_path, 20) as process:
        while process.poll() is None:
            seen.append(_read_all(repository))
    assert process.returncode == 0
    assert _read_all(repository) == tuple(range(1, 21))
    assert len(set(seen)) > 3
    assert all(one == other[: len(one)] for one, other in itertools.pairwise(seen))


def test_concurrent_publishers_get_different_versions(tmp_path: Path) -> None:
    """Threads and processes that publish at the same time all succeed, each with its own version number."""
    repository = ModelRepository(tmp_path)
    processes = [_publisher(tmp_path, 4) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "started\n"
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda _: repository.publish("insects", CONTENT, MANIFEST), range(8)))
    for process in processes:
        numbers += [int(line) for line in process.communicate()[0].split()]
        assert process.returncode == 0
    assert sorted(numbers) == list(range(1, 17))
    assert _read_all(repository) == tuple(range(1, 17))


def test_concurrent_first_publications_succeed(tmp_path: Path) -> None:
    """Also when the model's folder does not exist yet."""
    for attempt in range(8):
        repository, start = ModelRepository(tmp_path / str(attempt)), threading.Barrier(4)

        def publish(_: int, repository: ModelRepository = repository, start: threading.Barrier = start) -> int:
            start.wait()
            return repository.publish("insects", b"model", MANIFEST)

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(publish, range(4))) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "delay_ms", [0, 5, 34, *(pytest.param(ms, marks=pytest.mark.exhaustive) for ms in (1, 2, 3, 8, 13, 21, 55))]
)
def test_killed_publishers_leave_complete_versions(delay_ms: int, tmp_path: Path) -> None:
    """A publisher that is killed at any time leaves a repository of complete versions that can be added to."""
    repository = ModelRepository(tmp_path)
    with _publisher(tmp_path, 10_000) as process:
        assert process.stdout.readline() == "started\n"
        time.sleep(delay_ms / 1000)
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.stdout.read().split()]
    versions = _read_all(repository)
    assert versions == tuple(range(1, len(versions) + 1))
    assert len(reported) <= len(versions) <= len(reported) + 1
    assert repository.publish("insects", CONTENT, MANIFEST) == len(versions) + 1
    assert _read_all(repository)[-1] == len(versions) + 1
