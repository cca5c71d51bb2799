"""Figures made of polygons: a random motif and its copies under the isometries of the class."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from bench.pretrain.colors import chance, draw_palette, paint_field, stretch
from bench.pretrain.draw_textures import draw_backdrop, draw_noise
from bench.pretrain.isometries import frieze, rosette, rotation, shift, similarity

OVERSAMPLING = 2


class Stroke(NamedTuple):
    """Part of a motif: points [n, 2], and the width of a line in the same unit, or 0 for a filled polygon."""

    points: np.ndarray
    width: float


def draw_motif(rng: np.random.Generator, pieces: int) -> list[Stroke]:
    """Draw an asymmetric motif in the box +-1.

    Args:
        rng: Random generator.
        pieces: Number of strokes.

    Returns:
        The strokes, in the order of painting.
    """
    return [_draw_stroke(rng, rng.uniform(-0.7, 0.7, 2), rng.uniform(0.25, 0.75)) for _ in range(pieces)]


def draw_rosettes(rng: np.random.Generator, order: int, reflected: bool, side_px: int) -> np.ndarray:  # noqa: FBT001
    """Draw one to nine figures with the same point group, C_n or D_n.

    Args:
        rng: Random generator.
        order: Order n of the rotation.
        reflected: Whether the figures have reflection symmetry.
        side_px: Side of the image in pixels.

    Returns:
        RGB image, [side, side, 3], float32 in [0, 255].
    """
    painter = _draw_soft_rosette if chance(rng, 0.2) else _draw_sharp_rosette
    image, group = draw_backdrop(rng, side_px), rosette(order, reflected=reflected)
    one_kind, state = chance(rng, 0.8), rng.integers(2**31)
    for center, radius in _scatter(rng, int(rng.choice([1, 2, 3], p=[0.15, 0.45, 0.4])), side_px):
        kind = np.random.default_rng(state) if one_kind else rng
        image = painter(kind, image, group, similarity(center, radius, rng.uniform(0, 2 * np.pi)))
    return image


def draw_flock(rng: np.random.Generator, order: int, reflected: bool, side_px: int) -> np.ndarray:  # noqa: FBT001
    """Draw copies of one motif in the orientations of a point group, at irregular positions.

    Args:
        rng: Random generator.
        order: Order n of the rotation, or 0 for arbitrary angles.
        reflected: Whether some of the copies are reflected.
        side_px: Side of the image in pixels.

    Returns:
        RGB image, [side, side, 3], float32 in [0, 255].
    """
    motif, axis = draw_motif(rng, int(rng.integers(2, 5))), rng.uniform(0, 2 * np.pi)
    group, frames = rosette(max(order, 1), reflected=reflected), []
    for center, radius in _scatter(rng, int(rng.integers(3, 6)), side_px, size_range=(0.45, 0.6)):
        angle = axis if order else rng.uniform(0, 2 * np.pi)
        frames.append(similarity(center, radius, angle) @ group[rng.integers(len(group))])
    return paint_strokes(draw_backdrop(rng, side_px), motif, np.stack(frames), draw_palette(rng, len(motif)))


def draw_frieze(rng: np.random.Generator, name: str, side_px: int) -> np.ndarray:
    """Draw one to three parallel bands with the same frieze group.

    Args:
        rng: Random generator.
        name: One of `isometries.FRIEZES`.
        side_px: Side of the image in pixels.

    Returns:
        RGB image, [side, side, 3], float32 in [0, 255].
    """
    image, bands, turn = draw_backdrop(rng, side_px), int(rng.integers(1, 4)), rng.uniform(0, 2 * np.pi)
    for band in range(bands):
        radius = side_px / bands * rng.uniform(0.22, 0.32)
        group = frieze(name, rng.uniform(1.6, 3.2), int(np.ceil(side_px / radius / 1.6)) + 1)
        base = shift(rng.uniform(-0.3, 0.3), rng.choice([-1, 1]) * rng.uniform(0.3, 0.7))
        offset = shift(0.0, (band - (bands - 1) / 2) * side_px / bands / radius)
        frames = similarity((side_px / 2, side_px / 2), radius, turn) @ offset @ group @ base
        motif = draw_motif(rng, int(rng.integers(2, 5)))
        image = paint_strokes(image, motif, frames, draw_palette(rng, len(motif)))
    return image


def draw_stars(rng: np.random.Generator, corners: int, star: bool, side_px: int) -> np.ndarray:  # noqa: FBT001
    """Draw regular polygons or stars with a given number of corners.

    Args:
        rng: Random generator.
        corners: Number of corners.
        star: Whether to draw stars.
        side_px: Side of the image in pixels.

    Returns:
        RGB image, [side, side, 3], float32 in [0, 255].
    """
    image = draw_backdrop(rng, side_px)
    angles = np.arange(corners * 2) * np.pi / corners
    radii = np.where(np.arange(corners * 2) % 2, rng.uniform(0.35, 0.6) if star else np.cos(np.pi / corners), 1.0)
    points = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], -1)
    width = 0.0 if chance(rng, 0.6) else rng.uniform(0.08, 0.25)
    points = np.concatenate([points, points[:2]])
    for center, radius in _scatter(rng, int(rng.integers(1, 5)), side_px):
        frame = similarity(center, radius, rng.uniform(0, 2 * np.pi))[None]
        image = paint_strokes(image, [Stroke(points, width)], frame, draw_palette(rng, 1))
    return image


def paint_strokes(image: np.ndarray, motif: list[Stroke], frames: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Paint all copies of one stroke before the next stroke, so that overlaps preserve the symmetry.

    Args:
        image: Background, [h, w, 3], in [0, 255].
        motif: The strokes.
        frames: Maps from the motif to pixels, one per copy, [k, 3, 3].
        palette: Color of each stroke, [n, 3] in [0, 255].

    Returns:
        RGB image, [h, w, 3], float32 in [0, 255].
    """
    height, width = image.shape[:2]
    canvas = Image.fromarray(image.astype(np.uint8)).resize((width * OVERSAMPLING, height * OVERSAMPLING), 0)
    pen = ImageDraw.Draw(canvas)
    scale = OVERSAMPLING * np.sqrt(np.abs(np.linalg.det(frames[0, :2, :2])))
    for stroke, color in zip(motif, palette, strict=True):
        ink, wide = tuple(int(value) for value in color), max(2, round(stroke.width * scale))
        placed = stroke.points @ frames[:, :2, :2].swapaxes(1, 2) + frames[:, None, :2, 2]
        for points in (placed * OVERSAMPLING).reshape(len(frames), -1).tolist():
            if stroke.width:
                pen.line(points, ink, wide, joint="curve")
            else:
                pen.polygon(points, ink)
    return np.asarray(canvas.reduce(OVERSAMPLING), np.float32)


