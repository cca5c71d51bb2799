"""What a model answers about images: rows of its output, and the same for one image, on a server and on a device."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Bool, Float32
from unfreeze.contract.model.ood import OutOfDistribution
from unfreeze.contract.prediction import Prediction, are_unsure, is_unsure, top_predictions


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answers about an image.

    Args:
        predictions: the most probable labels, ordered by score, the highest first.
        unsure: whether the labels should not be used without a check: the top score is below the model's confidence
            threshold, or the image is out of distribution; None if the model has no confidence threshold.
        ood_score: how far the image is from the training images; the larger, the farther. None if the model has no
            such score.
        out_of_distribution: whether that score is above the model's threshold; None if it has no such score.
    """

    predictions: tuple[Prediction, ...]
    unsure: bool | None = None
    ood_score: float | None = None
    out_of_distribution: bool | None = None


@runtime_checkable
class Described(Protocol):
    """What gives the values of a row their meaning: a manifest, for example."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One label per class, in the order of the probabilities."""

    @property
    def abstain_below(self) -> float | None:
        """Confidence threshold; None without one."""

    @property
    def ood(self) -> OutOfDistribution | None:
        """How images unlike the training images are recognized; None if they are not."""


def read_answer(row: Float32[np.ndarray, " a"], model: Described, top: int) -> Answer:
    """Read a row of a model's output.

    Args:
        row: probabilities, and the score behind them if the model has one.
        model: describes it.
        top: number of labels to list, at least 1; all are listed if there are fewer.
    """
    predictions = top_predictions(row[: len(model.labels)], model.labels, top)
    ood = model.ood
    if ood is None:
        return Answer(predictions=predictions, unsure=is_unsure(predictions, model.abstain_below))
    score = float(row[len(model.labels)])
    is_foreign = not score <= ood.threshold  # also if it is not a number
    return Answer(
        predictions=predictions,
        unsure=is_unsure(predictions, model.abstain_below, out_of_distribution=is_foreign),
        ood_score=score,
        out_of_distribution=is_foreign,
    )


def probabilities_in(rows: Float32[np.ndarray, "n a"], model: Described) -> Float32[np.ndarray, "n c"]:
    """Return the probabilities in the rows of a model's output."""
    return rows[:, : len(model.labels)]


def ood_scores_in(rows: Float32[np.ndarray, "n a"], model: Described) -> Float32[np.ndarray, " n"]:
    """Return the out-of-distribution scores in the rows of a model's output; the model has such a score."""
    return rows[:, len(model.labels)]


def projected_in(rows: Float32[np.ndarray, "n a"], model: Described) -> Float32[np.ndarray, "n k"]:
    """Return the projected features in the rows of a model's output; none if it was exported without features."""
    return rows[:, len(model.labels) + (model.ood is not None) :]


def are_foreign(scores: Float32[np.ndarray, " n"], ood: OutOfDistribution) -> Bool[np.ndarray, " n"]:
    """Return whether scores are above the threshold.

    Args:
        scores: of images.
        ood: the model's threshold.
    """
    # In float64, as `read_answer` compares: numpy would round the threshold to float32.
    found: np.ndarray = ~(scores.astype(np.float64) <= ood.threshold)
    return found


def unsure_in(rows: Float32[np.ndarray, "n a"], model: Described, abstain_below: float) -> Bool[np.ndarray, " n"]:
    """Return for each image what `Answer.unsure` is.

    Args:
        rows: of the model's output.
        model: describes it.
        abstain_below: its confidence threshold.
    """
    unsure = are_unsure(probabilities_in(rows, model), abstain_below)
    return unsure if model.ood is None else unsure | are_foreign(ood_scores_in(rows, model), model.ood)
