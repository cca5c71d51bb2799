"""What a teacher is: a classifier with the student's labels, which answers once for every view of an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.counted import first_few
from unfreeze.contract.errors import DataError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.data.labels import describe_unknown

LEAST_PROBABILITY = 1e-30  # its logarithm is finite


@dataclass(frozen=True, kw_only=True)
class TeacherIdentity:
    """Which model teaches.

    Args:
        name: the folder of its run, or its name in a model repository.
        version: in a model repository; empty for a run or another file.
        backbone: of its network.
        sha256: SHA-256 of its weights or of its model file.
    """

    name: str
    version: str
    backbone: str
    sha256: str

    def __str__(self) -> str:
        """Describe it in a few words."""
        return f"{self.name}{f' version {self.version}' if self.version else ''} ({self.backbone})"


@runtime_checkable
class Teacher(Protocol):
    """A classifier.

    Args:
        identity: which model it is.
        labels: in the order of its answers.
        spec: how it prepares images.
        batch: images that it classifies at a time. Every batch has this size, so that an answer does not depend on the
            other images.
    """

    @property
    def identity(self) -> TeacherIdentity: ...  # noqa: D102

    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def spec(self) -> PreprocessSpec: ...  # noqa: D102

    @property
    def batch(self) -> int: ...  # noqa: D102

    def describe(self) -> dict[str, Any]:
        """Describe everything that answers depend on besides the image and its view, in types that JSON has."""

    def answer(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Return the logarithms of the calibrated probabilities of prepared images, at most `batch`."""


def match_labels(teacher: Sequence[str], student: Sequence[str], name: str) -> list[int]:
    """Find the student's labels among the teacher's.

    Args:
        teacher: labels of the teacher.
        student: labels of the dataset.
        name: of the teacher, for the message.

    Returns:
        For each label of the student, its index in the teacher's.

    Raises:
        DataError: one of them has a label that the other one lacks.
    """
    places = {label: index for index, label in enumerate(teacher)}
    missing = [label for label in student if label not in places]
    surplus = [label for label in teacher if label not in set(student)]
    if not missing and not surplus:
        return [places[label] for label in student]
    parts = []
    if missing:
        parts.append(f"the teacher lacks {first_few(describe_unknown([label], teacher) for label in missing)}")
    if surplus:
        parts.append(f"the images lack {first_few(surplus)}")
    raise DataError(
        f"the labels of the teacher {name} are not those of the images: {'; '.join(parts)}. A teacher must have the "
        "same labels, in any order: use one that was tuned on the same classes"
    )
