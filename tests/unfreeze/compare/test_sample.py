"""The images that backbones are compared on."""

from pathlib import Path

import numpy as np
import pytest
from support.images import write_images

from unfreeze.compare.sample import read_sample, stratified_order
from unfreeze.contract.errors import DataError
from unfreeze.contract.reporting import Silent
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.store.store import NO_STORE

OPTIONS = TuneOptions(split_folders="none", val_fraction=0.2)


@pytest.mark.parametrize("count", [12, 25, 50, 100])
def test_every_beginning_has_equal_shares_of_the_classes(count: int) -> None:
    """Of 100 images, 80 are of one class; the first three of each class come first."""
    labels = np.array([0] * 80 + [1] * 20)
    order = stratified_order(labels, 0, 3)
    assert sorted(order) == list(range(100))
    assert np.bincount(labels[order[:6]]).tolist() == [3, 3]
    assert np.bincount(labels[order[:count]])[1] == pytest.approx(count / 5, abs=2)
    assert not np.array_equal(order, stratified_order(labels, 1, 3))


def test_sample_is_the_same_for_the_same_images(tmp_path: Path) -> None:
    """Images, order and digest follow from the data and the seed; another image changes the digest."""
    data = write_images(tmp_path / "data", 10)
    first, again = (read_sample(data, 12, OPTIONS, Silent(), NO_STORE) for _ in range(2))
    assert first == again
    assert (len(first.images), first.classes, first.least) == (12, 3, 9)
    assert len(first.validation) == 6
    (data / "red" / "000.jpg").write_bytes((data / "red" / "001.jpg").read_bytes())
    assert read_sample(data, 12, OPTIONS, Silent(), NO_STORE).digest != first.digest


def test_folds_of_a_beginning_hold_out_each_image_once(tmp_path: Path) -> None:
    """Three folds, each with all classes."""
    sample = read_sample(write_images(tmp_path / "data", 10), 100, OPTIONS, Silent(), NO_STORE)
    folds = sample.folds(12)
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == list(range(12))
    assert all(set(sample.labels[fold.held_out]) == {0, 1, 2} for fold in folds)


def test_classes_with_too_few_images_are_left_out(tmp_path: Path) -> None:
    """A class needs an image for each fold; two classes have to remain."""
    data = write_images(tmp_path / "data", 10)
    for path in sorted((data / "green").iterdir())[2:]:
        path.unlink()
    sample = read_sample(data, 100, OPTIONS, Silent(), NO_STORE)
    assert sample.classes == 2
    assert {(image.path.parent.name, image.label) for image in sample.images} == {("blue", 0), ("red", 1)}
    for path in sorted((data / "blue").iterdir())[2:]:
        path.unlink()
    with pytest.raises(DataError, match="1 class has 3 or more training images"):
        read_sample(data, 100, OPTIONS, Silent(), NO_STORE)