def _draw_stroke(rng: np.random.Generator, center: np.ndarray, size: float) -> Stroke:
    kind = rng.random()
    if kind < 0.35:  # noqa: PLR2004
        return Stroke(center + rng.uniform(-size, size, (int(rng.integers(3, 5)), 2)), 0.0)
    if kind < 0.6:  # noqa: PLR2004
        bend = np.cumsum(rng.uniform(-size, size, (int(rng.integers(2, 5)), 2)), 0)
        return Stroke(center + bend - bend.mean(0), rng.uniform(0.08, 0.3))
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    waves = 1 + sum(rng.uniform(-0.4, 0.4) / k * np.cos(k * angles + rng.uniform(0, 6.3)) for k in (1, 2, 3))
    flat = np.stack([np.cos(angles) * waves, np.sin(angles) * waves * rng.uniform(0.3, 1)], -1)
    return Stroke(center + 0.7 * size * flat @ rotation(rng.uniform(0, 6.3))[:2, :2], 0.0)


def _scatter(
    rng: np.random.Generator, across: int, side_px: int, size_range: tuple[float, float] = (0.4, 0.55)
) -> list[tuple[tuple[float, float], float]]:
    """Choose centers and radii in pixels, at most one per cell of a jittered grid."""
    cell, places = side_px / across, []
    for row, column in np.ndindex(across, across):
        x, y = (np.array([column, row]) + 0.5 + rng.uniform(-0.15, 0.15, 2)) * cell
        if across == 1 or chance(rng, 0.85):
            places.append(((x, y), cell * rng.uniform(*size_range)))
    return places or [((side_px / 2, side_px / 2), cell / 2)]


def _draw_sharp_rosette(
    rng: np.random.Generator, image: np.ndarray, group: np.ndarray, frame: np.ndarray
) -> np.ndarray:
    motif = draw_motif(rng, int(rng.integers(2, 6)))
    return paint_strokes(image, motif, frame @ group @ shift(rng.uniform(0, 0.3)), draw_palette(rng, len(motif)))


def _draw_soft_rosette(rng: np.random.Generator, image: np.ndarray, group: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Fill a disk with smooth noise that is averaged over the group."""
    noise, palette = draw_noise(rng, 128, rng.uniform(1.3, 2)), draw_palette(rng, int(rng.integers(2, 5)))
    radius, (x, y) = np.hypot(*frame[:2, 0]), frame[:2, 2]
    rows, columns = (np.arange(max(0, int(c - radius)), min(len(image), int(c + radius) + 1)) for c in (y, x))
    spot = np.stack(np.broadcast_arrays(columns[None, :], rows[:, None], 1.0), -1) @ np.linalg.inv(frame).T
    inside = np.hypot(spot[..., 0], spot[..., 1]) < 1
    places = (spot[inside] @ group.swapaxes(1, 2) * rng.uniform(20, 45) + 64).astype(np.int64) % 128
    summed = stretch(noise[places[..., 1], places[..., 0]].mean(0)[None])[0]
    levels = int(rng.integers(2, 5))
    field = np.floor(summed * levels) / (levels - 1) if chance(rng, 0.5) else summed
    image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][inside] = paint_field(field[None], palette)[0]
    return image
