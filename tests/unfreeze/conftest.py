"""One small exported model, and one server of it, for the tests of the commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import run_cli
from support.runs import write_run
from support.servers import RunningServer, running_server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run (`run`) with its images (`images`), exported by the command line into a model repository (`models`)."""
    made = tmp_path_factory.mktemp("commands")
    write_run(made)
    done = run_cli("export", made / "run", "--repository", made / "models", "--name", "colors", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["name"], report["version"]) == ("colors", 1)
    assert report["proof"]["batch_sizes"] == [1, 2, 7, 64]
    assert report["proof"]["largest_difference"] <= 1e-4
    return made


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[RunningServer]:
    """A server of that repository, in a process of its own."""
    with running_server(folder / "models", "--instances", "1") as running:
        yield running
