"""From probabilities to labels: the same on a server and on a device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float32

MOST_LABELS = 1_000_000  # that may be asked for


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One label that an image may have.

    Args:
        label: its name.
        score: its probability, 0 to 1.
        index: its place in the model's list.
    """

    label: str
    score: float
    index: int


def is_unsure(predictions: Sequence[Prediction], abstain_below: float | None) -> bool:
    """Tell whether an answer is to be taken for none.

    Args:
        predictions: of one image, the most probable first.
        abstain_below: the manifest's; None makes every answer sure.
    """
    return abstain_below is not None and predictions[0].score < abstain_below


def top_predictions(
    probabilities: Float32[np.ndarray, " c"], labels: tuple[str, ...], top: int
) -> tuple[Prediction, ...]:
    """Name the most probable labels, the first of equals first.

    Args:
        probabilities: one per label.
        labels: C of them.
        top: how many to name, at least 1; all where there are fewer.
    """
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(Prediction(label=labels[i], score=float(probabilities[i]), index=int(i)) for i in order)
