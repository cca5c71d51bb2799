"""`PreprocessSpec`: validated once, at construction."""

import dataclasses
from typing import Any

import pytest

from unfreeze.contract.images.preprocess import PreprocessSpec


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"resize": ()}, r"resize must have 1 or 2 sizes and crop 2, got \(\)"),
        ({"resize": (1, 2, 3)}, "resize must have 1 or 2 sizes"),
        ({"crop": (8,)}, r"crop 2, got \(10,\) and \(8,\)"),
        ({"resize": (0,)}, r"sizes must be from 1 to 4096 pixels, got resize \(0,\)"),
        ({"resize": (4097,)}, "from 1 to 4096 pixels"),
        ({"crop": (8, -1)}, r"from 1 to 4096 pixels, .* crop \(8, -1\)"),
        ({"crop": (11, 8)}, r"the crop \(11, 8\) is larger than the resized image \(10,\)"),
        ({"resize": (10, 7)}, r"the crop \(8, 8\) is larger than the resized image \(10, 7\)"),
        ({"mean": (0.5, 0.5)}, r"mean and std must have 3 values, std above 0, got \(0.5, 0.5\)"),
        ({"std": (1.0, 0.0, 1.0)}, "std above 0"),
        ({"std": (1.0, -1.0, 1.0)}, "std above 0"),
        ({"deep_range": (0.0,)}, r"deep_range must be a finite low value and a higher one, got \(0\.0,\)"),
        ({"deep_range": (0.0, 1.0, 2.0)}, "a finite low value and a higher one"),
        ({"deep_range": (5.0, 5.0)}, r"got \(5\.0, 5\.0\)"),
        ({"deep_range": (5.0, 4.0)}, r"got \(5\.0, 4\.0\)"),
        ({"deep_range": (0.0, float("nan"))}, "a finite low value and a higher one"),
        ({"deep_range": (0.0, float("inf"))}, "a finite low value and a higher one"),
        ({"deep_range": (-1e300, 1e300)}, "a finite low value and a higher one"),
    ],
)
def test_rejects_impossible_values(changed: dict[str, Any], message: str) -> None:
    """The error says what was given."""
    with pytest.raises(ValueError, match=message):
        PreprocessSpec(**({"resize": (10,), "crop": (8, 8)} | changed))


def test_spec_is_frozen_and_knows_its_shape() -> None:
    """A spec cannot change under the stages that share it; its shape is the prepared image's."""
    spec = PreprocessSpec(resize=(10, 20), crop=(8, 18))
    assert spec.shape == (8, 18, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.resize = (5,)  # type: ignore[misc]
