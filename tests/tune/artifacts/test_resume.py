"""Runs that are interrupted and resumed, by real processes and real signals."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.images import write_images
from support.interrupted import Moment, start_command, stop_fork_server, tune_in_process

from unfreeze.contract.errors import CheckpointError
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

pytestmark = pytest.mark.xdist_group("resume")

OPTIONS = TuneOptions(
    backbone="mobilenet_v3_small",
    weights="builtin",
    image_size=64,
    device="cpu",
    cut="features.11",
    learning_rate=5e-4,
    epochs=4,
    views=2,
    batch_size=8,
)
# In the order in which a run comes to them: it is killed at each one, and resumed up to the next.
MOMENTS = (
    Moment(progress="inspecting the images", step=3),
    Moment(writing="request.json", step=1),
    Moment(progress="running the backbone", step=5),
    Moment(writing="choice.pt", step=1),
    Moment(progress="training", step=0),  # after the choice
    Moment(writing="training.pt", step=1),  # during the first save
    Moment(progress="training", step=1),  # after epoch 1
    Moment(writing="training.pt", step=2),  # during a later save
    Moment(progress="evaluating", step=0),  # after the last epoch
    Moment(writing="model.safetensors", step=1),
    Moment(writing="run.json", step=1),
)


def _arguments(data: Path, out: Path, *more: str) -> list[str]:
    names = ("backbone", "weights", "image_size", "device", "cut", "learning_rate", "epochs", "views", "batch_size")
    given = [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(OPTIONS, name)))]
    return ["tune", str(data), "--out", str(out), *given, *more]


def _wait_for_epochs(out: Path, count: int, process: BaseProcess) -> None:
    lines = out / "epochs.jsonl"
    while process.is_alive() and not (lines.is_file() and len(lines.read_text().splitlines()) >= count):
        time.sleep(0.005)


def _can_resume(out: Path) -> bool:
    return (out / ".unfinished" / "request.json").exists()


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """The server that the processes are forked from is stopped in the end."""
    yield
    stop_fork_server()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class of small images."""
    return write_images(tmp_path_factory.mktemp("data") / "images", 10)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not interrupted."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert tune_in_process(data, out, OPTIONS) == 0
    return out


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its second epoch."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    assert tune_in_process(data, out, OPTIONS, Moment(progress="training", step=2)) == -signal.SIGKILL
    assert (out / ".unfinished" / "training.pt").exists()
    return out


def _same_weights(one: Path, other: Path) -> bool:
    first, second = (safetensors.torch.load_file(run / "model.safetensors") for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_that_is_killed_in_every_state_ends_in_the_same_weights(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Killed by SIGKILL in eleven states and resumed each time, a run ends bit for bit like an uninterrupted one."""
    out = tmp_path / "run"
    for moment in MOMENTS:
        code = tune_in_process(data, out, OPTIONS, moment, resume=_can_resume(out))
        assert code == -signal.SIGKILL, moment
        assert not (out / "run.json").exists(), moment
    assert tune_in_process(data, out, OPTIONS, resume=True) == 0
    assert _same_weights(uninterrupted, out)
    assert not (out / ".unfinished").exists()
    epochs = [json.loads(line)["number"] for line in (out / "epochs.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_a_run_that_can_be_resumed(
    number: signal.Signals, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM end with a hint at --resume, which continues after the completed epochs; nothing is a run."""
    out, stderr = tmp_path / "run", tmp_path / "stderr"
    process = start_command(*_arguments(data, out), stderr=stderr)
    _wait_for_epochs(out, 2, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 130
    assert "run the same command with --resume to continue" in stderr.read_text()
    assert "Traceback" not in stderr.read_text()
    assert {path.name for path in out.iterdir()} == {".unfinished", "findings.json", "epochs.jsonl", "tensorboard"}
    resumed = start_command(*_arguments(data, out, "--resume"), stderr=stderr)
    resumed.join()
    assert resumed.exitcode == 0, stderr.read_text()
    assert "resuming after epoch" in stderr.read_text()
    assert _same_weights(uninterrupted, out)


def test_rejects_resuming_with_other_options(data: Path, stopped: Path) -> None:
    """Options that differ are named with both values; those that do not change the weights may differ."""
    changed = replace(OPTIONS, weight_decay=0.1, mixup=0.2, cache_gb=1.0)
    with pytest.raises(CheckpointError, match=r"--mixup was 0.0, is 0.2; --weight-decay was 0.02, is 0.1. Resume with"):
        fine_tune(data, stopped, changed, resume=True)


def test_rejects_resuming_with_other_data(stopped: Path, data: Path, tmp_path: Path) -> None:
    """If an image was changed, its split and class are named."""
    shutil.copytree(data, tmp_path / "data")
    files = sorted((tmp_path / "data" / "red").iterdir())
    files[0].write_bytes(files[1].read_bytes())
    with pytest.raises(CheckpointError, match=r"(train|val) red was \d+ images, [0-9a-f]{16}, is \d+ images"):
        fine_tune(tmp_path / "data", stopped, OPTIONS, resume=True)


def test_an_unfinished_run_is_only_resumed_or_replaced_on_request(data: Path, stopped: Path, tmp_path: Path) -> None:
    """A run needs --resume or --overwrite, not both, and --resume needs an unfinished run."""
    with pytest.raises(CheckpointError, match="unfinished run; continue it with --resume, or start over with --overwr"):
        fine_tune(data, stopped, OPTIONS)
    with pytest.raises(CheckpointError, match="--overwrite starts over and --resume continues; give only one of them"):
        fine_tune(data, stopped, OPTIONS, resume=True, overwrite=True)
    with pytest.raises(CheckpointError, match="contains no unfinished run to --resume"):
        fine_tune(data, tmp_path / "none", OPTIONS, resume=True)


def test_rejects_a_damaged_state(data: Path, stopped: Path, tmp_path: Path) -> None:
    """A state that cannot be read is named; --overwrite starts over."""
    shutil.copytree(stopped, tmp_path / "run")
    state = tmp_path / "run" / ".unfinished" / "training.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"training.pt is damaged(?s:.*)start over with --overwrite"):
        fine_tune(data, tmp_path / "run", OPTIONS, resume=True)
    fine_tune(data, tmp_path / "run", replace(OPTIONS, recipe="probe", cut="auto"), overwrite=True)
    assert (tmp_path / "run" / "run.json").exists()


def test_a_full_disk_leaves_the_previous_state_intact(
    data: Path, uninterrupted: Path, stopped: Path, tmp_path: Path
) -> None:
    """If no file can grow, the run ends with an error that says what to do, and can be resumed later."""
    out, stderr = tmp_path / "run", tmp_path / "stderr"
    shutil.copytree(stopped, out)
    before = (out / ".unfinished" / "training.pt").read_bytes()
    full = start_command(*_arguments(data, out, "--resume"), stderr=stderr, file_limit_bytes=100_000)
    full.join()
    assert full.exitcode == 1
    assert "the state of the run cannot be written to" in stderr.read_text()
    assert "free some disk space, then continue with --resume" in stderr.read_text()
    assert (out / ".unfinished" / "training.pt").read_bytes() == before
    assert not list((out / ".unfinished").glob("*.new"))
    assert tune_in_process(data, out, OPTIONS, resume=True) == 0
    assert _same_weights(uninterrupted, out)
