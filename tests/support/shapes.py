"""Images of shapes in two styles of drawing: a model that knows one of them has to learn the other."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from support.images import encode

SHAPES = {"circle": 40, "cross": 0, "square": 4, "triangle": 3}  # number of corners; the cross is drawn by itself
_SIDE = 96


def draw_shape(label: str, seed: int, *, sketched: bool = False) -> bytes:
    """Draw a shape.

    Args:
        label: of `SHAPES`.
        seed: of place, size, turn and colors.
        sketched: as thin light lines on a dark, rough ground instead of a dark area on a light, smooth one.
    """
    random = np.random.default_rng((seed, sketched))
    dark, light = random.integers(0, 90, 3), random.integers(165, 256, 3)
    ground, pen = (dark, light) if sketched else (light, dark)
    rough = random.normal(0, 34 if sketched else 4, (_SIDE, _SIDE, 3))
    image = Image.fromarray((ground + rough).clip(0, 255).astype(np.uint8))
    draw, color = ImageDraw.Draw(image), tuple(pen.tolist())
    center, radius, turn = random.uniform(38, 58, 2), random.uniform(22, 34), random.uniform(0, 2 * math.pi)

    def around(count: int, size: float, start: float = 0.0) -> list[tuple[float, float]]:
        angles = [turn + start + 2 * math.pi * corner / count for corner in range(count)]
        return [(center[0] + size * math.cos(one), center[1] + size * math.sin(one)) for one in angles]

    width = 2 if sketched else 14
    if label == "cross":
        tips = around(4, radius)
        for first, second in ((tips[0], tips[2]), (tips[1], tips[3])):
            draw.line([first, second], color, width)
    elif sketched:
        corners = around(SHAPES[label], radius)
        draw.line([*corners, corners[0]], color, width)
    else:
        draw.polygon(around(SHAPES[label], radius), color)
    return encode(image, "JPEG", quality=90)


def draw_shapes(first_seed: int, each: int, *, sketched: bool = False) -> dict[bytes, str]:
    """Draw so many shapes of each label; return the label of each image."""
    return {
        draw_shape(label, first_seed + 1000 * kind + number, sketched=sketched): label
        for kind, label in enumerate(SHAPES)
        for number in range(each)
    }


def write_shapes(folder: Path, each: int) -> Path:
    """Write a folder with so many shapes for each label."""
    for number, (image, label) in enumerate(draw_shapes(0, each).items()):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:03}.jpg").write_bytes(image)
    return folder
