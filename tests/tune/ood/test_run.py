"""From tuning to an answer: images of a foreign kind are recognized."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from support.images import write_images

from unfreeze.contract.model.ood import BASELINE, METHODS
from unfreeze.contract.reporting import Silent
from unfreeze.demo.digits import write_digits
from unfreeze.demo.options import DemoOptions
from unfreeze.export.run import export_model
from unfreeze.serve.client.local import LocalClassifier
from unfreeze.tune.artifacts.checkpoint import load_run, read_metrics
from unfreeze.tune.artifacts.score import load_score
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_OPTIONS = {"weights": "builtin", "recipe": "probe", "image_size": 64, "device": "cpu", "store_gb": 0.0}


def _noise(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe of handwritten digits, with both thresholds."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "data", DemoOptions(train_per_class=20, val_per_class=6), Silent())
    fine_tune(folder / "data", folder / "run", TuneOptions(**_OPTIONS, abstain_precision=0.6))
    return folder / "run"


def test_foreign_images_are_recognized(run: Path, tmp_path: Path) -> None:
    """Noise is no digit: its scores are above those of digits, and above the threshold."""
    published = export_model(run, tmp_path / "models", "digits")
    own = sorted((run.parent / "data" / "val").rglob("*.png"))
    with LocalClassifier(published.path) as local:
        answers = local.answers([*own, *map(_noise, range(10))])
    scores = [answer.ood_score for answer in answers]
    assert roc_auc_score([0] * len(own) + [1] * 10, scores) > 0.95
    assert all(answer.unsure for answer in answers if answer.out_of_distribution)
    assert all(answer.out_of_distribution for answer in answers[len(own) :])
    assert sum(answer.out_of_distribution or False for answer in answers[: len(own)]) <= 0.05 * len(own)


def test_the_run_reports_the_comparison(run: Path) -> None:
    """Areas of all methods, the choice, the threshold and its interval; the score is restored from the run's file."""
    found = read_metrics(run)["ood"]
    assert set(found["comparison"]["aurocs"]) == set(METHODS)
    assert found["method"] in METHODS
    assert found["images"] == 60
    low, high = found["false_alarms_interval"]
    assert low < found["expected_false_alarms"] <= 0.05 < high
    assert "out of distribution" in found["message"]
    _, facts = load_run(run)
    score = load_score(run, facts)
    assert score is not None
    assert facts.ood is not None
    assert (score.method, facts.ood.threshold) == (found["method"], found["threshold"])
    assert facts.ood.baseline_auroc == found["comparison"]["aurocs"][BASELINE]


def test_without_false_alarms_there_is_no_score(tmp_path: Path) -> None:
    """`--ood-false-alarms 0` compares nothing, and two classes are not compared."""
    data = tmp_path / "data"
    for split, count, first in (("train", 6, 0), ("val", 4, 500)):
        write_images(data / split, count, first_seed=first)
    metrics = fine_tune(data, tmp_path / "run", TuneOptions(**_OPTIONS, ood_false_alarms=0.0))
    assert metrics["ood"] is None
    assert load_score(tmp_path / "run", load_run(tmp_path / "run")[1]) is None
    published = export_model(tmp_path / "run", tmp_path / "models", "colors")
    assert published.manifest.outputs == {"probabilities": 3}
