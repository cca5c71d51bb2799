"""Random images of the 17 wallpaper groups, whose labels are true by construction."""

import numpy as np
from PIL import Image, ImageFilter

from unfreeze.contract.arrays import UInt8
from unfreeze.demo.wallpaper.pattern import Pattern, random_pattern

_SUPERSAMPLING = 3
_LARGEST_CELL = 1024


def draw(group: str, rng: np.random.Generator, size: int = 192) -> UInt8[np.ndarray, "size size 3"]:
    """Draw a random image of a wallpaper group, with blur, uneven light and noise as in a photograph.

    Args:
        group: One of `groups.GROUPS`.
        rng: Random generator; the same state gives the same image.
        size: Side of the image in pixels.

    Returns:
        RGB, uint8; about 3 to 5 periods of the pattern across.

    Raises:
        ValueError: The group is unknown.
    """
    pattern = random_pattern(group, rng)
    image = render(
        pattern,
        size,
        scale_px=size / rng.uniform(2.8, 5.0),
        angle=rng.uniform(0, 2 * np.pi),
        offset=(rng.random(), rng.random()),
    )
    return _photograph(image, rng)


def render(
    pattern: Pattern, size: int, scale_px: float, angle: float, offset: tuple[float, float] = (0.0, 0.0)
) -> UInt8[np.ndarray, "size size 3"]:
    """Render a pattern without blur or noise.

    The center of the pixel in row r and column c shows the point
    R(-angle) @ ((c + 0.5, r + 0.5) - size / 2) / scale_px + offset of the plane, where R is a rotation.

    Args:
        pattern: The pattern.
        size: Side of the image in pixels.
        scale_px: Pixels per unit of the plane, which is about one period.
        angle: Rotation of the image in radians.
        offset: Point of the plane at the center of the image.

    Returns:
        RGB, uint8; each pixel is the mean of 9 samples.
    """
    samples = size * _SUPERSAMPLING
    cell_size = min(_LARGEST_CELL, 1 << int(np.ceil(np.log2(max(2 * scale_px, 16)))))
    texture = np.full((cell_size, cell_size, 4), 255, np.uint8)
    texture[..., :3] = pattern.cell(cell_size)
    steps = ((np.arange(samples) + 0.5) / _SUPERSAMPLING - size / 2) / scale_px
    to_cell = np.linalg.inv(pattern.basis) * cell_size
    cos, sin = np.cos(angle), np.sin(angle)
    along_columns = np.outer(steps, np.array([cos, -sin]) @ to_cell)
    along_rows = np.outer(steps, np.array([sin, cos]) @ to_cell) + np.array(offset) @ to_cell + 0.5
    # Fixed-point numbers with 16 fractional bits: sum, floor and remainder need integer arithmetic only.
    columns, rows = (np.rint(axis * 65536).astype(np.int64).T for axis in (along_columns, along_rows))
    first, second = (
        ((row[:, None] + column) >> 16) & (cell_size - 1) for row, column in zip(rows, columns, strict=True)
    )
    sampled = texture.view(np.uint32).ravel()[first * cell_size + second]
    image = Image.frombuffer("RGBX", (samples, samples), sampled.tobytes(), "raw", "RGBX", 0, 1)
    return np.asarray(image.reduce(_SUPERSAMPLING))[..., :3].copy()


def _photograph(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Add slight blur, uneven light and noise."""
    height, width, _ = image.shape
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, 0.9))))
    across, down = rng.uniform(-0.12, 0.12, 2)
    light = rng.uniform(0.85, 1.1) + np.linspace(-across, across, width) + np.linspace(-down, down, height)[:, None]
    noise = rng.standard_normal((height, width), np.float32) * rng.uniform(0.0, 7.0)
    lit = np.asarray(blurred, np.float32) * light.astype(np.float32)[..., None] + noise[..., None]
    return np.clip(lit + 0.5, 0, 255).astype(np.uint8)
