"""`unfreeze tune --ray-workers`: the run that torchrun gives, and what happens when a worker fails or is stopped."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import run_cli
from support.images import write_images
from support.ray_cluster import ray_cluster

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]

OPTIONS = ["--backbone", "squeezenet1_1", "--weights", "none", "--device", "cpu", "--batch-size", "8", "--epochs", "2"]
TRAINED = [*OPTIONS, "--recipe", "last-blocks", "--cut", "features.10", "--learning-rate", "0.001"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class; an odd number of images, so that the workers have different shares."""
    return write_images(tmp_path_factory.mktemp("data") / "images", 9)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster with two cores, which this process is connected to."""
    with ray_cluster(2) as address:
        yield address


@pytest.mark.usefixtures("cluster")
def test_two_workers_train_like_torchrun(data: Path, tmp_path: Path) -> None:
    """The same bytes as from torchrun with two processes, the same files, and the first worker's progress."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "unfreeze.tune", str(data), "--out", str(tmp_path / "torchrun"), *TRAINED]
    expected = subprocess.run(command, capture_output=True, text=True, check=False)
    assert expected.returncode == 0, expected.stderr[-3000:]
    done = run_cli("tune", "images", "--out", tmp_path / "ray", *TRAINED, "--ray-workers", "2", cwd=data.parent)
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "predictions.csv", "label_issues.csv", "findings.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "torchrun" / name).read_bytes(), name
    files = {path.name for path in (tmp_path / "torchrun").iterdir()}
    assert {path.name for path in (tmp_path / "ray").iterdir()} == files | {"report.html"}
    assert "last-blocks from features.10 at learning rate 0.001: as requested" in done.stderr
    assert "training last-blocks from features.10" in done.stderr
    assert done.stdout.count("validation accuracy") == 1


@pytest.mark.usefixtures("cluster")
def test_the_error_of_a_worker_is_reported(data: Path, tmp_path: Path) -> None:
    """A mistake that only the workers can find is one line, as without Ray, and nothing is written."""
    wrong = [*OPTIONS, "--recipe", "last-blocks", "--cut", "features.99", "--learning-rate", "0.001"]
    done = run_cli("tune", data, "--out", tmp_path / "run", *wrong, "--ray-workers", "2")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "features.99" in error
    assert not (tmp_path / "run").exists()
