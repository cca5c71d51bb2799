"""A small published model and a server, shared by the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.images import COLORS, draw_image, encode
from support.runs import write_run
from support.servers import RunningServer, running_server, server_thread

from unfreeze.export.run import Published, export_model


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A squeezenet1_1 with random weights for 32 x 32 images and three classes."""
    folder = tmp_path_factory.mktemp("served")
    return export_model(write_run(folder), folder / "models", "colors")


@pytest.fixture(scope="session")
def repository(published: Published) -> Path:
    """The repository of the model."""
    return published.path.parents[2]


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[RunningServer]:
    """A server of the repository, in a process of its own."""
    with running_server(repository) as running:
        yield running


@pytest.fixture(scope="session")
def target(repository: Path) -> Iterator[str]:
    """The address of a server in this process, for tests that only send requests."""
    with server_thread(repository) as address:
        yield address


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """Twelve encoded images in four formats."""
    kinds = ("JPEG", "PNG", "WEBP", "BMP")
    return [
        encode(draw_image(color, seed), kinds[seed % len(kinds)])
        for seed, color in enumerate(list(COLORS.values()) * 4)
    ]
