"""The model repository under many hands: readers beside writers, writers beside writers, and sudden deaths."""

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

WHOLE = bytes(range(256)) * 4096
PUBLISH = f"""
import sys
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.repository import ModelRepository
repository = ModelRepository(sys.argv[1])
manifest = Manifest.from_json({MANIFEST.to_json()!r})
content = bytes(range(256)) * 4096
print("begun", flush=True)
for _ in range(int(sys.argv[2])):
    print(repository.publish("insects", content, manifest), flush=True)
"""


def _publisher(root: Path, times: int) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", PUBLISH, str(root), str(times)], stdout=subprocess.PIPE, text=True)


def _read_all(repository: ModelRepository) -> tuple[int, ...]:
    """Read every version that is listed, and hold it against what was published."""
    versions = repository.models().get("insects", ())
    for version in versions:
        assert repository.path("insects", version).read_bytes() == WHOLE
    if versions:
        assert (repository.root / "insects/labels.txt").read_text() == "ant\nbee\n"
        assert (repository.root / "insects/config.pbtxt").read_text().endswith("zero_data: true } } }]\n")
    return versions


def test_readers_never_see_half_a_model(tmp_path: Path) -> None:
    """While a process publishes 50 versions, every version that a reader finds is whole, and none goes away again."""
    repository = ModelRepository(tmp_path)
    seen: list[tuple[int, ...]] = []
    with _publisher(tmp_path, 50) as process:
        while process.poll() is None:
            seen.append(_read_all(repository))
    assert process.returncode == 0
    assert _read_all(repository) == tuple(range(1, 51))
    assert len(set(seen)) > 5
    assert all(one == other[: len(one)] for one, other in itertools.pairwise(seen))


def test_publishers_do_not_take_each_others_numbers(tmp_path: Path) -> None:
    """Threads and processes that publish at once all succeed, each with a number of its own, and none is left out."""
    repository = ModelRepository(tmp_path)
    processes = [_publisher(tmp_path, 8) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "begun\n"
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda _: repository.publish("insects", WHOLE, MANIFEST), range(16)))
    for process in processes:
        numbers += [int(line) for line in process.communicate()[0].split()]
        assert process.returncode == 0
    assert sorted(numbers) == list(range(1, 33))
    assert _read_all(repository) == tuple(range(1, 33))


def test_first_publications_may_come_at_once(tmp_path: Path) -> None:
    """Where a model is new, those who publish it at the same moment all succeed too."""
    for attempt in range(20):
        repository, start = ModelRepository(tmp_path / str(attempt)), threading.Barrier(4)

        def publish(_: int, repository: ModelRepository = repository, start: threading.Barrier = start) -> int:
            start.wait()
            return repository.publish("insects", b"model", MANIFEST)

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(publish, range(4))) == [1, 2, 3, 4]


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
def test_killed_publishers_leave_whole_models(delay_ms: int, tmp_path: Path) -> None:
    """A publisher killed at any moment leaves a repository of whole models, to which the next one can add."""
    repository = ModelRepository(tmp_path)
    with _publisher(tmp_path, 10_000) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay_ms / 1000)
        process.send_signal(signal.SIGKILL)
        told = [int(line) for line in process.stdout.read().split()]
    versions = _read_all(repository)
    assert versions == tuple(range(1, len(versions) + 1))
    assert len(told) <= len(versions) <= len(told) + 1
    assert repository.publish("insects", WHOLE, MANIFEST) == len(versions) + 1
    assert _read_all(repository)[-1] == len(versions) + 1
