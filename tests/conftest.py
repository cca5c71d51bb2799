"""Skips tests marked `gpu` on machines without one, lets Ctrl-C reach child processes, and hides the user's cache."""

import os
import signal
import tempfile
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Handle SIGINT, which background jobs ignore and the processes that tests start inherit; hide the user's cache."""
    folder = tempfile.TemporaryDirectory(prefix="unfreeze-cache-")
    config.add_cleanup(folder.cleanup)
    os.environ["UNFREEZE_CACHE_DIR"] = folder.name
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty cache folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("UNFREEZE_CACHE_DIR", str(folder))
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu`, with the reason, if no NVIDIA GPU is found."""
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    from unfreeze.contract.errors import ProofError
    from unfreeze.export.engine import local_compute_capability

    try:
        local_compute_capability()
    except ProofError:
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU with its driver; nvidia-smi finds none"))
