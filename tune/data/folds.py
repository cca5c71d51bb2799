"""Stratified folds and subsets of labeled images."""

from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold


class Fold(NamedTuple):
    """Indices of the training images and of the held-out images, int64."""

    train: np.ndarray
    held_out: np.ndarray


def stratified_folds(labels: np.ndarray, count: int, seed: int) -> tuple[Fold, ...]:
    """Split images into folds with equal shares of each class.

    Args:
        labels: int64 [N].
        count: number of folds; reduced to the size of the smallest class.
        seed: random seed of the split.

    Returns:
        The folds; empty if a class has a single image.
    """
    folds = min(count, int(np.bincount(labels).min()))
    if folds < 2:  # noqa: PLR2004
        return ()
    split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    return tuple(Fold(train, held_out) for train, held_out in split)


def stratified_part(labels: np.ndarray, count: float, seed: int, *, least: int = 0) -> np.ndarray:
    """Draw a random subset with equal shares of each class, rounded down.

    Args:
        labels: int64 [N].
        count: approximate number of images.
        seed: random seed of the draw.
        least: minimum number per class; a class with fewer images is used completely.

    Returns:
        Indices in ascending order, int64.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        wanted = max(least, int(len(rows) * min(1.0, count / len(labels))))
        parts.append(rng.permutation(rows)[:wanted])
    return np.sort(np.concatenate(parts))
