"""What a run says of itself: counted by hand on a few images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from unfreeze.tune.data.dataset import LabeledImage
from unfreeze.tune.evaluation.evaluate import Evaluation
from unfreeze.tune.evaluation.metrics import abstain_threshold, calibration_error, report


def _evaluation() -> Evaluation:
    """Six images of three classes; the fourth and the sixth are answered wrongly, the sixth with more confidence."""
    probabilities = torch.tensor(
        [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]
    )
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    images = tuple(LabeledImage(path=Path(f"{number}.jpg"), label=int(label)) for number, label in enumerate(labels))
    return Evaluation(logits=probabilities.log(), labels=labels, images=images, skipped=())


def test_counts_are_those_made_by_hand() -> None:
    """Precision, recall, confusion and the order of the mistakes."""
    found = report(_evaluation(), ("ant", "bee", "wasp"), 1.0)
    assert found["confusion"] == [[2, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert found["per_class"] == {
        "ant": {"precision": 0.5, "recall": 1.0, "images": 2},
        "bee": {"precision": 1.0, "recall": 0.5, "images": 2},
        "wasp": {"precision": 1.0, "recall": 0.5, "images": 2},
    }
    assert [(one["path"], one["label"], one["answer"]) for one in found["mistakes"]] == [
        ("5.jpg", "wasp", "ant"),
        ("3.jpg", "bee", "ant"),
    ]
    assert found["mistakes"][0]["confidence"] == pytest.approx(0.9)


def test_a_label_that_is_never_answered_counts_nothing() -> None:
    """No division by zero, and no warning."""
    evaluation = _evaluation()
    wide = Evaluation(
        logits=torch.nn.functional.pad(evaluation.logits, (0, 1), value=-50.0),
        labels=evaluation.labels,
        images=evaluation.images,
        skipped=(),
    )
    assert report(wide, ("ant", "bee", "wasp", "nobody"), 1.0)["per_class"]["nobody"] == {
        "precision": 0.0,
        "recall": 0.0,
        "images": 0,
    }


def test_calibration_error_is_the_gap_of_confidence_and_accuracy() -> None:
    """Right as often as it says: none. Always sure and right half of the time: a half."""
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


def _two_classes(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([confidence, 1 - confidence], 1).astype(np.float32), (~right).astype(np.int64)


def _graded(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose answers are right as often as their confidence says, 0.5 to 1."""
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.5, 1, count)
    return _two_classes(confidence, rng.random(count) < confidence)


def test_the_threshold_keeps_what_is_precise_enough() -> None:
    """Where confidences are honest and even from 0.5 to 1, nine in ten are right above 0.8: no lower, little higher."""
    probabilities, truth = _graded(20_000)
    found = abstain_threshold(probabilities, truth, 0.9)
    assert 0.79 < found["threshold"] < 0.84
    sure = probabilities[:, 0] >= found["threshold"]
    assert found["answered"] == pytest.approx(sure.mean())
    assert found["precision"] == pytest.approx((truth[sure] == 0).mean())
    assert found["precision"] >= found["precision_wanted"] == 0.9
    assert found["message"].startswith(f"at a confidence of {found['threshold']:.3f} or more, 9")


def test_a_small_sample_must_be_better_than_what_is_wanted() -> None:
    """Of 50 images, 48 right make 0.898 sure by the bound of Clopper and Pearson, and 50 right 0.955."""
    confidence = np.linspace(0.99, 0.6, 50)
    for mistakes, wanted, met in ((2, 0.897, True), (2, 0.899, False), (0, 0.954, True), (0, 0.956, False)):
        right = np.arange(50) >= mistakes  # the most confident are wrong: only all images together can pass
        found = abstain_threshold(*_two_classes(confidence, right), wanted)
        assert (found["threshold"] is not None) == met
        assert found["answered"] == float(met)


def test_a_lucky_run_further_down_decides_nothing() -> None:
    """Once a step fails, what would pass below it is not looked at."""
    right = np.ones(1000, bool)
    right[:200:4] = False  # 50 mistakes among the 200 most confident; 0.95 right in all
    found = abstain_threshold(*_two_classes(np.linspace(0.999, 0.6, 1000), right), 0.9)
    assert found["threshold"] is None
    right = np.ones(1000, bool)
    right[60:90] = False  # 0.97 right in all, but two in three of the first hundred
    found = abstain_threshold(*_two_classes(np.linspace(0.999, 0.6, 1000), right), 0.9)
    assert (found["precision"], found["answered"] < 0.065) == (1, True)


def test_equally_confident_images_go_together() -> None:
    """All that reach the threshold are counted, where many have the same confidence."""
    confidence = np.repeat([0.9, 0.7], [300, 100])
    right = np.arange(400) % 100 != 0
    right[300:] = False
    found = abstain_threshold(*_two_classes(confidence, right), 0.95)
    assert found["threshold"] == pytest.approx(0.9)
    assert (found["answered"], found["precision"]) == (0.75, 0.99)


def test_what_cannot_be_met_is_said() -> None:
    """No threshold, nothing answered, and how many images it would take."""
    found = abstain_threshold(*_graded(100), 0.99)
    assert (found["threshold"], found["precision"], found["answered"]) == (None, None, 0.0)
    assert "no confidence makes a precision of 0.99 sure on these 100 images" in found["message"]
    assert "it takes 230 at least" in found["message"]
    assert abstain_threshold(*_two_classes(np.linspace(0.9, 1, 230), np.ones(230, bool)), 0.99)["answered"] == 1
    assert abstain_threshold(*_two_classes(np.linspace(0.9, 1, 229), np.ones(229, bool)), 0.99)["threshold"] is None


@pytest.mark.parametrize("precision", [0.0, 1.0, 1.5, float("nan")])
def test_a_precision_out_of_range_is_refused(precision: float) -> None:
    """Nothing is always right; a share of nothing is no wish."""
    with pytest.raises(ValueError, match=f"above 0 and below 1, found {precision}"):
        abstain_threshold(*_graded(100), precision)
