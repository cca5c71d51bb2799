"""How tests are distributed over processes."""

import os

import pytest

pytestmark = pytest.mark.xdist_group("groups")


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="needs pytest -n 2")
@pytest.mark.parametrize("parameter", ["[", "@x]"])
def test_the_scheduler_knows_the_group(request: pytest.FixtureRequest, parameter: str) -> None:
    """It reads the group behind the last @ of a test's id, if no bracket follows; else it splits the group."""
    assert parameter in request.node.name
    assert request.node.nodeid.rpartition("]")[2] == "@groups"
