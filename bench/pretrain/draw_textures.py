"""Textures by kind and parameter: waves, filtered noise, Voronoi cells, spots, Truchet tiles, warped bands."""

from collections.abc import Callable

import numpy as np

from bench.pretrain.colors import draw_palette, paint_field, stretch


def draw_noise(rng: np.random.Generator, side_px: int, exponent: float, aspect: float = 1.0) -> np.ndarray:
    """Draw noise whose amplitude decreases as frequency^-exponent, stretched along a random direction.

    Args:
        rng: Random generator.
        side_px: Side of the image in pixels.
        exponent: 0 is white noise, 1 is close to natural images, 2 is smooth.
        aspect: Length of the grain divided by its width, at least 1.

    Returns:
        Periodic noise, [side, side], float64 in [0, 1].
    """
    turn = rng.uniform(0, np.pi)
    y, x = np.meshgrid(np.fft.fftfreq(side_px), np.fft.rfftfreq(side_px), indexing="ij")
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    radius = np.hypot(along * aspect, across)
    radius[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((side_px, side_px))) * radius**-exponent
    spectrum[0, 0] = 0.0
    return stretch(np.fft.irfft2(spectrum, (side_px, side_px)))


def draw_backdrop(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Draw the background of a figure: a plain color in half of the cases, otherwise a gradient or smooth noise.

    Args:
        rng: Random generator.
        side_px: Side of the image in pixels.

    Returns:
        RGB image, [side, side, 3], float32 in [0, 255].
    """
    kind, palette = rng.random(), draw_palette(rng, 2)
    if kind < 0.5:  # noqa: PLR2004
        return np.broadcast_to(palette[0], (side_px, side_px, 3)).copy()
    palette[1] += (palette[0] - palette[1]) * rng.uniform(0.3, 0.9)
    field = stretch(_plane(rng, side_px)[0]) if kind < 0.7 else draw_noise(rng, side_px, rng.uniform(0.5, 2))  # noqa: PLR2004
    return paint_field(field, palette)


def draw_texture(rng: np.random.Generator, kind: str, side_px: int) -> np.ndarray:
    """Draw a texture of a class in random colors.

    Args:
        rng: Random generator.
        kind: One of `TEXTURES`.
        side_px: Side of the image in pixels.

    Returns:
        RGB image, [side, side, 3], float32 in [0, 255].
    """
    return paint_field(TEXTURES[kind](rng, side_px), draw_palette(rng, int(rng.integers(2, 4))))


def _plane(rng: np.random.Generator, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return randomly rotated coordinates of the pixels, within about +-0.5."""
    turn, axis = rng.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, side_px)
    x, y = axis[None, :], axis[:, None]
    return np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x


def _warped(rng: np.random.Generator, side_px: int, amount: float) -> tuple[np.ndarray, np.ndarray]:
    u, v = _plane(rng, side_px)
    if not amount:
        return u, v
    return (u + amount * (draw_noise(rng, side_px, 2.2) - 0.5), v + amount * (draw_noise(rng, side_px, 2.2) - 0.5))


def _grating(rng: np.random.Generator, side_px: int, wave: str, cycles: float, amount: float = 0.0) -> np.ndarray:
    phase = _warped(rng, side_px, amount)[0] * cycles * rng.uniform(0.8, 1.25) + rng.random()
    if wave == "sine":
        return 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    saw = phase % 1.0
    return saw if wave == "saw" else (saw < rng.uniform(0.3, 0.7)) * 1.0


def _plaid(rng: np.random.Generator, side_px: int, wave: str, amount: float) -> np.ndarray:
    u, v = _warped(rng, side_px, amount)
    first, second = (axis * rng.uniform(4, 12) + rng.random() for axis in (u, v))
    if wave == "sine":
        return 0.5 + 0.25 * (np.sin(2 * np.pi * first) + np.sin(2 * np.pi * second))
    if wave == "check":
        return ((first % 1 < 0.5) ^ (second % 1 < 0.5)) * 1.0  # noqa: PLR2004
    return ((first % 1 < 0.2) | (second % 1 < 0.2)) * 1.0  # noqa: PLR2004


def _contours(rng: np.random.Generator, side_px: int, exponent: float, levels: int) -> np.ndarray:
    return draw_noise(rng, side_px, exponent) * levels % 1.0


def _band(rng: np.random.Generator, side_px: int, cycles: float, cut: float | None) -> np.ndarray:
    """Keep one ring of frequencies, which gives labyrinths and spots as in a reaction-diffusion system."""
    cycles *= rng.uniform(0.8, 1.25)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side_px), np.fft.rfftfreq(side_px), indexing="ij")) * side_px
    ring = np.exp(-(((radius - cycles) / (0.15 * cycles)) ** 2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side_px, side_px))) * ring, (side_px, side_px))
    field /= field.std()
    return stretch(field) if cut is None else (field > cut) * 1.0


