"""Turn an image upright, according to its EXIF orientation."""

from PIL import Image

_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THEIR_SIDE = (5, 6, 7, 8)
# Which margin of the stored image (0 left, 1 top, 2 right, 3 bottom) becomes the left, top, right and bottom one.
_UPRIGHT_MARGINS = {
    2: (2, 1, 0, 3),
    3: (2, 3, 0, 1),
    4: (0, 3, 2, 1),
    5: (1, 0, 3, 2),
    6: (3, 0, 1, 2),
    7: (3, 2, 1, 0),
    8: (1, 2, 3, 0),
}


def orientation_of(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 to 8; 1 where there is none or EXIF is broken."""
    try:
        found = int(image.getexif().get(_TAG, 1))
    except Exception:  # noqa: BLE001 - broken EXIF in a good image says nothing about its orientation
        return 1
    return found if found in _TRANSPOSE else 1


def turned_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn or flip a stored image so that it is upright."""
    transpose = _TRANSPOSE.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def upright_box(size: tuple[int, int], box: tuple[float, ...], orientation: int) -> tuple[float, ...]:
    """Compute where a box of a stored image lies once the image is upright.

    Args:
        size: (width, height) as stored.
        box: (left, top, right, bottom) in pixels of the stored image.
        orientation: 1 to 8.

    Returns:
        (left, top, right, bottom) in pixels of the upright image.
    """
    stored = (box[0], box[1], size[0] - box[2], size[1] - box[3])
    left, top, right, bottom = (stored[side] for side in _UPRIGHT_MARGINS.get(orientation, (0, 1, 2, 3)))
    width, height = size[::-1] if orientation in _ON_THEIR_SIDE else size
    return left, top, width - right, height - bottom
