"""What a run says of itself: counted by hand on a few pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tune.dataset import Picture
from tune.evaluate import Evaluation
from tune.report import calibration_error, report


def _evaluation() -> Evaluation:
    """Six pictures of three classes; the fourth and the sixth are answered wrongly, the sixth with more confidence."""
    probabilities = torch.tensor(
        [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]
    )
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    pictures = tuple(Picture(path=Path(f"{number}.jpg"), label=int(label)) for number, label in enumerate(labels))
    return Evaluation(logits=probabilities.log(), labels=labels, pictures=pictures, skipped=())


def test_counts_are_those_made_by_hand() -> None:
    """Precision, recall, confusion and the order of the mistakes."""
    found = report(_evaluation(), ("ant", "bee", "wasp"), 1.0)
    assert found["confusion"] == [[2, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert found["per_class"] == {
        "ant": {"precision": 0.5, "recall": 1.0, "pictures": 2},
        "bee": {"precision": 1.0, "recall": 0.5, "pictures": 2},
        "wasp": {"precision": 1.0, "recall": 0.5, "pictures": 2},
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
        pictures=evaluation.pictures,
        skipped=(),
    )
    assert report(wide, ("ant", "bee", "wasp", "nobody"), 1.0)["per_class"]["nobody"] == {
        "precision": 0.0,
        "recall": 0.0,
        "pictures": 0,
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