def _seeds(rng: np.random.Generator, across: int, jitter: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw one seed per cell of a grid that is wider than the image; return seeds [n, 2] in cells, and their values."""
    cells = np.stack(np.meshgrid(np.arange(-1, across + 1), np.arange(-1, across + 1)), -1).reshape(-1, 2)
    seeds = cells + 0.5 + rng.uniform(-jitter / 2, jitter / 2, cells.shape)
    return seeds, rng.random(len(seeds))


def _nearest(rng: np.random.Generator, side_px: int, across: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the distances of every pixel to the two nearest seeds, in cells, and the value of the nearest."""
    seeds, values = _seeds(rng, across, 1.0)
    width, axis = across + 2, np.arange(side_px) * across / side_px
    y, x = np.meshgrid(axis, axis, indexing="ij")
    home = (np.floor(y).astype(np.int64) + 1) * width + np.floor(x).astype(np.int64) + 1
    near = np.stack([home + dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    distance = np.hypot(seeds[near, 0] - x, seeds[near, 1] - y)
    order = np.partition(distance, 1, axis=0)
    closest = np.take_along_axis(near, distance.argmin(0)[None], 0)[0]
    return order[0], order[1], values[closest]


def _voronoi(rng: np.random.Generator, side_px: int, style: str, across: int) -> np.ndarray:
    first, second, value = _nearest(rng, side_px, max(3, round(across * rng.uniform(0.8, 1.25))))
    if style == "cells":
        return value
    if style == "edges":
        return (second - first < rng.uniform(0.06, 0.18)) * 1.0
    return stretch(first if style == "cones" else second - first)


def _spots(rng: np.random.Generator, side_px: int, style: str, across: int) -> np.ndarray:
    first, _, value = _nearest(rng, side_px, max(3, round(across * rng.uniform(0.8, 1.25))))
    if style == "rings":
        return ((first > 0.18) & (first < 0.32)) * 1.0  # noqa: PLR2004
    return (first < (rng.uniform(0.15, 0.3) if style == "even" else 0.4 * value)) * 1.0


def _truchet(rng: np.random.Generator, side_px: int, style: str) -> np.ndarray:
    """Orient a tile at random in every cell of a rotated grid (Truchet 1704; arcs by Smith 1987)."""
    u, v = _plane(rng, side_px)
    across = rng.uniform(5, 11)
    u, v = u * across + 40, v * across + 40
    turned = rng.random((80, 80))[u.astype(np.int64), v.astype(np.int64)]
    x, y = u % 1, v % 1
    x = np.where(turned < 0.5, x, 1 - x)  # noqa: PLR2004
    if style == "triangles":
        return np.where(turned * 4 % 1 < 0.5, x + y < 1, x + y > 1) * 1.0  # noqa: PLR2004
    if style == "diagonals":
        return (np.abs(x + y - 1) < 0.18) * 1.0  # noqa: PLR2004
    radius = np.minimum(np.hypot(x, y), np.hypot(1 - x, 1 - y))
    return (np.abs(radius - 0.5) < 0.12) * 1.0 if style == "arcs" else (radius < 0.5) * 1.0  # noqa: PLR2004


def _kinds() -> dict[str, Callable[[np.random.Generator, int], np.ndarray]]:
    """Map the name of every texture to the function that draws it."""

    def bind(function: Callable[..., np.ndarray], *settings: object) -> Callable[..., np.ndarray]:
        return lambda rng, side_px: function(rng, side_px, *settings)

    table = [(_grating, (w, c, a)) for w in ("sine", "square", "saw") for c in (5.0, 14.0) for a in (0.0, 0.35)]
    table += [(_plaid, (wave, amount)) for wave in ("sine", "check", "lines") for amount in (0.0, 0.25)]
    table += [(draw_noise, (exponent,)) for exponent in (0.3, 1.0, 1.6, 2.4)]
    table += [(draw_noise, (exponent, aspect)) for exponent in (0.8, 1.6) for aspect in (3.0, 9.0)]
    table += [(_contours, (exponent, levels)) for exponent in (1.6, 2.4) for levels in (4, 10)]
    table += [(_band, (cycles, cut)) for cycles in (7.0, 18.0) for cut in (None, 0.0, 0.9)]
    table += [(_voronoi, (style, n)) for style in ("cells", "edges", "cones", "walls") for n in (5, 12)]
    table += [(_spots, (style, across)) for style in ("even", "varied", "rings") for across in (5, 12)]
    table += [(_truchet, (style,)) for style in ("arcs", "fans", "triangles", "diagonals")]
    return {f"{f.__name__.strip('_')} {' '.join(map(str, s))}": bind(f, *s) for f, s in table}


TEXTURES = _kinds()
