"""Say how well a classifier does, where it fails, and whether its probabilities are honest."""

import math
from typing import Any

import numpy as np
from scipy.stats import beta
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from unfreeze.contract.arrays import Float32, Float64, Int64
from unfreeze.tune.data.dataset import printable
from unfreeze.tune.evaluation.evaluate import Evaluation

_BINS = 15
_MISTAKES = 20
_DOUBT = 0.1
_SPARE_MISTAKES = 2
_STEPS = 20


def report(evaluation: Evaluation, labels: tuple[str, ...], temperature: float) -> dict[str, Any]:
    """Gather what people ask after training.

    Args:
        evaluation: of the images that judge.
        labels: the classes' names.
        temperature: what the logits are divided by.

    Returns:
        `per_class` (precision, recall, images by label), `confusion` (rows are true labels, columns answers),
        `calibration_error` before and after the temperature, and the most confident `mistakes`. Precision and recall
        are 0 where there is nothing to count.
    """
    truth, probabilities = evaluation.labels.numpy(), evaluation.probabilities(temperature)
    answers, indices = probabilities.argmax(1), np.arange(len(labels))
    precision, recall, _, support = precision_recall_fscore_support(truth, answers, labels=indices, zero_division=0)
    return {
        "per_class": {
            label: {"precision": float(precision[i]), "recall": float(recall[i]), "images": int(support[i])}
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
        The mean difference of confidence and accuracy, 0 to 1, each bin weighted by its images.
    """
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == truth
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(truth))


def abstain_threshold(
    probabilities: Float32[np.ndarray, "n c"], truth: Int64[np.ndarray, " n"], precision: float
) -> dict[str, Any]:
    """Find the lowest confidence above which answers are as often right as is wanted.

    Thresholds go down in steps from one that keeps enough images, and stop at the first whose precision is not
    surely enough, by the one-sided 90% bound of Clopper and Pearson (1934): one lucky run of images further down
    decides nothing. This is fixed-sequence testing as in Angelopoulos et al. 2021 (arXiv:2110.01052). Enough are as
    many as allow two mistakes, or all where there are fewer.

    Args:
        probabilities: rows sum to 1.
        truth: indices of the true labels.
        precision: wanted share of right answers among those given, above 0 and below 1.

    Returns:
        `precision_wanted`; `threshold`, to be answered at or above; `answered`, the share of the images; `precision`,
        as found; `message` for people. Where it cannot be met, threshold and precision are None.

    Raises:
        ValueError: the precision is out of its range.
    """
    if not 0 < precision < 1:
        raise ValueError(f"the precision wanted lies above 0 and below 1, found {precision}")
    order = np.argsort(-probabilities.max(1), kind="stable")
    confidence, right = probabilities.max(1)[order], (probabilities.argmax(1) == truth)[order].cumsum()
    kept = _kept(confidence, precision)
    passed = _surely(right[kept - 1], kept) >= precision
    if not passed[0]:
        return _never(precision, len(truth))
    last = int(kept[passed.cumprod().sum() - 1])
    found, threshold = float(right[last - 1] / last), float(confidence[last - 1])
    told = f"at a confidence of {threshold:.3f} or more, {found:.1%} of the answers are right"
    return {
        "precision_wanted": precision,
        "threshold": threshold,
        "answered": float(last / len(truth)),
        "precision": found,
        "message": f"{told}; {last} of the {len(truth)} images are answered so",
    }


def _mistakes(
    evaluation: Evaluation, labels: tuple[str, ...], probabilities: Float32[np.ndarray, "n c"]
) -> list[dict[str, Any]]:
    truth, answers = evaluation.labels.numpy(), probabilities.argmax(1)
    wrong = np.flatnonzero(answers != truth)
    order = wrong[np.argsort(-probabilities[wrong, answers[wrong]], kind="stable")][:_MISTAKES]
    return [
        {
            "path": printable(evaluation.images[i].path),
            "label": labels[truth[i]],
            "answer": labels[answers[i]],
            "confidence": float(probabilities[i, answers[i]]),
        }
        for i in order
    ]


def _kept(confidence: Float32[np.ndarray, " n"], precision: float) -> Int64[np.ndarray, " m"]:
    """Say how many of the most confident images each step keeps; equally confident ones go together."""
    counts = np.arange(1, len(confidence) + 1)
    enough = counts[_surely(np.maximum(counts - _SPARE_MISTAKES, 0), counts) >= precision]
    steps = np.linspace(enough[0] if len(enough) else len(counts), len(counts), _STEPS).astype(np.int64)
    return np.unique(np.searchsorted(-confidence, -confidence[steps - 1], side="right"))


def _surely(right: Int64[np.ndarray, " n"], kept: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Give the precision that is not undercut, but for a tenth of such samples."""
    return np.where(right > 0, beta.ppf(_DOUBT, np.maximum(right, 1), kept - right + 1), 0.0)


def _never(precision: float, images: int) -> dict[str, Any]:
    fewest = math.ceil(math.log(_DOUBT) / math.log(precision))
    message = (
        f"no confidence makes a precision of {precision:g} sure on these {images} images; ask for less, or judge "
        f"on more images: it takes {fewest} at least, answered without a mistake"
    )
    return {"precision_wanted": precision, "threshold": None, "answered": 0.0, "precision": None, "message": message}
