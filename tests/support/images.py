"""Small images that a small network can classify."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}


def draw_image(color: tuple[int, int, int], seed: int, size: tuple[int, int] = (80, 64)) -> Image.Image:
    """Draw noise around a color."""
    noise = np.random.default_rng(seed).normal(0, 40, (size[1], size[0], 3))
    return Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Encode an image in one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_images(folder: Path, per_class: int, first_seed: int = 0) -> Path:
    """Write a folder with `per_class` images for each color."""
    for index, (label, color) in enumerate(COLORS.items()):
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            seed = first_seed + 1000 * index + number
            (folder / label / f"{number:03}.jpg").write_bytes(encode(draw_image(color, seed)))
    return folder
