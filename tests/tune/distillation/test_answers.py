"""A teacher is asked once about every view of an image, in the views that the student sees."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from support.runs import SPEC
from support.stores import AMPLE
from support.tuning import training_images

from unfreeze.contract.errors import DataError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.views import Views, load_view
from unfreeze.tune.distillation.answers import Answers, ask
from unfreeze.tune.distillation.teacher import Teacher, TeacherIdentity
from unfreeze.tune.store.store import FeatureStore

WIDE = PreprocessSpec(resize=(56,), crop=(48, 48))


@dataclass(frozen=True, kw_only=True)
class ColorTeacher:
    """Answers with the mean color of an image; records what it was asked."""

    spec: PreprocessSpec = SPEC
    sha256: str = "0" * 64
    batch: int = 4
    labels: tuple[str, ...] = ("red", "green", "blue")
    asked: list[np.ndarray] = field(default_factory=list)

    @property
    def identity(self) -> TeacherIdentity:
        """Which model it is."""
        return TeacherIdentity(name="color", version="", backbone="mean", sha256=self.sha256)

    def describe(self) -> dict[str, Any]:
        """Describe what its answers depend on."""
        return {"weights": self.sha256}

    def answer(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logarithm of the share of each color."""
        self.asked.append(pixels)
        means = pixels.mean(axis=(1, 2), dtype=np.float32) + 1
        return np.log(means / means.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabeledImage, ...]:
    """Three images of each of three colors, of 80 by 64 pixels."""
    return training_images(tmp_path_factory.mktemp("images"), 3)


Ask = Callable[..., Answers]


@pytest.fixture
def asking(images: tuple[LabeledImage, ...], tmp_path: Path) -> Ask:
    """Ask a teacher in two views, with a store."""
    digests = {image.path: hashlib.sha256(image.path.read_bytes()).digest() for image in images}

    def asked(teacher: Teacher, order: tuple[int, ...] = (0, 1, 2), bound_bytes: int = AMPLE) -> Answers:
        views = Views(spec=SPEC, count=2, seed=5)
        with FeatureStore(bound_bytes, tmp_path / "store") as store:
            return ask(teacher, order, images, views, store, digests)

    return asked


def test_a_second_run_asks_nothing(asking: Ask) -> None:
    """All answers are stored by the teacher's digest: it computes no row again, and answers the same, bit for bit."""
    first, second = ColorTeacher(), ColorTeacher()
    found, again = asking(first), asking(second)
    assert (found.computed, again.computed) == (9, 0)
    assert (len(first.asked), second.asked) == (5, [])
    assert found.values.shape == (9, 2, 3)
    assert torch.equal(found.values, again.values)
    assert asking(ColorTeacher(sha256="1" * 64)).computed == 9
    assert asking(ColorTeacher(), bound_bytes=0).computed == 9


def test_answers_are_in_the_order_of_the_students_labels(asking: Ask) -> None:
    """Whatever the order of the teacher's, also if they are stored."""
    plain = asking(ColorTeacher()).values
    assert torch.equal(asking(ColorTeacher(), order=(2, 0, 1)).values, plain[..., [2, 0, 1]])
    assert plain[:, 0].argmax(1).tolist() == [2, 2, 2, 1, 1, 1, 0, 0, 0]  # labels are sorted: blue, green, red


def test_the_teacher_sees_the_students_views(asking: Ask, images: tuple[LabeledImage, ...]) -> None:
    """With the same preprocessing, the very pixels; batches are filled up."""
    teacher = ColorTeacher()
    asking(teacher)
    seen = np.concatenate(teacher.asked)
    assert [len(batch) for batch in teacher.asked] == [4] * 5
    views = Views(spec=SPEC, count=2, seed=5)
    expected = [load_view(image, views, number) for image in images for number in range(2)]
    assert np.array_equal(seen[:18], np.stack(expected))
    assert np.array_equal(seen[18:], np.stack(expected[-1:] * 2))


def test_a_teacher_of_another_size_sees_the_same_crop(asking: Ask, tmp_path: Path) -> None:
    """A random view of 48 pixels, reduced, is that of 32: crop, rotation and colors depend on the file's name alone."""
    teacher = ColorTeacher(spec=WIDE)
    asking(teacher)
    assert teacher.asked[0].shape == (4, 48, 48, 3)
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[30:90, 40:70], pixels[10:50, 90:150] = (200, 40, 40), (40, 40, 200)
    path = tmp_path / "shapes.png"
    Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(4)).save(path)
    image = LabeledImage(path=path, label=0)
    small, large = (load_view(image, Views(spec=spec, count=2, seed=5), 1) for spec in (SPEC, WIDE))
    reduced = np.asarray(Image.fromarray(large).resize((32, 32), Image.Resampling.BOX), np.float32)
    assert np.abs(reduced - small).mean() < 4


def test_an_image_that_disappeared_is_an_error(tmp_path: Path) -> None:
    """Images were inspected before; one that is gone since then has no answer."""
    gone = LabeledImage(path=tmp_path / "gone.jpg", label=0)
    with FeatureStore(0, tmp_path) as store, pytest.raises(DataError, match=r"gone\.jpg can no longer be decoded"):
        ask(ColorTeacher(), (0, 1, 2), [gone], Views(spec=SPEC), store, {})
