"""Several processes started by torchrun give the result of a single one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from support.images import write_images
from support.tuning import FLOAT32

from unfreeze.contract.errors import CheckpointError
from unfreeze.contract.reporting import Silent
from unfreeze.tune.device.distributed import Workers
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.pipeline.prepare import prepare_run
from unfreeze.tune.run import fine_tune


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class; an odd number of images, so that the processes have different shares."""
    return write_images(tmp_path_factory.mktemp("data") / "images", 9)


def _torchrun(data: Path, out: Path, *more: str, backbone: str = "squeezenet1_1") -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "unfreeze.tune",
    ]
    options = [
        "--backbone",
        backbone,
        "--weights",
        "none",
        "--device",
        "cpu",
        "--batch-size",
        "8",
        "--optimizer",
        "sgd",
        *more,
    ]
    return subprocess.run(
        [*command, str(data), "--out", str(out), *options], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "cut", "backbone"),
    [
        pytest.param("all", "auto", "squeezenet1_1", marks=pytest.mark.exhaustive),
        pytest.param("scratch", "auto", "squeezenet1_1", marks=pytest.mark.exhaustive),
        ("last-blocks", "features.10", "squeezenet1_1"),
        pytest.param("lora", "auto", "timm/test_vit", marks=pytest.mark.exhaustive),
        pytest.param("probe", "auto", "squeezenet1_1", marks=pytest.mark.exhaustive),
    ],
)
def test_two_processes_train_like_one(recipe: str, cut: str, backbone: str, data: Path, tmp_path: Path) -> None:
    """With gloo on the CPU: equal losses and weights within rounding, and the same files."""
    learning_rate = 1e-3
    trained = ["--recipe", recipe, "--cut", cut, "--epochs", "2", "--learning-rate", str(learning_rate)]
    done = _torchrun(data, tmp_path / "two", *trained, backbone=backbone)
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads(done.stdout.splitlines()[-1])
    options = TuneOptions(
        backbone=backbone,
        weights="none",
        device="cpu",
        batch_size=8,
        optimizer="sgd",  # its steps are as large as the gradients, where AdamW blows up the last bits of small ones
        recipe=recipe,
        cut=cut,
        epochs=2,
        learning_rate=learning_rate,
    )
    one = fine_tune(data, tmp_path / "one", options)
    assert [epoch["number"] for epoch in two["epochs"]] == [epoch["number"] for epoch in one["epochs"]]
    for own, other in zip(one["epochs"], two["epochs"], strict=True):
        assert other["loss"] == pytest.approx(own["loss"], rel=1e-2)  # bfloat16 rounds batches of other sizes otherwise
    first, second = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for key, value in first.items():
        largest = float((value - second[key]).abs().max())
        assert largest <= 1e-3 * max(1.0, float(value.abs().max())), f"{key} differs by {largest}"
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "distributed training needs explicit options: --recipe, --learning-rate, and --cut for last-blocks"),
        ({"recipe": "all"}, "distributed training needs explicit options"),
        ({"recipe": "all", "learning_rate": 1e-3, "patience": 1}, "does not support --patience and --mixup"),
        ({"recipe": "all", "learning_rate": 1e-3, "mixup": 0.2}, "does not support --patience and --mixup"),
    ],
)
def test_several_processes_require_explicit_options(
    options: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    """Without a recipe or a learning rate, or with what cannot be shared, nothing starts."""
    requested = TuneOptions(backbone="squeezenet1_1", weights="none", device="cpu", **options)
    with pytest.raises(CheckpointError, match=message):
        prepare_run(data, tmp_path / "run", requested, Silent(), FLOAT32, Workers(rank=0, count=2))
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
def test_refused_options_end_all_processes(data: Path, tmp_path: Path) -> None:
    """With torchrun too, the error lists the required options."""
    done = _torchrun(data, tmp_path / "run")
    assert done.returncode != 0
    assert "distributed training needs explicit options: --recipe, --learning-rate, and --cut" in done.stderr
