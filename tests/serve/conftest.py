"""A small published model and a server, shared by the tests of this folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.images import COLORS, draw_image, encode
from support.runs import write_run
from support.servers import RunningServer, running_server, server_in_thread, server_thread
from support.thresholds import publish_with_threshold

from unfreeze.export.run import Published, export_model
from unfreeze.serve.client.local import LocalClassifier
from unfreeze.serve.server import Server


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


@pytest.fixture(scope="session")
def careful(published: Published, images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the model `careful`, which has a confidence threshold; in its repository, `colors` has none."""
    repository = tmp_path_factory.mktemp("careful") / "models"
    shutil.copytree(published.path.parents[2], repository)
    return publish_with_threshold(published.path, repository, "careful", images)


@pytest.fixture(scope="session")
def careful_server(careful: Path) -> Iterator[Server]:
    """A server of `careful` and `colors` in this process, over gRPC and HTTP."""
    with server_in_thread(careful.parents[2], http=0) as server:
        yield server


@pytest.fixture(scope="session")
def unsure(careful: Path, images: list[bytes]) -> list[bool]:
    """Of which images `careful` is unsure in-process: some, and not all."""
    with LocalClassifier(careful) as local:
        marks = [local.is_unsure(predictions) for predictions in local.predict(images)]
    assert len(set(marks)) == 2
    return marks


@pytest.fixture(scope="session")
def probabilities(careful: Path, images: list[bytes]) -> np.ndarray:
    """What `careful` answers in-process."""
    with LocalClassifier(careful) as local:
        return local.probabilities(images)
