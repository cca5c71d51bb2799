"""The labels of a teacher are matched by name."""

import pytest

from unfreeze.contract.errors import DataError
from unfreeze.tune.distillation.teacher import match_labels


def test_labels_may_have_another_order() -> None:
    """For each label of the student, the place in the teacher's answers."""
    assert match_labels(("cat", "ant", "bee"), ("ant", "bee", "cat"), "big") == [1, 2, 0]


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            ("ant",),
            r"the labels of the teacher big are not those of the images: the teacher lacks bee\. A teacher must",
        ),
        (("ant", "bee", "cat"), r": the images lack cat\. A teacher must"),
        (("ant", "Bee"), r"the teacher lacks bee \(differs only in spelling from 'Bee'\); the images lack Bee\."),
    ],
)
def test_other_labels_are_an_error_that_names_them(teacher: tuple[str, ...], message: str) -> None:
    """The labels that either of them lacks, also those that differ only in case."""
    with pytest.raises(DataError, match=message):
        match_labels(teacher, ("ant", "bee"), "big")
