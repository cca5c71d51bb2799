"""Whether a mirrored picture is still one of its class: found out from the pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.runs import SPEC
from support.tuning import FLOAT32, small_network

from tune.dataset import read_dataset
from tune.mirror import stays_itself
from tune.pictures import TRAIN, Picture


def _write(folder: Path, brightness: dict[str, tuple[int, int]], count: int) -> tuple[Picture, ...]:
    """Write grainy pictures whose left and right halves are as bright as their class says."""
    rng = np.random.default_rng(0)
    for split, many in ((TRAIN, count), ("val", 1)):
        for label, halves in brightness.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(many):
                pixels = np.repeat(np.array(halves), 40)[None, :, None] + rng.normal(0, 20, (64, 80, 3))
                picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                picture.save(folder / split / label / f"{number}.png")
    return read_dataset(folder).splits[TRAIN]


def test_classes_of_left_and_right_are_not_mirrored(tmp_path: Path) -> None:
    """Where a class is which side is bright, a mirrored picture is one of the other class."""
    pictures = _write(tmp_path, {"left": (200, 60), "right": (60, 200)}, 20)
    assert not stays_itself(small_network("resnet18", classes=2), pictures, SPEC, FLOAT32)


def test_classes_of_brightness_may_be_mirrored(tmp_path: Path) -> None:
    """Where a class is how bright a picture is, on whichever side, mirroring changes nothing."""
    pictures = _write(tmp_path, {"dark": (80, 50), "bright": (200, 230)}, 20)
    assert stays_itself(small_network("resnet18", classes=2), pictures, SPEC, FLOAT32)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_to_tell_are_not_mirrored(count: int, tmp_path: Path) -> None:
    """With one picture of a class nothing can be held out, so nothing is risked; with two, something can."""
    pictures = _write(tmp_path, {"left": (200, 60), "right": (60, 200)}, count)
    if count == 1:
        assert not stays_itself(small_network(classes=2), pictures, SPEC, FLOAT32)
    else:
        assert isinstance(stays_itself(small_network(classes=2), pictures, SPEC, FLOAT32), bool)
