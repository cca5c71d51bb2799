"""The demo's server process: it ends with the block that uses it, and a failed start is an error."""

from pathlib import Path

import grpc
import pytest

from unfreeze.contract.errors import ServingError
from unfreeze.demo.serving import requests_per_second, serving

pytestmark = pytest.mark.xdist_group("commands")


def test_server_ends_when_the_block_is_interrupted(folder: Path) -> None:
    """It answers inside the block, and its port is closed after Ctrl-C."""
    image = next((folder / "images" / "val" / "red").iterdir()).read_bytes()
    with pytest.raises(KeyboardInterrupt), serving(folder / "models") as target:  # noqa: PT012 - what is interrupted
        assert requests_per_second(target, "colors", [image], 0.2) > 0
        raise KeyboardInterrupt
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(timeout=0.5)


def test_server_that_does_not_start_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The server's own message is on standard error."""
    with pytest.raises(ServingError, match="the server did not start"), serving(tmp_path / "nowhere"):
        raise AssertionError
    assert "nowhere" in capfd.readouterr().err
