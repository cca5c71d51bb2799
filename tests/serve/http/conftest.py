"""A server with HTTP, shared by the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import server_in_thread

from unfreeze.serve.server import Server


@pytest.fixture(scope="session")
def http(repository: Path) -> Iterator[Server]:
    """A server in this process, for tests that only send requests."""
    with server_in_thread(repository, http=0) as server:
        yield server
