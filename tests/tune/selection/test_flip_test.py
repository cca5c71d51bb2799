"""The test whether flipped images are still classified correctly."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.runs import SPEC
from support.tuning import FLOAT32, small_network

from unfreeze.tune.data.dataset import read_dataset
from unfreeze.tune.data.images import TRAIN, LabeledImage
from unfreeze.tune.selection.flip_test import tolerates_flips


def _write(folder: Path, brightness: dict[str, tuple[int, int]], count: int) -> tuple[LabeledImage, ...]:
    """Write noisy images whose class determines the brightness of their left and right halves."""
    rng = np.random.default_rng(0)
    for split, many in ((TRAIN, count), ("val", 1)):
        for label, halves in brightness.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(many):
                pixels = np.repeat(np.array(halves), 40)[None, :, None] + rng.normal(0, 20, (64, 80, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / split / label / f"{number}.png")
    return read_dataset(folder).splits[TRAIN]


def test_rejects_flips_if_classes_differ_in_left_and_right(tmp_path: Path) -> None:
    """If the bright side makes the class, a flipped image belongs to the other class."""
    images = _write(tmp_path, {"left": (200, 60), "right": (60, 200)}, 20)
    assert not tolerates_flips(small_network("resnet18"), images, SPEC, FLOAT32)


def test_accepts_flips_if_classes_differ_in_brightness(tmp_path: Path) -> None:
    """If the brightness makes the class, flipping changes nothing."""
    images = _write(tmp_path, {"dark": (80, 50), "bright": (200, 230)}, 20)
    assert tolerates_flips(small_network("resnet18"), images, SPEC, FLOAT32)


def test_rejects_flips_with_too_few_images(tmp_path: Path) -> None:
    """Three images per class are too few to hold any out."""
    images = _write(tmp_path, {"dark": (80, 50), "bright": (200, 230)}, 3)
    assert not tolerates_flips(small_network(), images, SPEC, FLOAT32)


def test_leaves_out_a_rare_class(tmp_path: Path) -> None:
    """A class of two images is left out, and the others decide."""
    images = _write(tmp_path, {"dark": (80, 50), "bright": (200, 230), "rare": (140, 140)}, 20)
    some = tuple(one for one in images if one.label != 2) + tuple(one for one in images if one.label == 2)[:2]
    assert tolerates_flips(small_network("resnet18"), some, SPEC, FLOAT32)


def test_rejects_flips_if_classes_are_not_separable(tmp_path: Path) -> None:
    """If accuracy is at chance, it cannot show what flipping changes."""
    images = _write(tmp_path, {"one": (120, 120), "two": (120, 120)}, 20)
    assert not tolerates_flips(small_network("resnet18"), images, SPEC, FLOAT32)


@pytest.mark.parametrize("counts", [(4, 1), (6, 3, 0), (3, 3), (1, 1), (4, 3, 2, 1)])
def test_rejects_flips_if_fewer_than_two_classes_have_four_images(counts: tuple[int, ...], tmp_path: Path) -> None:
    """Rare classes are left out; a single class or none is not given to a classifier."""
    classes = {str(label): (40 * label, 255 - 40 * label) for label in range(len(counts))}
    images = _write(tmp_path, classes, max(counts))
    some = [one for label, count in enumerate(counts) for one in [one for one in images if one.label == label][:count]]
    assert not tolerates_flips(small_network(), some, SPEC, FLOAT32)
