"""Skips tests marked `gpu` on machines without one, and makes Ctrl-C work in child processes."""

import signal

import pytest


def pytest_configure() -> None:
    """Handle SIGINT: in background jobs it is ignored, and the processes that tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
