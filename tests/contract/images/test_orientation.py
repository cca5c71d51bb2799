"""Orientation: boxes turn with their image."""

import numpy as np
import pytest
from PIL import Image

from unfreeze.contract.images.orientation import turned_upright, upright_box

STORED = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_image(orientation: int) -> None:
    """Cropping the stored image and turning it upright equals cropping the upright image at the turned box."""
    stored_box = (3, 5, 33, 28)
    cropped_first = turned_upright(STORED.crop(stored_box), orientation)
    box = upright_box(STORED.size, stored_box, orientation)
    cropped_last = turned_upright(STORED, orientation).crop(tuple(int(side) for side in box))
    assert np.array_equal(np.asarray(cropped_first), np.asarray(cropped_last))
