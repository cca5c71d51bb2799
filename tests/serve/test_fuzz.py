"""A deterministic fuzz test of a real server with mutated images and messages: `bench.fuzz` at a smaller scale."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from support.servers import RunningServer, running_server

from bench.fuzz import answers_correctly, fuzz, grown_mib
from bench.hostile.attack import leaks, save
from bench.hostile.jobs import Job, image_jobs, message_jobs
from bench.hostile.model import publish_colors
from bench.hostile.shared import OPTIONS

pytestmark = pytest.mark.xdist_group("fuzz")

SEED = 7
MAX_GROWTH_MIB = 400  # an image of the maximum size takes 250 MiB, and the allocator keeps some of it

Jobs = Callable[[int, int], Iterator[Job]]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that distinguishes three colors."""
    return publish_colors(tmp_path_factory.mktemp("fuzz") / "models")


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    """A server of this model, in its own process, whose memory is measured."""
    with running_server(repository, *OPTIONS) as running:
        yield running


@pytest.mark.parametrize("count", [150, pytest.param(600, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("jobs", [image_jobs, message_jobs])
def test_mutated_requests_violate_no_guarantee(jobs: Jobs, count: int, server: RunningServer, repository: Path) -> None:
    """Each request gets a documented status in time, without server details, and the same in every encoding."""
    tally = fuzz(server.target, server.process.pid, repository, jobs(count, SEED))
    assert [violation.what for violation in tally.violations] == []
    assert tally.calls == count * (3 if jobs is image_jobs else 1)
    assert {status for _, status in tally.statuses} >= {"OK", "INVALID_ARGUMENT"}, "all requests had the same outcome"
    assert grown_mib(tally) < MAX_GROWTH_MIB
    assert server.process.poll() is None
    assert answers_correctly(server.target)


@pytest.mark.parametrize("jobs", [image_jobs, message_jobs])
def test_seed_determines_the_requests(jobs: Jobs) -> None:
    """The same seed generates the same requests, and another seed different ones."""
    first, again, other = (
        [call.messages for job in islice(jobs(20, seed), 20) for call in job.calls] for seed in (SEED, SEED, SEED + 1)
    )
    assert first == again
    assert first != other


def test_fuzz_reports_a_crashed_server_and_saves_the_requests(repository: Path, tmp_path: Path) -> None:
    """Calls to a killed server are violations, and their messages are written to files."""
    with running_server(repository) as server:
        server.process.kill()
        os.waitid(os.P_PID, server.process.pid, os.WEXITED | os.WNOWAIT)
        tally = fuzz(server.target, server.process.pid, repository, message_jobs(100, SEED))
    assert {status for _, status in tally.statuses} == {"UNAVAILABLE"}
    assert "the server is dead" in {violation.what for violation in tally.violations}
    assert tally.calls < 100, "it continued without a server"
    save(tally.violations, tmp_path)
    violation = tally.violations[0]
    saved = [path.read_bytes() for path in sorted(tmp_path.glob(f"{violation.number:06}-*.bin"))]
    assert saved == list(violation.call.messages)


@pytest.mark.parametrize(
    ("text", "leaking"),
    [
        ("image 1 of 1: the image is empty: it has no bytes", False),
        ("/srv/models/insects/1/model.onnx is gone", True),
        ("Traceback (most recent call last):", True),
        ("cannot identify image file <_io.BytesIO object at 0x7f52>", True),
        ("internal error; see the server's log", True),
    ],
)
def test_detects_server_details_in_messages(text: str, *, leaking: bool) -> None:
    """Tracebacks, representations of objects and paths are detected; ordinary messages are not."""
    assert leaks(text, ("/srv/models",)) is leaking
