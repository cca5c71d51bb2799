"""Repositories of tiny versions."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.canaries import Kind, publish_shades

from unfreeze.serve.models import served_traffic
from unfreeze.serve.traffic import shadow


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Path]:
    """Publishes versions of the kinds that are given."""

    def publish(*kinds: Kind) -> Path:
        return publish_shades(tmp_path / "models", kinds)

    return publish


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rules be looked at 20 times a second, and shadows not care for other programs on this machine."""
    monkeypatch.setattr(shadow, "_PAUSE", 0.0)
    monkeypatch.setattr(served_traffic, "_RULES_S", 0.05)
