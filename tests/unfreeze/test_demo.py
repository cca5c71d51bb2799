"""The demonstration, small: the whole way in one command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demonstration_goes_the_whole_way(tmp_path: Path) -> None:
    """It draws, tunes, exports, serves and asks, and its figures are those of the files that it leaves."""
    command = [sys.executable, "-m", "unfreeze.command", "demo", "--out", tmp_path / "demo"]
    sizes = ["--train-per-class", "10", "--val-per-class", "4", "--epochs", "1", "--seconds", "1", "--json"]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["asked"], figures["same_labels"]) == (17 * 4, 17 * 4)
    assert figures["requests_per_second"] > 0
    assert figures["proof"]["largest_difference"] <= 1e-4
    assert figures["metrics"] == json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())
    assert figures["metrics"]["val_accuracy"] > 1 / 17
    assert (tmp_path / "demo" / "models" / "wallpaper" / "1" / "model.onnx").is_file()
