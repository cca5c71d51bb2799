"""Metrics of a classifier: precision, recall, confusion, calibration, and the threshold for abstention."""

import math
from typing import Any

import numpy as np
from scipy.stats import beta
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from unfreeze.contract.arrays import Float32, Float64, Int64
from unfreeze.tune.data.dataset import printable
from unfreeze.tune.evaluation.evaluate import Evaluation

CONFIDENCE_BINS = 15
_LISTED_ERRORS = 20
_SIGNIFICANCE = 0.1
_SPARE_ERRORS = 2
_STEPS = 20


def report(evaluation: Evaluation, labels: tuple[str, ...], temperature: float) -> dict[str, Any]:
    """Compute the metrics of an evaluation.

    Args:
        evaluation: on the validation images.
        labels: names of the classes.
        temperature: divides the logits.

    Returns:
        `per_class` (precision, recall and number of images by label), `confusion` (rows are true labels, columns
        predicted ones), `calibration_error` before and after temperature scaling, and the most confident
        `misclassified` images. `val_classes` is the number of classes with validation images: all other values say
        nothing about the other classes, which have None for precision and recall, and a note. Precision is 0 if
        undefined.
    """
    truth, probabilities = evaluation.labels.numpy(), evaluation.probabilities(temperature)
    predicted, indices = probabilities.argmax(1), np.arange(len(labels))
    precision, recall, _, support = precision_recall_fscore_support(truth, predicted, labels=indices, zero_division=0)
    return {
        "val_classes": int((support > 0).sum()),
        "per_class": {
            label: {"precision": float(precision[i]), "recall": float(recall[i]), "images": int(support[i])}
            if support[i]
            else {"precision": None, "recall": None, "images": 0, "note": "no validation images"}
            for i, label in enumerate(labels)
        },
        "confusion": confusion_matrix(truth, predicted, labels=indices).tolist(),
        "calibration_error": {
            "before": calibration_error(evaluation.probabilities(1.0), truth),
            "after": calibration_error(probabilities, truth),
        },
        "misclassified": _misclassified(evaluation, labels, probabilities),
    }


def calibration_error(probabilities: Float32[np.ndarray, "n c"], truth: Int64[np.ndarray, " n"]) -> float:
    """Compute the expected calibration error with 15 bins (Guo et al. 2017, arXiv:1706.04599).

    Args:
        probabilities: rows sum to 1.
        truth: indices of the true labels.

    Returns:
        The mean absolute difference between confidence and accuracy, 0 to 1, weighted by the images per bin.
    """
    confidence, correct = probabilities.max(1).astype(float), probabilities.argmax(1) == truth
    gaps = np.bincount(confidence_bins(confidence), weights=correct - confidence, minlength=CONFIDENCE_BINS)
    return float(np.abs(gaps).sum() / len(truth))


def confidence_bins(confidence: Float64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return the number of the bin of each confidence, from 0; a bin has its upper bound."""
    bins: np.ndarray = np.clip(np.ceil(confidence * CONFIDENCE_BINS).astype(np.int64) - 1, 0, CONFIDENCE_BINS - 1)
    return bins


def abstain_threshold(
    probabilities: Float32[np.ndarray, "n c"], truth: Int64[np.ndarray, " n"], precision: float
) -> dict[str, Any]:
    """Find the lowest confidence threshold above which answers have the requested precision.

    Thresholds are tested in descending order, from one that keeps enough images, up to the first whose precision is
    not significantly high enough by the one-sided 90% bound of Clopper and Pearson (1934). Stopping there keeps a lucky
    streak of less confident images from passing. This is fixed-sequence testing as in Angelopoulos et al. 2021
    (arXiv:2110.01052). The first threshold keeps just enough images to allow two errors, or all of them.

    Args:
        probabilities: rows sum to 1.
        truth: indices of the true labels.
        precision: requested share of correct answers among those at or above the threshold, above 0 and below 1.

    Returns:
        `requested_precision`; `threshold`; `coverage`, the share of images at or above the threshold; `precision` of
        those; and `message`, a sentence for users. Threshold and precision are None if the request cannot be met.

    Raises:
        ValueError: the precision is out of range.
    """
    if not 0 < precision < 1:
        raise ValueError(f"the requested precision must be above 0 and below 1, got {precision}")
    order = np.argsort(-probabilities.max(1), kind="stable")
    confidence, correct = probabilities.max(1)[order], (probabilities.argmax(1) == truth)[order].cumsum()
    kept = _tested_counts(confidence, precision)
    passed = _lower_bound(correct[kept - 1], kept) >= precision
    if not passed[0]:
        return _not_met(precision, len(truth))
    last = int(kept[passed.cumprod().sum() - 1])
    found, threshold = float(correct[last - 1] / last), float(confidence[last - 1])
    return {
        "requested_precision": precision,
        "threshold": threshold,
        "coverage": float(last / len(truth)),
        "precision": found,
        "message": f"{found:.1%} of the answers with a confidence of {threshold:.3f} or more are correct; these are "
        f"{last} of {len(truth)} images",
    }


def _misclassified(
    evaluation: Evaluation, labels: tuple[str, ...], probabilities: Float32[np.ndarray, "n c"]
) -> list[dict[str, Any]]:
    truth, predicted = evaluation.labels.numpy(), probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != truth)
    order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:_LISTED_ERRORS]
    return [
        {
            "path": printable(evaluation.images[i].path),
            "label": labels[truth[i]],
            "predicted": labels[predicted[i]],
            "confidence": float(probabilities[i, predicted[i]]),
        }
        for i in order
    ]


def _tested_counts(confidence: Float32[np.ndarray, " n"], precision: float) -> Int64[np.ndarray, " m"]:
    """Return how many of the most confident images each tested threshold keeps; ties are kept together."""
    counts = np.arange(1, len(confidence) + 1)
    enough = counts[_lower_bound(np.maximum(counts - _SPARE_ERRORS, 0), counts) >= precision]
    steps = np.linspace(enough[0] if len(enough) else len(counts), len(counts), _STEPS).astype(np.int64)
    return np.unique(np.searchsorted(-confidence, -confidence[steps - 1], side="right"))


def _lower_bound(correct: Int64[np.ndarray, " n"], kept: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return the one-sided 90% lower confidence bound of the precision."""
    bound: np.ndarray = np.where(correct > 0, beta.ppf(_SIGNIFICANCE, np.maximum(correct, 1), kept - correct + 1), 0.0)
    return bound


def _not_met(precision: float, images: int) -> dict[str, Any]:
    fewest = math.ceil(math.log(_SIGNIFICANCE) / math.log(precision))
    message = (
        f"no confidence threshold gives a precision of {precision:g} with certainty on {images} validation images; "
        f"request a lower precision, or validate on more images: at least {fewest} without an error are needed"
    )
    return {"requested_precision": precision, "threshold": None, "coverage": 0.0, "precision": None, "message": message}
