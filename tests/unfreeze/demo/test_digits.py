"""The digits as files: those of scikit-learn, readable, and split without overlap."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from unfreeze.contract.reporting import Silent
from unfreeze.demo.digits import DIGITS, write_digits
from unfreeze.demo.options import DemoOptions
from unfreeze.tune.data.dataset import read_dataset

pytestmark = pytest.mark.xdist_group("digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All digits."""
    out = tmp_path_factory.mktemp("digits") / "images"
    write_digits(out, DemoOptions(), Silent())
    return out


def test_every_digit_is_written_once(folder: Path) -> None:
    """All 1,797 images, at least 360 of them for validation, each in the folder of its label."""
    dataset, labels = read_dataset(folder), load_digits().target
    assert dataset.labels == tuple("0123456789")
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 1433, "val": 364}
    assert dataset.skipped == ()
    images = [image for split in dataset.splits.values() for image in split]
    assert sorted(int(image.path.stem) for image in images) == list(range(1797))
    assert all(labels[int(image.path.stem)] == image.label for image in images)


def test_files_show_the_digits(folder: Path) -> None:
    """Grayscale PNG files of 64 x 64 pixels that show the original 8 x 8 pixels."""
    for path in sorted((folder / "val").rglob("*.png"))[::20]:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (64, 64))
            reduced = np.asarray(image.reduce(8), float)
        original = load_digits().images[int(path.stem)] * 255 / 16
        assert np.corrcoef(reduced.ravel(), original.ravel())[0, 1] > 0.97


def test_limits_apply_to_each_digit(tmp_path: Path) -> None:
    """--train-per-class and --val-per-class limit the images of each digit."""
    DIGITS.write(tmp_path / "few", DemoOptions(train_per_class=3, val_per_class=1), Silent())
    counts = {split: len(images) for split, images in read_dataset(tmp_path / "few").splits.items()}
    assert counts == {"train": 30, "val": 10}
