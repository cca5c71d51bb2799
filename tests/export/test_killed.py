"""Exports that are killed: the repository contains what it contained before, or the whole new version."""

import multiprocessing
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from support.killing import publish_until

from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model
from unfreeze.serve.models.verification import verify

pytestmark = pytest.mark.xdist_group("export")
MOMENTS = 20


@pytest.fixture
def root(published: Published, tmp_path: Path) -> Path:
    """A repository with one version, to be changed."""
    return Path(shutil.copytree(published.path.parents[2], tmp_path / "models"))


def test_killed_at_every_operation_a_repository_always_loads(published: Published, root: Path) -> None:
    """Publishing is killed before each of its operations in turn: every version there is is whole."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.killing"])
    repository, content = ModelRepository(root), published.path.read_bytes()
    kept_states = 0
    for number in range(1, 100):
        before = repository.versions("colors")
        arguments = (number, root, "colors", content, published.manifest.to_json())
        process = context.Process(target=publish_until, args=arguments)
        process.start()
        process.join()
        after = repository.versions("colors")
        assert after in (before, (*before, len(before) + 1))
        assert all(repository.path("colors", version).read_bytes() == content for version in after)
        if process.exitcode == 0:
            break
        kept_states += after == before
    assert process.exitcode == 0
    assert kept_states > 5
    assert number - 1 > kept_states, "never killed between the new version's rename and the end"
    verify(repository.path("colors", after[-1]))
    assert not [path.name for path in root.iterdir() if path.name != "colors" and not path.name.startswith(".")]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_exports_killed_at_random_moments_leave_a_repository_that_loads(published: Published, root: Path) -> None:
    """Twenty whole exports into one repository, each killed at another moment, and one that is not."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unfreeze.export.run"])
    run = published.path.parents[2].parent / "run"
    repository, seconds = ModelRepository(root), _seconds(context, run, root)
    rng, finished = np.random.default_rng(0), []
    for number in range(MOMENTS):
        before = repository.versions("colors")
        process = _start(context, run, root)
        process.join(seconds * (number + rng.random()) / MOMENTS)
        process.kill()
        process.join()
        after = repository.versions("colors")
        assert after in (before, (*before, len(before) + 1))
        finished.append(after != before)
        verify(repository.path("colors", after[-1]))
    assert not all(finished), "none was killed before it had finished"
    again = export_model(run, root, "colors", ExportOptions(max_batch=16))
    assert repository.versions("colors")[-1] == again.version
    for version in repository.versions("colors"):
        assert repository.path("colors", version).read_bytes() == published.path.read_bytes()


def _start(
    context: multiprocessing.context.ForkServerContext, run: Path, root: Path
) -> multiprocessing.context.ForkServerProcess:
    process = context.Process(target=export_model, args=(run, root, "colors", ExportOptions(max_batch=16)))
    process.start()
    return process


def _seconds(context: multiprocessing.context.ForkServerContext, run: Path, root: Path) -> float:
    """Measure a whole export."""
    _start(context, run, root).join()  # the first one includes the imports
    started = time.monotonic()
    _start(context, run, root).join()
    return time.monotonic() - started
