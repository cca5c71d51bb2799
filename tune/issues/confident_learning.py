"""Suspected label errors, by confident learning.

Northcutt, Jiang and Chuang: "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of Artificial
Intelligence Research 70 (2021), arXiv:1911.00068.
"""

import numpy as np

from unfreeze.contract.arrays import Float32, Int64

_IMPROBABLE = 0.05


def suspected_labels(
    probabilities: Float32[np.ndarray, "n c"], labels: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " s"], Int64[np.ndarray, " s"]]:
    """Find images that a classifier assigns to another class than their label does.

    As many images are suspected as labels are estimated to be wrong: those whose own label is least probable. The
    estimate takes errors of the classifier for wrong labels, so a label is suspected only if it is less probable than
    a guess among all classes, or than 5 %, and not the most probable one.

    Args:
        probabilities: by classifiers that were not trained on the images.
        labels: of the images.

    Returns:
        The suspected images, the least probable label first, and the most probable labels of these images.
    """
    own = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(own, kind="stable")[: _estimated_errors(probabilities, labels)]
    best = probabilities[order].argmax(axis=1)
    suspected = (best != labels[order]) & (own[order] < max(1 / probabilities.shape[1], _IMPROBABLE))
    return order[suspected], best[suspected]


def _estimated_errors(probabilities: np.ndarray, labels: np.ndarray) -> int:
    """Estimate the number of wrong labels from the confident joint.

    An image counts for the most probable class among those whose probability reaches the mean one of the images with
    this label; images that reach none do not count. The shares of the counts within each label are extended to all
    images with this label.
    """
    classes, every = probabilities.shape[1], np.arange(len(labels))
    counts = np.bincount(labels, minlength=classes)
    means = np.bincount(labels, probabilities[every, labels], minlength=classes) / np.maximum(counts, 1)
    thresholds = np.where(counts > 0, means, np.inf)  # nothing is known of a class without images
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    best, counted = confident.argmax(axis=1), confident.max(axis=1, initial=-1.0) >= 0
    totals = np.bincount(labels[counted], minlength=classes)
    wrong = np.bincount(labels[counted & (best != labels)], minlength=classes)
    return round(float((wrong / np.maximum(totals, 1) * counts).sum()))
