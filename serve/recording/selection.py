"""Which of the answered images are kept, and why."""

import random
from collections.abc import Iterable, Sequence

import numpy as np

from unfreeze.contract.arrays import Bool, Float32
from unfreeze.contract.prediction import are_unsure

HEADER = "x-unfreeze-store"
UNSURE, FOREIGN, DISAGREEMENT, RANDOM = "unsure", "out of distribution", "disagreement", "random"
_CONSENTS = {"yes": True, "no": False}


def consent_of(metadata: Iterable[tuple[str, str | bytes]]) -> bool | None:
    """Read from the metadata or the headers of a request whether its images may be stored; None if they do not say."""
    for key, value in metadata:
        if key == HEADER and isinstance(value, str):
            return _CONSENTS.get(value.strip().lower(), False)
    return None


def reasons_of(
    *, unsure: bool | None = None, out_of_distribution: bool | None = None, disagreement: bool | None = None
) -> tuple[str, ...]:
    """Return why an image is worth a person's look; empty if nothing is known that speaks for it.

    Args:
        unsure: whether the top score is below the model's threshold; None without one.
        out_of_distribution: whether the image is unlike those that the model was trained on; None if not measured.
        disagreement: whether two versions gave it different labels; None if only one was asked.
    """
    named = ((UNSURE, unsure), (FOREIGN, out_of_distribution), (DISAGREEMENT, disagreement))
    return tuple(name for name, holds in named if holds)


def selected(
    probabilities: Float32[np.ndarray, "n c"],
    abstain_below: float | None,
    share: float,
    out_of_distribution: Sequence[bool] | Bool[np.ndarray, " n"] | None = None,
    disagreement: Sequence[bool] | None = None,
) -> list[tuple[int, tuple[str, ...]]]:
    """Choose the images of a request that are kept.

    Args:
        probabilities: that were answered.
        abstain_below: the model's threshold; None without one.
        share: of the images without a reason that are kept, 0 to 1.
        out_of_distribution: of each image; None if not measured.
        disagreement: of each image; None if only one version was asked.

    Returns:
        Positions, and the reasons of each.
    """
    unsure = None if abstain_below is None else are_unsure(probabilities, abstain_below)
    chosen = []
    for index in range(len(probabilities)):
        reasons = reasons_of(
            unsure=_at(unsure, index),
            out_of_distribution=_at(out_of_distribution, index),
            disagreement=_at(disagreement, index),
        )
        if reasons:
            chosen.append((index, reasons))
        elif share and random.random() < share:  # noqa: S311 - not a secret
            chosen.append((index, (RANDOM,)))
    return chosen


def _at(marks: Sequence[bool] | np.ndarray | None, index: int) -> bool | None:
    return None if marks is None else bool(marks[index])
