"""A device's folder with one version of a small model, and images."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(folder: Path) -> Path:
    """The `model.onnx` of the model `colors`; tests must not change it."""
    return folder / "models" / "colors" / "1" / "model.onnx"


@pytest.fixture
def device(exported: Path, tmp_path: Path) -> Path:
    """A folder of the model `colors` with version 1, to be changed."""
    copied = tmp_path / "device" / "colors"
    shutil.copytree(exported.parents[1], copied, ignore=shutil.ignore_patterns(".optimized"))
    return copied


@pytest.fixture(scope="session")
def images(folder: Path) -> list[Path]:
    """Images of the classes of `colors`."""
    return sorted((folder / "images" / "val").rglob("*.jpg"))
