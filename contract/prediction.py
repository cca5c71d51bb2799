"""From probabilities to labels, in the same way on a server and on a device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float32

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


def is_unsure(predictions: Sequence[Prediction], abstain_below: float | None) -> bool:
    """Return whether the top-1 probability is below the threshold, so that the prediction should not be used.

    Args:
        predictions: of one image, the most probable first.
        abstain_below: the manifest's threshold; without one, no prediction is unsure.
    """
    return abstain_below is not None and predictions[0].score < abstain_below


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
