"""Skips tests marked `gpu` on machines without one, keeps groups of tests in one process, and hides the user's cache.

It also lets Ctrl-C reach child processes.
"""

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here, and tell the scheduler which tests share a process."""
    _skip_gpu_tests(items)
    if getattr(config.option, "loadgroup", False):
        _name_groups(items)


def _name_groups(items: list[pytest.Item]) -> None:
    """Append `@GROUP` to the ids of tests marked `xdist_group`.

    pytest-xdist 3.8 means to do so itself, but pytest 9.2 ignores how: every process then gets tests of every group,
    and makes all their shared fixtures anew.
    """
    for item in items:
        group = item.get_closest_marker("xdist_group")
        if group and not item.nodeid.endswith(f"@{group.args[0]}"):
            item._id = type(item.id).parse(f"{item.nodeid}@{group.args[0]}")


def _skip_gpu_tests(items: list[pytest.Item]) -> None:
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
