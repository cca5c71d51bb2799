"""Views of an image: the image as served, and random versions of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.images import draw_image, encode

from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.views import Views, load_view, load_views, make_views

SPEC = PreprocessSpec(resize=(32,), crop=(32, 32))
UNFLIPPED = Views(spec=SPEC, count=64, flip=False)


def _corner() -> bytes:
    """An image whose upper left quarter is white and the rest black."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :32] = 255
    return encode(Image.fromarray(pixels), "PNG")


def _bright_quarter(view: np.ndarray) -> tuple[bool, bool]:
    """Whether the brightest quarter is the lower one, and the right one."""
    means = view.astype(float).mean(2).reshape(2, 16, 2, 16).mean((1, 3))
    row, column = divmod(int(means.argmax()), 2)
    return bool(row), bool(column)


def test_the_first_view_is_the_image_as_served() -> None:
    """Whatever the number of views and the seed."""
    data = encode(draw_image((200, 80, 30), 1), "PNG")
    views = make_views(data, "1.png", Views(spec=SPEC, count=3, seed=7))
    assert np.array_equal(views[0], prepare(data, SPEC))
    assert not np.array_equal(views[1], views[2])


@pytest.mark.parametrize(("views", "fewest", "most"), [(Views(spec=SPEC, count=64), 16, 48), (UNFLIPPED, 0, 0)])
def test_random_views_are_flipped_horizontally_and_never_vertically(views: Views, fewest: int, most: int) -> None:
    """About half of them, if flips are allowed; the upper half stays the upper half."""
    corners = [_bright_quarter(view) for view in make_views(_corner(), "corner.png", views)[1:]]
    assert not any(lower for lower, _ in corners)
    assert fewest <= sum(right for _, right in corners) <= most


def test_views_depend_on_the_seed_and_the_name_of_the_file() -> None:
    """The same again for equal ones, so that a cache can be rebuilt."""
    data = encode(draw_image((200, 80, 30), 1), "PNG")

    def second(name: str, seed: int) -> bytes:
        return make_views(data, name, Views(spec=SPEC, count=2, seed=seed))[1].tobytes()

    assert second("1.png", 7) == second("1.png", 7)
    assert len({second("1.png", 7), second("2.png", 7), second("1.png", 8)}) == 3


def test_files_that_cannot_be_decoded_are_skipped(tmp_path: Path) -> None:
    """The others come in their order, and each view can be made alone."""
    for name, data in (("a.png", _corner()), ("b.png", b"x"), ("c.png", _corner())):
        (tmp_path / name).write_bytes(data)
    images = [LabeledImage(path=tmp_path / name, label=0) for name in ("a.png", "b.png", "c.png", "none.png")]
    views, skipped = Views(spec=SPEC, count=2), []
    loaded = list(load_views(images, views, skipped))
    assert [image.path.name for image, _ in loaded] == ["a.png", "c.png"]
    assert [item.path.name for item in skipped] == ["b.png", "none.png"]
    for number in range(2):
        assert np.array_equal(load_view(images[0], views, number), loaded[0][1][number])
