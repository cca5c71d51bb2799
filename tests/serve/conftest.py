"""A small published model and a server of it, shared by the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pictures import COLOURS, draw_picture, encode
from support.runs import write_run
from support.servers import RunningServer, running_server

from export.run import Published, export


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A squeezenet1_1 with random weights on 32 x 32 pictures of three classes."""
    folder = tmp_path_factory.mktemp("served")
    return export(write_run(folder), folder / "models", "colours")


@pytest.fixture(scope="session")
def repository(published: Published) -> Path:
    """The repository that holds it."""
    return published.path.parents[2]


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[RunningServer]:
    """A server of it, in a process of its own."""
    with running_server(repository) as running:
        yield running


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Twelve encoded pictures, of several formats."""
    kinds = ("JPEG", "PNG", "WEBP", "BMP")
    return [
        encode(draw_picture(colour, seed), kinds[seed % len(kinds)])
        for seed, colour in enumerate(list(COLOURS.values()) * 4)
    ]
