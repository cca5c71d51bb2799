"""One run with random weights and its export, shared by the tests of this folder."""

from pathlib import Path

import pytest
from support.runs import write_run

from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A squeezenet1_1 whose probabilities are far from 0 and 1, also on images unlike those that it was made for."""
    return write_run(tmp_path_factory.mktemp("run"), temperature=5.0)


@pytest.fixture(scope="session")
def published(run: Path) -> Published:
    """That run, exported; tests must not change its repository."""
    return export_model(run, run.parent / "models", "colors", ExportOptions(max_batch=16))
