"""Exports that are killed: the repository holds what it held, or the new version whole."""

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
from support.runs import write_run

from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model
from unfreeze.serve.models.verification import verify

MOMENTS = 20


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A repository with one version."""
    run = write_run(tmp_path_factory.mktemp("run"))
    return export_model(run, run.parent / "models", "colors", ExportOptions(max_batch=16))


@pytest.mark.slow
def test_killed_at_random_moments_a_repository_always_loads(published: Published) -> None:
    """Twenty exports into one repository, each killed at another moment: every version there is is whole."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unfreeze.export.run"])
    root = published.path.parents[2]
    run, repository, seconds = root.parent / "run", ModelRepository(root), _seconds(context, root)
    rng, ended = np.random.default_rng(0), []
    for number in range(MOMENTS):
        before = repository.versions("colors")
        process = _start(context, root)
        process.join(seconds * (number + rng.random()) / MOMENTS)
        process.kill()
        process.join()
        after = repository.versions("colors")
        assert after in (before, (*before, len(before) + 1))
        ended.append(after != before)
        verify(repository.path("colors", after[-1]))
    assert not all(ended), "none was killed before it was done"
    again = export_model(run, root, "colors", ExportOptions(max_batch=16))
    assert again.path.read_bytes() == published.path.read_bytes()
    assert repository.versions("colors")[-1] == again.version
    for version in repository.versions("colors"):
        assert repository.path("colors", version).read_bytes() == published.path.read_bytes()


def _start(context: multiprocessing.context.ForkServerContext, root: Path) -> multiprocessing.Process:
    process = context.Process(
        target=export_model, args=(root.parent / "run", root, "colors", ExportOptions(max_batch=16))
    )
    process.start()
    return process


def _seconds(context: multiprocessing.context.ForkServerContext, root: Path) -> float:
    """Let one end, to know how long they take."""
    _start(context, root).join()  # the first one waits for the imports
    started = time.monotonic()
    _start(context, root).join()
    return time.monotonic() - started
