"""Runs and models in MLflow (a real server with SQLite), Weights & Biases (offline) and TensorBoard."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from support.cli import run_cli
from support.images import write_images
from support.servers import server_thread

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.images.preprocess import prepare
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.serve.client.blocking import Client
from unfreeze.track.tracker import check_trackers

needs_mlflow = pytest.mark.skipif(
    find_spec("mlflow") is None, reason="needs unfreeze[mlflow]; make test-all installs it"
)
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="needs unfreeze[wandb]; make test-all installs it")
TUNE = ("--weights", "builtin", "--image-size", "64", "--store-gb", "0", "--cut", "features.12", "--epochs", "2")
RATE = ("--learning-rate", "0.0005")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three colors."""
    folder = tmp_path_factory.mktemp("tracked") / "data"
    write_images(folder / "train", 8)
    write_images(folder / "val", 3, first_seed=50)
    return folder


@contextmanager
def _mlflow_server(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    with subprocess.Popen([*command, *stores], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    assert time.monotonic() < until
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@needs_mlflow
@pytest.mark.exhaustive
def test_a_model_registered_in_mlflow_gives_the_served_answers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters, metrics by epoch and the report are in the run; the model is registered with its signature."""
    with _mlflow_server(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "colors")
        done = run_cli("tune", data, "--out", tmp_path / "run", *TUNE, *RATE, "--track", "mlflow")
        assert f"logged: MLflow run {_known(tmp_path, 'mlflow')['run_id']} at {uri}" in done.stdout
        words = (
            "export",
            tmp_path / "run",
            "--repository",
            tmp_path / "models",
            "--name",
            "colors",
            "--track",
            "mlflow",
        )
        assert "logged: MLflow model colors, version 1" in run_cli(*words).stdout
        import mlflow

        mlflow.set_tracking_uri(uri)
        client, metrics = mlflow.MlflowClient(), json.loads((tmp_path / "run" / "metrics.json").read_text())
        logged = client.get_run(_known(tmp_path, "mlflow")["run_id"])
        assert logged.data.params["cut"] == "features.12"
        assert logged.data.params["epochs"] == "2"
        assert logged.data.metrics["val_accuracy"] == pytest.approx(metrics["val_accuracy"])
        losses = client.get_metric_history(logged.info.run_id, "loss")
        assert [one.value for one in losses] == pytest.approx([epoch["loss"] for epoch in metrics["epochs"]])
        assert [one.step for one in losses] == [1, 2]
        names = {one.path for one in client.list_artifacts(logged.info.run_id)}
        assert {"report.html", "metrics.json", "predictions.csv", "published"} <= names
        loaded = mlflow.onnx.load_model("models:/colors/1")
        described = mlflow.models.get_model_info("models:/colors/1")
        assert described.signature.inputs.input_names() == ["pixels"]
        images = [path.read_bytes() for path in sorted((data / "val").rglob("*.jpg"))]
        published = tmp_path / "models" / "colors" / "1" / "model.onnx"
        manifest = read_manifest(published.read_bytes())
        import onnxruntime

        session = onnxruntime.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])
        pixels = np.stack([prepare(image, manifest.preprocess) for image in images])
        assert described.signature.outputs.input_names() == [output.name for output in session.get_outputs()]
        (found,) = session.run(["probabilities"], {"pixels": pixels})
    with server_thread(tmp_path / "models") as target, Client(target) as served:
        for row, labels in zip(found, served.predict(images), strict=True):
            assert [row[one.index] for one in labels] == pytest.approx([one.score for one in labels], abs=1e-6)


@needs_mlflow
@pytest.mark.exhaustive
def test_an_unreachable_server_loses_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is complete; the message says how to log it again."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    words = ("tune", data, "--out", tmp_path / "run", *TUNE, *RATE, "--track", "mlflow")
    done = run_cli(*words)
    assert done.returncode != 0
    assert "is complete, but mlflow did not accept it" in done.stderr
    assert (tmp_path / "run" / "run.json").is_file()
    assert "validation accuracy" in done.stdout


@needs_wandb
@pytest.mark.exhaustive
def test_runs_and_models_are_logged_to_wandb_offline(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a folder that `wandb sync` sends later."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    done = run_cli("tune", data, "--out", tmp_path / "run", *TUNE, *RATE, "--track", "wandb")
    assert f"logged: W&B run {_known(tmp_path, 'wandb')['id']}, offline" in done.stdout
    words = ("export", tmp_path / "run", "--repository", tmp_path / "models", "--name", "colors", "--track", "wandb")
    assert "logged: W&B run" in run_cli(*words).stdout
    written = b"".join(path.read_bytes() for path in (tmp_path / "wandb").rglob("*.wandb"))
    for text in (b"val_accuracy", b"features.12", b"report.html", b"model.onnx"):
        assert text in written


def test_tensorboard_has_parameters_and_results(data: Path, tmp_path: Path) -> None:
    """In the run's own folder, beside the losses."""
    done = run_cli("tune", data, "--out", tmp_path / "run", *TUNE, *RATE, "--track", "tensorboard")
    assert f"logged: TensorBoard: tensorboard --logdir {tmp_path / 'run' / 'tensorboard'}" in done.stdout
    written = b"".join(path.read_bytes() for path in (tmp_path / "run" / "tensorboard").rglob("events*"))
    for text in (b"result/val_accuracy", b"features.12", b"loss"):
        assert text in written


def test_missing_packages_are_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to install them."""
    monkeypatch.setattr("unfreeze.track.tracker.find_spec", lambda _: None)
    with pytest.raises(OptionsError, match=r"--track wandb needs wandb: pip install 'unfreeze\[wandb\]'"):
        check_trackers(("wandb",))


def _known(folder: Path, tracker: str) -> dict[str, str]:
    known: dict[str, str] = json.loads((folder / "run" / "tracking.json").read_text())[tracker]
    return known
