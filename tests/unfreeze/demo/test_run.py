"""`unfreeze demo`, with few images: all steps in one command."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from support.cli import run_cli
from support.manifests import MANIFEST

from unfreeze.commands.demo import _next_commands, _table
from unfreeze.demo.run import DemoResult
from unfreeze.export.run import Published

SMALL = ("--epochs", "1", "--seconds", "0.3", "--json")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "sizes", "classes"),
    [
        ("digits", ["--train-per-class", "12", "--val-per-class", "4"], 10),
        pytest.param(
            "wallpaper", ["--train-per-class", "10", "--val-per-class", "2"], 17, marks=pytest.mark.exhaustive
        ),
    ],
)
def test_demo_runs_all_steps(dataset: str, sizes: list[str], classes: int, tmp_path: Path) -> None:
    """It writes images, tunes, exports, serves and compares; its results are those of the files that it leaves."""
    done = run_cli("demo", dataset, *sizes, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result, out = json.loads(done.stdout), tmp_path / "demo" / dataset
    assert result["dataset"] == dataset
    assert result["compared"] == result["same_labels"] == classes * int(sizes[-1])
    assert result["largest_score_difference"] < 1e-4
    assert result["requests_per_second"] > 0
    assert result["proof"]["largest_difference"] <= 1e-4
    assert result["metrics"] == json.loads((out / "run" / "metrics.json").read_text())
    assert result["metrics"]["val_accuracy"] > 1 / classes
    assert (out / "models" / dataset / "1" / "model.onnx").is_file()


def test_unknown_data_set_is_wrong_usage(tmp_path: Path) -> None:
    """The message lists the data sets."""
    done = run_cli("demo", "flowers", cwd=tmp_path)
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("digits", "wallpaper"))
    assert list(tmp_path.iterdir()) == []


def test_table_and_next_commands_name_the_results(tmp_path: Path) -> None:
    """The table shows each measurement, and the next commands name files that exist."""
    (tmp_path / "images" / "val" / "7").mkdir(parents=True)
    (tmp_path / "images" / "val" / "7" / "0012.png").touch()
    model = tmp_path / "models" / "digits" / "1" / "model.onnx"
    result = DemoResult(
        dataset="digits",
        metrics={
            "images": {"train": 1433, "val": 364},
            "labels": list("0123456789"),
            "recipe": "last-blocks",
            "cut": "features.9",
            "trained_parameters": 742258,
            "val_accuracy": 0.984,
        },
        published=Published(path=model, name="digits", version=1, bytes=3_900_000, manifest=MANIFEST, candidates=()),
        compared=364,
        same_labels=363,
        largest_score_difference=2e-7,
        requests_per_second=273.4,
        seconds=61.2,
    )
    output = io.StringIO()
    Console(file=output, width=120).print(_table(result))
    text = output.getvalue()
    for shown in ("1,433 training, 364 validation", "0.984 (chance 0.100)", "3.9 MB", "363 of 364", "2.0e-07", "61 s"):
        assert shown in text
    commands = _next_commands(result, tmp_path)
    assert f"unfreeze predict {tmp_path / 'images' / 'val' / '7' / '0012.png'} --file {model}" in commands
    assert f"unfreeze serve --repository {tmp_path / 'models'}" in commands
