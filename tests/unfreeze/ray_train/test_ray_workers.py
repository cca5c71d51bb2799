"""`unfreeze tune --ray-workers`: the run that torchrun gives, and what happens when a worker fails or is stopped."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.cli import run_cli
from support.images import write_images
from support.interrupted import tune_in_processes
from support.ray_cluster import RAY_ENVIRONMENT, ray_cluster

from unfreeze.tune.options import TuneOptions

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.slow,
    # Ray Train itself sets three options of Ray Data that are deprecated.
    pytest.mark.filterwarnings(r"ignore:`use_\w+` is deprecated:DeprecationWarning"),
]

OPTIONS = ["--backbone", "squeezenet1_1", "--weights", "none", "--device", "cpu", "--batch-size", "8"]
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
def test_two_workers_train_like_two_processes_without_ray(data: Path, tmp_path: Path) -> None:
    """The same bytes as from processes in the environment of torchrun, the same files, and the first one's progress."""
    trained = {"recipe": "last-blocks", "cut": "features.10", "learning_rate": 0.001, "epochs": 2, "batch_size": 8}
    options = TuneOptions(backbone="squeezenet1_1", weights="none", device="cpu", **trained)
    tune_in_processes(data, tmp_path / "two", options, 2)
    done = run_cli(
        "tune", "images", "--out", tmp_path / "ray", *TRAINED, "--epochs", "2", "--ray-workers", "2", cwd=data.parent
    )
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "predictions.csv", "label_issues.csv", "findings.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    files = {path.name for path in (tmp_path / "two").iterdir()}
    assert {path.name for path in (tmp_path / "ray").iterdir()} == files | {"report.html"}
    assert "last-blocks from features.10 at learning rate 0.001: as requested" in done.stderr
    assert "training last-blocks from features.10" in done.stderr
    assert done.stdout.count("validation accuracy") == 1


@pytest.mark.exhaustive
@pytest.mark.usefixtures("cluster")
def test_the_error_of_a_worker_is_reported(data: Path, tmp_path: Path) -> None:
    """A mistake that only the workers can find is one line, as without Ray, and nothing is written."""
    wrong = [*OPTIONS, "--recipe", "last-blocks", "--cut", "features.99", "--learning-rate", "0.001"]
    done = run_cli("tune", data, "--out", tmp_path / "run", *wrong, "--ray-workers", "2")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "features.99" in error
    assert not (tmp_path / "run").exists()


@pytest.fixture
def ray_environment() -> Iterator[dict[str, str]]:
    """The environment of a command that starts Ray, whose files are deleted at the end; their paths must be short."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        yield os.environ | RAY_ENVIRONMENT | {"RAY_TMPDIR": folder}


def _torchrun(data: Path, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["unfreeze.tune", str(data), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def _wait_until(is_true: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not is_true():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_can_be_resumed(
    number: signal.Signals, data: Path, tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    """Ctrl-C and SIGTERM stop all processes of Ray that the command has started; --resume gives the same bytes."""
    trained, out = [*TRAINED, "--epochs", "40"], tmp_path / "ray"
    command = [sys.executable, "-m", "unfreeze.command", "tune", str(data), "--out", str(out), *trained]
    command += ["--ray-workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ray_environment) as process:
        _wait_until((out / ".unfinished" / "training.pt").exists, process)
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("RayTrainWorker" in child.name() for child in children)
        process.send_signal(number)
        assert process.stderr is not None
        shown = process.stderr.read()
        assert process.wait() == 130
    assert f"stopped; run the same command with --resume to continue in {out}" in shown
    assert "Traceback" not in shown
    assert psutil.wait_procs(children, timeout=30)[1] == []
    done = subprocess.run([*command, "--resume"], env=ray_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _torchrun(data, tmp_path / "torchrun", *trained)
    resumed, expected = (tmp_path / name / "model.safetensors" for name in ("ray", "torchrun"))
    assert resumed.read_bytes() == expected.read_bytes()


@pytest.mark.exhaustive
@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_ends_the_run_with_an_error(data: Path, tmp_path: Path) -> None:
    """The message names the worker and --resume; the other worker is stopped too."""
    killed, over = [], threading.Event()

    def kill() -> None:
        while not (over.wait(0.05) or (tmp_path / "run" / ".unfinished" / "training.pt").exists()):
            pass
        processes = psutil.Process().children(recursive=True)
        killed.extend(process for process in processes if "RayTrainWorker" in process.name())
        killed[-1].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    done = run_cli("tune", data, "--out", tmp_path / "run", *TRAINED, "--epochs", "200", "--ray-workers", "2")
    over.set()
    thread.join()
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: worker ")
    assert "--resume" in error
    assert len(killed) == 2
    assert psutil.wait_procs(killed, timeout=30)[1] == []
