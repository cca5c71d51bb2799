"""All steps on real photographs with real pretrained weights: tune, export, serve, predict."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.servers import RunningServer, running_server

from unfreeze.serve.client.blocking import Client
from unfreeze.serve.client.local import LocalClassifier
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.evaluation.evaluate import evaluate

SHARED = Path(__file__).parents[2] / ".." / "shared"
DATA = SHARED / "data" / "hymenoptera"
WEIGHTS = SHARED / "models" / "squeezenet1_0-imagenet.pth"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("photographs"),
    pytest.mark.skipif(
        not (DATA.is_dir() and WEIGHTS.is_file()),
        reason="needs ../shared/data/hymenoptera (ants and bees, the set of PyTorch's transfer-learning tutorial) and "
        "../shared/models/squeezenet1_0-imagenet.pth (torchvision's weights)",
    ),
]


def _unfreeze(*arguments: object) -> dict:
    command = [sys.executable, "-m", "unfreeze.command", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a model repository, made by the command line."""
    out = tmp_path_factory.mktemp("insects")
    _unfreeze("tune", DATA, "--backbone", "squeezenet1_0", "--weights", WEIGHTS, "--out", out / "run")
    _unfreeze("export", out / "run", "--repository", out / "models", "--name", "insects")
    return out


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    """A server of the repository."""
    with running_server(folder / "models") as running:
        yield running


@pytest.fixture(scope="module")
def val(folder: Path) -> tuple[list[Path], np.ndarray]:
    """The 153 validation images, and the probabilities of torch's own evaluation."""
    network, facts = load_run(folder / "run")
    evaluation = evaluate(network, facts.images(), facts.preprocess, torch.device("cpu"))
    return [image.path for image in evaluation.images], evaluation.probabilities(facts.temperature)


def test_tuning_reaches_the_accuracy_of_the_tutorial(folder: Path) -> None:
    """At least 143 of the 153 validation images are classified correctly."""
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["val_accuracy"] >= 0.93
    assert metrics["images"]["val"] == 153
    assert metrics["labels"] == ["ants", "bees"]


def _agrees(found: list, expected: np.ndarray) -> None:
    for predictions, row in zip(found, expected, strict=True):
        assert predictions[0].index == row.argmax()
        for one in predictions:
            assert abs(one.score - row[one.index]) <= 1e-4


def test_server_answers_like_torch(server: RunningServer, val: tuple[list[Path], np.ndarray]) -> None:
    """All 153 files over gRPC: the same top-1 label, no probability differs by more than 1e-4."""
    files, expected = val
    assert len(files) == 153
    with Client(server.target) as client:
        _agrees(client.predict(files, model="insects", top_k=2), expected)


def test_in_process_prediction_answers_like_torch(folder: Path, val: tuple[list[Path], np.ndarray]) -> None:
    """All 153 files in-process, from the model file alone."""
    files, expected = val
    with LocalClassifier(folder / "models" / "insects" / "1" / "model.onnx") as local:
        _agrees(local.predict(files, top_k=2), expected)


def test_tritonclient_gets_torchs_probabilities(server: RunningServer, val: tuple[list[Path], np.ndarray]) -> None:
    """NVIDIA's client, in its own process, sends photographs and gets torch's probabilities."""
    files, expected = val
    script = Path(__file__).parents[1] / "serve" / "protocol" / "triton_session.py"
    done = subprocess.run(
        [sys.executable, script, server.target, "insects", *files[:60]], capture_output=True, text=True, check=True
    )
    found = np.array(json.loads(done.stdout)["encoded 1"])
    np.testing.assert_allclose(found, expected[:60], atol=1e-4)
    np.testing.assert_array_equal(found.argmax(1), expected[:60].argmax(1))


def test_predict_agrees_by_server_and_by_file(
    folder: Path, server: RunningServer, val: tuple[list[Path], np.ndarray]
) -> None:
    """`unfreeze predict --json` prints the same labels by server and by file."""
    files, expected = val
    model = folder / "models" / "insects" / "1" / "model.onnx"
    served = _unfreeze("predict", *files[:5], "--server", server.target, "--model", "insects", "--top-k", 1)
    inside = _unfreeze("predict", *files[:5], "--file", model, "--top-k", 1)
    for one, other, file, row in zip(served, inside, files, expected, strict=False):
        assert one["image"] == other["image"] == str(file)
        assert one["predictions"][0]["label"] == other["predictions"][0]["label"] == ("ants", "bees")[row.argmax()]
