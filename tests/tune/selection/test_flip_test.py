"""Whether a flipped image is still one of its class: found out from the images."""

from pathlib import Path

import numpy as np
from PIL import Image
from support.runs import SPEC
from support.tuning import FLOAT32, small_network

from unfreeze.tune.data.dataset import read_dataset
from unfreeze.tune.data.images import TRAIN, LabeledImage
from unfreeze.tune.selection.flip_test import stays_itself


def _write(folder: Path, brightness: dict[str, tuple[int, int]], count: int) -> tuple[LabeledImage, ...]:
    """Write grainy images whose left and right halves are as bright as their class says."""
    rng = np.random.default_rng(0)
    for split, many in ((TRAIN, count), ("val", 1)):
        for label, halves in brightness.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(many):
                pixels = np.repeat(np.array(halves), 40)[None, :, None] + rng.normal(0, 20, (64, 80, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / split / label / f"{number}.png")
    return read_dataset(folder).splits[TRAIN]


def test_classes_of_left_and_right_are_not_flipped(tmp_path: Path) -> None:
    """Where a class is which side is bright, a flipped image is one of the other class."""
    images = _write(tmp_path, {"left": (200, 60), "right": (60, 200)}, 20)
    assert not stays_itself(small_network("resnet18"), images, SPEC, FLOAT32)


def test_classes_of_brightness_may_be_flipped(tmp_path: Path) -> None:
    """Where a class is how bright an image is, on whichever side, flipping changes nothing."""
    images = _write(tmp_path, {"dark": (80, 50), "bright": (200, 230)}, 20)
    assert stays_itself(small_network("resnet18"), images, SPEC, FLOAT32)


def test_too_few_to_tell_are_not_flipped(tmp_path: Path) -> None:
    """With three images of each class too little is held out, so nothing is risked."""
    images = _write(tmp_path, {"dark": (80, 50), "bright": (200, 230)}, 3)
    assert not stays_itself(small_network(), images, SPEC, FLOAT32)


def test_a_rare_class_is_left_out_of_the_question(tmp_path: Path) -> None:
    """A class of two images answers nothing, and the others do."""
    images = _write(tmp_path, {"dark": (80, 50), "bright": (200, 230), "rare": (140, 140)}, 20)
    some = tuple(one for one in images if one.label != 2) + tuple(one for one in images if one.label == 2)[:2]
    assert stays_itself(small_network("resnet18"), some, SPEC, FLOAT32)


def test_what_is_told_by_chance_alone_is_not_flipped(tmp_path: Path) -> None:
    """Where a classifier cannot tell the classes, it cannot tell what flipping does to them either."""
    images = _write(tmp_path, {"one": (120, 120), "two": (120, 120)}, 20)
    assert not stays_itself(small_network("resnet18"), images, SPEC, FLOAT32)
