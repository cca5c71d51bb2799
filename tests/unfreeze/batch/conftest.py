"""Sources without waiting."""

import pytest

from unfreeze.batch import storage


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once after errors that may pass."""
    monkeypatch.setattr(storage, "_FIRST_WAIT_S", 0.01)
