"""Runs that are stopped and gone on with, by real processes and real signals."""

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.images import write_images

from unfreeze.contract.errors import CheckpointError
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

OPTIONS = {
    "backbone": "mobilenet_v3_small",
    "weights": "builtin",
    "device": "cpu",
    "cut": "features.11",
    "learning-rate": "0.0005",
    "epochs": "6",
    "views": "2",
    "batch-size": "8",
}


def _command(data: Path, out: Path, *more: str) -> list[str]:
    told = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "unfreeze.command", "tune", str(data), "--out", str(out), *told, *more]


def _options(**changes: object) -> TuneOptions:
    return TuneOptions(
        backbone="mobilenet_v3_small",
        weights="builtin",
        device="cpu",
        cut="features.11",
        learning_rate=5e-4,
        epochs=6,
        views=2,
        batch_size=8,
        **changes,
    )


def _start(command: list[str]) -> "subprocess.Popen[str]":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for_epochs(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    lines = out / "epochs.jsonl"
    while process.poll() is None and not (lines.is_file() and len(lines.read_text().splitlines()) >= count):
        time.sleep(0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class of small images."""
    return write_images(tmp_path_factory.mktemp("data") / "images", 12)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has stopped, and how long it took from its first sign to its end."""
    out = tmp_path_factory.mktemp("whole") / "run"
    started = time.monotonic()
    subprocess.run(_command(data, out), check=True, capture_output=True)
    (out / "took").write_text(str(time.monotonic() - started))
    return out


def _same_weights(one: Path, other: Path) -> bool:
    first, second = (safetensors.torch.load_file(run / "model.safetensors") for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments_a_run_ends_in_the_same_weights(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Ten times killed by SIGKILL, wherever it was, and gone on with, the run ends bit for bit as one left alone."""
    out, rng = tmp_path / "run", random.Random(0)  # noqa: S311 - no secret
    took = float((uninterrupted / "took").read_text())
    for _ in range(10):
        with _start(_command(data, out, *_resume(out))) as process:
            time.sleep(rng.uniform(0.3, 1.0) * took)
            process.kill()
        if (out / "run.json").exists():
            shutil.rmtree(out)  # it was done before the signal came: begin again
    done = subprocess.run(_command(data, out, *_resume(out)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert _same_weights(uninterrupted, out)
    assert not (out / ".unfinished").exists()
    epochs = [json.loads(line)["number"] for line in (out / "epochs.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4, 5, 6]


def _resume(out: Path) -> list[str]:
    return ["--resume"] if (out / ".unfinished" / "request.json").exists() else []


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_a_run_to_go_on_with(
    signal_number: signal.Signals, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM end with how to go on, and going on takes up behind the epochs that were done."""
    out = tmp_path / "run"
    with _start(_command(data, out)) as process:
        _wait_for_epochs(out, 2, process)
        process.send_signal(signal_number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command with --resume goes on" in said
    assert "Traceback" not in said
    done = subprocess.run(_command(data, out, "--resume"), capture_output=True, text=True, check=True)
    assert "going on behind epoch" in done.stderr
    assert _same_weights(uninterrupted, out)


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its second epoch."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with _start(_command(data, out)) as process:
        _wait_for_epochs(out, 2, process)
        process.kill()
    assert (out / ".unfinished" / "training.pt").exists()
    return out


def test_going_on_with_other_options_is_refused(data: Path, stopped: Path) -> None:
    """Each option that differs is named with both values; what changes no weight may differ."""
    with pytest.raises(CheckpointError, match=r"--mixup was 0.0, is 0.2; --weight-decay was 0.02, is 0.1. Res"):
        fine_tune(data, stopped, _options(weight_decay=0.1, mixup=0.2, cache_gb=1.0), resume=True)


def test_going_on_with_other_data_is_refused(data: Path, stopped: Path, tmp_path: Path) -> None:
    """An image more, or one that was changed, is named by its class."""
    shutil.copytree(data, tmp_path / "data")
    files = sorted((tmp_path / "data" / "red").iterdir())
    files[0].write_bytes(files[1].read_bytes())
    with pytest.raises(CheckpointError, match=r"(train|val) red was \d+ images, [0-9a-f]{16}, is \d+ images"):
        fine_tune(tmp_path / "data", stopped, _options(), resume=True)


def test_an_unfinished_run_is_neither_lost_nor_gone_on_with_unasked(data: Path, stopped: Path, tmp_path: Path) -> None:
    """Without --resume or --overwrite the run is refused; both together are, too; and so is nothing to go on with."""
    with pytest.raises(CheckpointError, match="holds an unfinished run: go on with it by --resume, or begin anew by"):
        fine_tune(data, stopped, _options())
    with pytest.raises(CheckpointError, match="say one of them"):
        fine_tune(data, stopped, _options(), resume=True, overwrite=True)
    with pytest.raises(CheckpointError, match="holds no unfinished run to --resume"):
        fine_tune(data, tmp_path / "none", _options(), resume=True)


def test_a_damaged_state_is_refused(data: Path, stopped: Path, tmp_path: Path) -> None:
    """A state that cannot be read is named, and beginning anew works."""
    shutil.copytree(stopped, tmp_path / "run")
    state = tmp_path / "run" / ".unfinished" / "training.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"training.pt is damaged(?s:.*)begin anew with --overwrite"):
        fine_tune(data, tmp_path / "run", _options(), resume=True)
    fine_tune(data, tmp_path / "run", _options(), overwrite=True)


def test_a_full_disk_leaves_the_last_state_intact(
    data: Path, uninterrupted: Path, stopped: Path, tmp_path: Path
) -> None:
    """Where no file may grow any more, the run says so, keeps what it had, and later ends in the same weights."""
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    kept = (out / ".unfinished" / "training.pt").read_bytes()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = _command(data, out, "--resume")
    full = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert full.returncode == 1
    assert "the run's state cannot be written to" in full.stderr
    assert "go on with --resume" in full.stderr
    assert (out / ".unfinished" / "training.pt").read_bytes() == kept
    assert not list((out / ".unfinished").glob("*.new"))
    subprocess.run(command, check=True, capture_output=True)
    assert _same_weights(uninterrupted, out)
