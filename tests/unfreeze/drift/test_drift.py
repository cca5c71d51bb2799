"""`unfreeze drift` compares images with those that a model was validated on."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support.cli import run_cli
from support.runs import write_run

from unfreeze.contract.drift.reference import LABEL, SIZE, reference_of
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import UNSEALED
from unfreeze.export.graph import with_manifest
from unfreeze.export.run import export_model

IMAGES = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was validated, as its manifest says, on 200 images of 64 x 64 pixels and medium brightness."""
    folder = tmp_path_factory.mktemp("model")
    published = export_model(write_run(folder), folder / "models", "colors")
    rng = np.random.default_rng(0)
    values = {"brightness": rng.uniform(90, 160, 200), "contrast": rng.uniform(0, 60, 200), SIZE: np.full(200, 64.0)}
    drift = reference_of({LABEL: rng.integers(0, 3, 200).astype(np.float64), **values}, 3)
    manifest = dataclasses.replace(published.manifest, drift=drift, sha256=UNSEALED)
    repository = ModelRepository(folder / "changed")
    version = repository.publish("colors", with_manifest(onnx.load(published.path), manifest), manifest)
    return repository.path("colors", version)


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of dark images of the same size, and a file that is none."""
    folder = tmp_path_factory.mktemp("dark")
    rng = np.random.default_rng(1)
    for number in range(IMAGES):
        Image.fromarray(rng.integers(0, 60, (64, 64, 3), np.uint8)).save(folder / f"{number:02}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_what_differs_is_named(model: Path, dark: Path) -> None:
    """Brightness differs and size does not; the file that cannot be decoded is listed, and the others count."""
    done = run_cli("drift", model, dark, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    alarms = {one["name"]: one["alarm"] for one in found["drift"]}
    assert (found["images"], found["validation_images"], found["alarm"]) == (IMAGES, 200, True)
    assert (alarms["brightness"], alarms["size"]) == (True, False)
    assert len(found["skipped"]) == 1
    assert "broken.png" in found["skipped"][0]
    confidences = [one["confidence"] for one in found["farthest"]]
    assert len(confidences) == 24
    assert confidences == sorted(confidences)


def test_the_table_says_the_same(model: Path, dark: Path) -> None:
    """With a sentence for people."""
    done = run_cli("drift", model, dark)
    assert done.returncode == 0
    assert "60 images, compared with 200 validation images: " in " ".join(done.stdout.split())
    assert "brightness" in done.stdout


def test_the_page_shows_distributions_and_the_farthest_images(model: Path, dark: Path, tmp_path: Path) -> None:
    """As one file: a plot for each quantity with its counts, and 24 images."""
    pytest.importorskip("plotly", reason="needs unfreeze[report]")
    page = tmp_path / "drift.html"
    assert run_cli("drift", model, dark, "--page", page).returncode == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 24
    assert text.count('<script type="application/json" data-plot=') == 4
    assert '"name":"these images"' in text
    assert "http://" not in text.split("<script>")[0]
    refused = run_cli("drift", model, dark, "--page", tmp_path / "none" / "drift.html")
    assert (refused.returncode, "no such folder" in refused.stderr) == (2, True)


def test_a_model_without_a_reference_is_refused(model: Path, dark: Path, tmp_path: Path) -> None:
    """It says what to do; so does a folder without images."""
    found = onnx.load(model)
    manifest = dataclasses.replace(read_manifest(model.read_bytes()), drift=None, sha256=UNSEALED)
    repository = ModelRepository(tmp_path / "models")
    version = repository.publish("old", with_manifest(found, manifest), manifest)
    done = run_cli("drift", repository.path("old", version), dark)
    assert done.returncode == 1
    assert "export the run again" in done.stderr
    (tmp_path / "empty").mkdir()
    empty = run_cli("drift", model, tmp_path / "empty")
    assert empty.returncode == 1
    assert "none of the 0 images can be used" in empty.stderr
