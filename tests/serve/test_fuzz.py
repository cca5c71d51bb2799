"""Changed images and changed messages, the same each time, against a real server: bench.fuzz in small."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from support.servers import RunningServer, running_server

from bench.fuzz import answers_right, fuzz, grown_mib
from bench.hostile.attack import leaks, save
from bench.hostile.jobs import Job, image_jobs, message_jobs
from bench.hostile.model import publish_colors

COUNT, SEED = 600, 7
MOST_MIB = 400  # a single image of the largest size takes 250 MiB, and the allocator keeps some of that

Jobs = Callable[[int, int], Iterator[Job]]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells three colors apart."""
    return publish_colors(tmp_path_factory.mktemp("fuzz") / "models")


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    """A server of it."""
    with running_server(repository) as running:
        yield running


@pytest.mark.parametrize("jobs", [image_jobs, message_jobs])
def test_changed_bytes_break_no_promise(jobs: Jobs, server: RunningServer, repository: Path) -> None:
    """Each is answered in time, in a status that fits, telling nothing of the machine, alike in every form."""
    tally = fuzz(server.target, server.process.pid, repository, jobs(COUNT, SEED))
    assert [violation.what for violation in tally.violations] == []
    assert tally.calls == COUNT * (3 if jobs is image_jobs else 1)
    assert {status for _, status in tally.statuses} >= {"OK", "INVALID_ARGUMENT"}, "all were answered alike"
    assert grown_mib(tally) < MOST_MIB
    assert server.process.poll() is None
    assert answers_right(server.target)


@pytest.mark.parametrize("jobs", [image_jobs, message_jobs])
def test_the_same_seed_sends_the_same(jobs: Jobs) -> None:
    """What broke a promise once can be sent again; another seed sends something else."""
    first, again, other = (
        [call.messages for job in islice(jobs(20, seed), 20) for call in job.calls] for seed in (SEED, SEED, SEED + 1)
    )
    assert first == again
    assert first != other


def test_a_server_that_dies_is_noticed_and_what_killed_it_is_kept(repository: Path, tmp_path: Path) -> None:
    """Its calls are violations, whose bytes are written down."""
    with running_server(repository) as server:
        server.process.kill()
        os.waitid(os.P_PID, server.process.pid, os.WEXITED | os.WNOWAIT)
        tally = fuzz(server.target, server.process.pid, repository, message_jobs(100, SEED))
    assert {status for _, status in tally.statuses} == {"UNAVAILABLE"}
    assert "the server is dead" in {violation.what for violation in tally.violations}
    assert tally.calls < 100, "it went on without a server"
    save(tally.violations, tmp_path)
    violation = tally.violations[0]
    kept = [path.read_bytes() for path in sorted(tmp_path.glob(f"{violation.number:06}-*.bin"))]
    assert kept == list(violation.call.messages)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image 1 of 1: the image is empty: it has no bytes", False),
        ("/srv/models/insects/1/model.onnx is gone", True),
        ("Traceback (most recent call last):", True),
        ("cannot identify image file <_io.BytesIO object at 0x7f52>", True),
        ("the server failed; its log says why", True),
    ],
)
def test_what_tells_of_the_machine_is_told_apart(text: str, told: bool) -> None:  # noqa: FBT001 - a value of the table
    """Traces, objects and the repository's folder are; plain refusals are not."""
    assert leaks(text, ("/srv/models",)) is told
