"""Say how well a classifier does, where it fails, and whether its probabilities are honest."""

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from contract.arrays import Float32, Int64
from tune.dataset import printable
from tune.evaluate import Evaluation

_BINS = 15
_MISTAKES = 20


def report(evaluation: Evaluation, labels: tuple[str, ...], temperature: float) -> dict[str, Any]:
    """Gather what people ask after training.

    Args:
        evaluation: of the pictures that judge.
        labels: the classes' names.
        temperature: what the logits are divided by.

    Returns:
        `per_class` (precision, recall, pictures by label), `confusion` (rows are true labels, columns answers),
        `calibration_error` before and after the temperature, and the most confident `mistakes`. Precision and recall
        are 0 where there is nothing to count.
    """
    truth, probabilities = evaluation.labels.numpy(), evaluation.probabilities(temperature)
    answers, indices = probabilities.argmax(1), np.arange(len(labels))
    precision, recall, _, support = precision_recall_fscore_support(truth, answers, labels=indices, zero_division=0)
    return {
        "per_class": {
            label: {"precision": float(precision[i]), "recall": float(recall[i]), "pictures": int(support[i])}
            for i, label in enumerate(labels)
        },
        "confusion": confusion_matrix(truth, answers, labels=indices).tolist(),
        "calibration_error": {
            "before": calibration_error(evaluation.probabilities(1.0), truth),
            "after": calibration_error(probabilities, truth),
        },
        "mistakes": _mistakes(evaluation, labels, probabilities),
    }


def calibration_error(probabilities: Float32[np.ndarray, "n c"], truth: Int64[np.ndarray, " n"]) -> float:
    """Measure the expected calibration error of the first answers, in 15 bins (Guo et al. 2017, arXiv:1706.04599).

    Args:
        probabilities: rows sum to 1.
        truth: indices of the true labels.

    Returns:
        The mean difference of confidence and accuracy, 0 to 1, each bin weighted by its pictures.
    """
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == truth
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(truth))


def _mistakes(
    evaluation: Evaluation, labels: tuple[str, ...], probabilities: Float32[np.ndarray, "n c"]
) -> list[dict[str, Any]]:
    truth, answers = evaluation.labels.numpy(), probabilities.argmax(1)
    wrong = np.flatnonzero(answers != truth)
    order = wrong[np.argsort(-probabilities[wrong, answers[wrong]], kind="stable")][:_MISTAKES]
    return [
        {
            "path": printable(evaluation.pictures[i].path),
            "label": labels[truth[i]],
            "answer": labels[answers[i]],
            "confidence": float(probabilities[i, answers[i]]),
        }
        for i in order
    ]
