"""Stratified folds and subsets."""

import numpy as np
import pytest

from unfreeze.tune.data.folds import stratified_folds, stratified_part

UNEVEN = np.array([0] * 600 + [1] * 300 + [2] * 98 + [3] * 2)


def test_a_subset_has_its_share_of_each_class() -> None:
    """A tenth of 1,000 images: 60, 30 and 9 of three classes, none of a class of two; each once, in order."""
    rows = stratified_part(UNEVEN, 100, 0)
    assert np.bincount(UNEVEN[rows], minlength=4).tolist() == [60, 30, 9, 0]
    assert (np.diff(rows) > 0).all()


def test_a_subset_has_a_minimum_of_each_class() -> None:
    """Twelve of each class, or all if it has fewer, however small its share."""
    rows = stratified_part(UNEVEN, 100, 0, least=12)
    assert np.bincount(UNEVEN[rows]).tolist() == [60, 30, 12, 2]


@pytest.mark.parametrize("count", [1000, 5000])
def test_a_subset_of_all_is_all(count: int) -> None:
    """No image is drawn twice, also when more are requested than there are."""
    assert stratified_part(UNEVEN, count, 0).tolist() == list(range(1000))


def test_subsets_depend_on_their_seed() -> None:
    """Equal seeds draw the same subset, others do not."""
    drawn = [stratified_part(UNEVEN, 100, seed).tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_folds_hold_each_image_out_once() -> None:
    """Every image is held out in one fold and trains in the others; a class of two images limits the folds to two."""
    folds = stratified_folds(UNEVEN, 5, 0)
    assert len(folds) == 2
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == list(range(1000))
    for fold in folds:
        assert sorted([*fold.train, *fold.held_out]) == list(range(1000))
        assert np.bincount(UNEVEN[fold.held_out]).tolist() == [300, 150, 49, 1]
    assert stratified_folds(np.array([0, 0, 1]), 3, 0) == ()
