"""The values of a report's figures, and that plotly knows all of their properties."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from unfreeze.report.figures import (
    clustered_order,
    confusion_figure,
    coverage_figure,
    depth_figure,
    epochs_figure,
    reliability_figure,
)
from unfreeze.report.run_files import PredictedImage

SCORE = {"standard_error": 0.01, "balanced_accuracy": 0.6, "balanced_standard_error": 0.05}
METRICS: dict[str, Any] = {
    "metric": "accuracy",
    "survey": [
        {"cut": cut, "accuracy": share, "trained_parameters": 10, **SCORE} for cut, share in (("b", 0.7), ("head", 0.8))
    ],
    "candidates": [
        {
            "recipe": "probe",
            "cut": "head",
            "learning_rate": 0.0,
            "images": 9,
            "chosen": False,
            "accuracy": 0.82,
            **SCORE,
        },
        {"recipe": "all", "cut": "all", "learning_rate": 0.003, "images": 9, "chosen": True, "accuracy": 0.9, **SCORE},
    ],
    "epochs": [{"number": 1, "loss": 2.0, "held_out_loss": None}, {"number": 2, "loss": 1.5, "held_out_loss": None}],
}


def _image(confidence: float, *, correct: bool, before: float = 0.5) -> PredictedImage:
    return PredictedImage(
        path="a.jpg",
        split="val",
        label="ant",
        predicted="ant" if correct else "bee",
        confidence=confidence,
        uncalibrated_confidence=before,
        label_probability=confidence if correct else 0.0,
    )


def _checked(figure: dict[str, Any] | None) -> dict[str, Any]:
    """Let plotly check the names and types of all properties."""
    assert figure is not None
    go.Figure(figure)
    return figure


def test_depth_shows_every_cut_and_the_chosen_candidate() -> None:
    """With standard errors; by balanced accuracy if that was the metric."""
    figure = _checked(depth_figure(METRICS))
    frozen, other, chosen = figure["data"]
    assert (frozen["x"], frozen["y"], frozen["error_y"]["array"]) == (["b", "head"], [0.7, 0.8], [0.01, 0.01])
    assert (other["x"], other["y"]) == (["head"], [0.82])
    assert (chosen["name"], chosen["x"], chosen["y"]) == ("chosen", ["all"], [0.9])
    assert figure["layout"]["xaxis"]["categoryarray"] == ["all", "b", "head"]
    balanced = _checked(depth_figure(METRICS | {"metric": "balanced"}))
    assert balanced["data"][0]["y"] == [0.6, 0.6]
    assert balanced["data"][0]["error_y"]["array"] == [0.05, 0.05]
    assert depth_figure(METRICS | {"survey": [], "candidates": []}) is None


def test_epochs_show_the_losses_that_there_are() -> None:
    """Nothing for a linear recipe."""
    figure = _checked(epochs_figure(METRICS))
    assert [(line["name"], line["y"]) for line in figure["data"]] == [("training loss", [2.0, 1.5])]
    assert epochs_figure(METRICS | {"epochs": []}) is None


def test_reliability_compares_confidence_with_accuracy_in_bins() -> None:
    """Three images in the last of 15 bins, two of them correct; one in the bin above 0.6; before, all in one bin."""
    images = [
        _image(0.95, correct=True),
        _image(0.99, correct=True),
        _image(0.97, correct=False),
        _image(0.62, correct=False),
    ]
    _, before, after = _checked(reliability_figure(images))["data"]
    assert (before["x"], before["y"]) == ([0.5], [0.5])
    assert after["x"] == [0.62, 0.97]
    assert after["y"] == [0.0, pytest.approx(0.6667)]
    assert after["hovertext"] == ["1 images", "3 images"]


def test_coverage_shows_the_precision_of_the_most_confident() -> None:
    """From the most confident image on; with the threshold for abstention."""
    images = [
        _image(0.6, correct=False),
        _image(0.9, correct=True),
        _image(0.8, correct=True),
        _image(0.7, correct=True),
    ]
    abstain = {"threshold": 0.65, "coverage": 0.75, "precision": 1.0}
    line, point = _checked(coverage_figure(images, abstain))["data"]
    assert (line["x"], line["y"]) == ([0.25, 0.5, 0.75, 1.0], [1.0, 1.0, 1.0, 0.75])
    assert (point["x"], point["y"]) == ([0.75], [1.0])
    assert len(_checked(coverage_figure(images * 200, None))["data"][0]["x"]) == 200


def test_confusion_shows_shares_and_numbers() -> None:
    """Of the images of a true class; names are escaped for plotly, which reads tags."""
    figure = _checked(confusion_figure(np.array([[3, 1], [0, 0]]), ["<b>", "bee"]))
    heat = figure["data"][0]
    assert heat["z"] == [[0.75, 0.25], [0.0, 0.0]]
    assert heat["customdata"] == heat["text"] == [[3, 1], [0, 0]]
    assert heat["y"] == ["&lt;b>", "bee"]


def test_confused_classes_become_neighbors() -> None:
    """Whatever their order was."""
    confusion = np.diag([10] * 6)
    confusion[0, 5] = confusion[5, 0] = confusion[1, 3] = confusion[3, 1] = 8
    order = clustered_order(confusion)
    assert sorted(order) == list(range(6))
    assert abs(order.index(0) - order.index(5)) == abs(order.index(1) - order.index(3)) == 1
