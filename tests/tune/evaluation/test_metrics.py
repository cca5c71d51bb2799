"""Metrics of a classifier, compared with values computed by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from unfreeze.tune.data.dataset import LabeledImage
from unfreeze.tune.evaluation.evaluate import Evaluation
from unfreeze.tune.evaluation.metrics import abstain_threshold, calibration_error, report


def _evaluation() -> Evaluation:
    """Six images of three classes; the fourth and the sixth are misclassified, the sixth with more confidence."""
    probabilities = torch.tensor(
        [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]
    )
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    images = tuple(LabeledImage(path=Path(f"{number}.jpg"), label=int(label)) for number, label in enumerate(labels))
    return Evaluation(logits=probabilities.log(), labels=labels, images=images, skipped=())


def test_reports_precision_recall_confusion_and_errors() -> None:
    """Precision, recall, confusion and the order of the misclassified images."""
    found = report(_evaluation(), ("ant", "bee", "wasp"), 1.0)
    assert found["confusion"] == [[2, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert found["per_class"] == {
        "ant": {"precision": 0.5, "recall": 1.0, "images": 2},
        "bee": {"precision": 1.0, "recall": 0.5, "images": 2},
        "wasp": {"precision": 1.0, "recall": 0.5, "images": 2},
    }
    assert [(one["path"], one["label"], one["predicted"]) for one in found["misclassified"]] == [
        ("5.jpg", "wasp", "ant"),
        ("3.jpg", "bee", "ant"),
    ]
    assert found["misclassified"][0]["confidence"] == pytest.approx(0.9)


def test_a_label_without_images_is_marked_and_not_counted() -> None:
    """It has no precision and no recall, and the number of classes that the metrics cover leaves it out."""
    evaluation = _evaluation()
    wide = Evaluation(
        logits=torch.nn.functional.pad(evaluation.logits, (0, 1), value=-50.0),
        labels=evaluation.labels,
        images=evaluation.images,
        skipped=(),
    )
    found = report(wide, ("ant", "bee", "wasp", "moth"), 1.0)
    assert found["per_class"]["moth"] == {
        "precision": None,
        "recall": None,
        "images": 0,
        "note": "no validation images",
    }
    assert (found["val_classes"], len(found["per_class"])) == (3, 4)
    assert report(_evaluation(), ("ant", "bee", "wasp"), 1.0)["val_classes"] == 3


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    """Calibrated probabilities have none; full confidence at an accuracy of a half has an error of a half."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1.0, 200_000)
    truth = (rng.random(200_000) > confidence).astype(np.int64)
    honest = np.stack([confidence, 1 - confidence], 1).astype(np.float32)
    assert calibration_error(honest, truth) < 0.01
    sure = np.tile(np.array([[1.0, 0.0]], np.float32), (1000, 1))
    assert calibration_error(sure, np.arange(1000) % 2) == pytest.approx(0.5)
    evaluation = _evaluation()
    assert calibration_error(evaluation.probabilities(1.0), evaluation.labels.numpy()) == pytest.approx(
        (abs(2 - 1.6) + abs(1 - 0.6) + abs(1 - 0.7) + 0.5 + 0.9) / 6, abs=1e-6
    )


def _two_classes(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([confidence, 1 - confidence], 1).astype(np.float32), (~correct).astype(np.int64)


def _graded(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated predictions with confidences from 0.5 to 1."""
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.5, 1, count)
    return _two_classes(confidence, rng.random(count) < confidence)


def test_threshold_keeps_answers_of_the_requested_precision() -> None:
    """With calibrated, uniform confidences from 0.5 to 1, a precision of 0.9 is reached slightly above 0.8."""
    probabilities, truth = _graded(20_000)
    found = abstain_threshold(probabilities, truth, 0.9)
    assert 0.79 < found["threshold"] < 0.84
    sure = probabilities[:, 0] >= found["threshold"]
    assert found["coverage"] == pytest.approx(sure.mean())
    assert found["precision"] == pytest.approx((truth[sure] == 0).mean())
    assert found["precision"] >= found["requested_precision"] == 0.9
    assert f"of the answers with a confidence of {found['threshold']:.3f} or more are correct" in found["message"]


def test_a_small_sample_must_exceed_the_requested_precision() -> None:
    """The lower bound of Clopper and Pearson is 0.898 for 48 correct of 50 images, and 0.955 for 50."""
    confidence = np.linspace(0.99, 0.6, 50)
    for errors, requested, met in ((2, 0.897, True), (2, 0.899, False), (0, 0.954, True), (0, 0.956, False)):
        right = np.arange(50) >= errors  # the most confident are wrong, so only all images together can pass
        found = abstain_threshold(*_two_classes(confidence, right), requested)
        assert (found["threshold"] is not None) == met
        assert found["coverage"] == float(met)


def test_stops_at_the_first_threshold_that_fails() -> None:
    """Lower thresholds are not tested after one has failed."""
    right = np.ones(1000, bool)
    right[:200:4] = False  # 50 mistakes among the 200 most confident; 0.95 right in all
    found = abstain_threshold(*_two_classes(np.linspace(0.999, 0.6, 1000), right), 0.9)
    assert found["threshold"] is None
    right = np.ones(1000, bool)
    right[60:90] = False  # 0.97 right in all, but two in three of the first hundred
    found = abstain_threshold(*_two_classes(np.linspace(0.999, 0.6, 1000), right), 0.9)
    assert (found["precision"], found["coverage"] < 0.065) == (1, True)


def test_counts_all_images_that_reach_the_threshold() -> None:
    """Images with equal confidence are kept or dropped together."""
    confidence = np.repeat([0.9, 0.7], [300, 100])
    right = np.arange(400) % 100 != 0
    right[300:] = False
    found = abstain_threshold(*_two_classes(confidence, right), 0.95)
    assert found["threshold"] == pytest.approx(0.9)
    assert (found["coverage"], found["precision"]) == (0.75, 0.99)


def test_reports_a_precision_that_cannot_be_met() -> None:
    """There is no threshold, coverage is 0, and the message says how many images are needed."""
    found = abstain_threshold(*_graded(100), 0.99)
    assert (found["threshold"], found["precision"], found["coverage"]) == (None, None, 0.0)
    assert (
        "no confidence threshold gives a precision of 0.99 with certainty on 100 validation images" in found["message"]
    )
    assert "at least 230 without an error are needed" in found["message"]
    assert abstain_threshold(*_two_classes(np.linspace(0.9, 1, 230), np.ones(230, bool)), 0.99)["coverage"] == 1
    assert abstain_threshold(*_two_classes(np.linspace(0.9, 1, 229), np.ones(229, bool)), 0.99)["threshold"] is None


@pytest.mark.parametrize("precision", [0.0, 1.0, 1.5, float("nan")])
def test_rejects_a_precision_out_of_range(precision: float) -> None:
    """Precisions of 0, 1 and above, and NaN, are rejected."""
    with pytest.raises(ValueError, match=f"above 0 and below 1, got {precision}"):
        abstain_threshold(*_graded(100), precision)
