"""Split labeled images into folds, or take a part of them, with the share of each class."""

from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold


class Fold(NamedTuple):
    """Which images train and which are held out, int64."""

    train: np.ndarray
    held_out: np.ndarray


def stratified_folds(labels: np.ndarray, count: int, seed: int) -> tuple[Fold, ...]:
    """Split images so that every fold has its share of each class.

    Args:
        labels: int64 [N].
        count: the most folds; fewer where a class has fewer images.
        seed: of the split.

    Returns:
        The folds; none where a class has a single image.
    """
    folds = min(count, int(np.bincount(labels).min()))
    if folds < 2:  # noqa: PLR2004
        return ()
    split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    return tuple(Fold(train, held_out) for train, held_out in split)


def stratified_part(labels: np.ndarray, count: float, seed: int, *, least: int = 0) -> np.ndarray:
    """Draw about so many images, of each class its share, rounded down.

    Args:
        labels: int64 [N].
        count: how many, more or less.
        seed: of the draw.
        least: so many of each class are taken, or all where it has fewer.

    Returns:
        Their numbers, rising, int64.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        wanted = max(least, int(len(rows) * min(1.0, count / len(labels))))
        parts.append(rng.permutation(rows)[:wanted])
    return np.sort(np.concatenate(parts))
