"""What needs a GPU is skipped where there is none."""

import pytest

from unfreeze.contract.errors import ProofError
from unfreeze.export.engine import this_target


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that carry the marker `gpu`, saying what they need."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    try:
        if on_gpu:
            this_target()
    except ProofError:
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU with its driver; nvidia-smi finds none"))
