"""From probabilities to labels, in the same way on a server and on a device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Bool, Float32

MOST_LABELS = 1_000_000  # that may be requested


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A predicted label of an image.

    Args:
        label: the label.
        score: its probability, 0 to 1.
        index: its position in the model's list of labels.
    """

    label: str
    score: float
    index: int


def is_unsure(
    predictions: Sequence[Prediction], abstain_below: float | None, *, out_of_distribution: bool | None = None
) -> bool | None:
    """Return whether a prediction should not be used: its probability is below the threshold, or the image is foreign.

    Args:
        predictions: of one image, the most probable first.
        abstain_below: the manifest's threshold; None without one.
        out_of_distribution: whether the image is unlike the training images; None if that is not known.

    Returns:
        None without a threshold, because nothing is known then.
    """
    return None if abstain_below is None else bool(out_of_distribution) or predictions[0].score < abstain_below


def are_unsure(probabilities: Float32[np.ndarray, "n c"], abstain_below: float) -> Bool[np.ndarray, " n"]:
    """Return for each image whether its top-1 probability is below the threshold.

    Args:
        probabilities: of each image, one per label.
        abstain_below: the manifest's threshold.
    """
    # In float64, as `is_unsure` compares: numpy would round the threshold to float32.
    top_scores: np.ndarray = probabilities.max(axis=1).astype(np.float64)
    return top_scores < abstain_below


def top_predictions(
    probabilities: Float32[np.ndarray, " c"], labels: tuple[str, ...], top: int
) -> tuple[Prediction, ...]:
    """List the most probable labels; equally probable ones are in the model's order.

    Args:
        probabilities: one per label.
        labels: the C labels.
        top: number of labels to list, at least 1; all are listed if there are fewer.
    """
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(Prediction(label=labels[i], score=float(probabilities[i]), index=int(i)) for i in order)
