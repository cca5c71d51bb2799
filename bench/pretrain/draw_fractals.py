"""Fractals of iterated function systems: one system is one class.

Sources: Kataoka et al., "Pre-training without Natural Images" (ACCV 2020) for the task and for the instances of a
class (one parameter of the system is scaled); Anderson and Farrell, "Improving Fractal Pre-training" (WACV 2022) for
drawing a system by its singular values.
"""

import functools

import numpy as np

from bench.pretrain.colors import chance, draw_palette
from bench.pretrain.draw_textures import draw_backdrop

CHAINS = 2048
BURN_IN = 8
ITERATIONS = 30


def draw_fractal(rng: np.random.Generator, category: int, side_px: int) -> np.ndarray:
    """Draw one instance of a fractal class.

    Args:
        rng: Random generator of the instance.
        category: The class, which determines the system of maps.
        side_px: Side of the image in pixels.

    Returns:
        RGB image, [side, side, 3], float32 in [0, 255].
    """
    maps = _vary(rng, system(category))
    points, last = _play(rng, maps)
    scale = side_px * rng.uniform(0.6, 1.1)
    turn = rng.uniform(0, 2 * np.pi)
    basis = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]], np.float32)
    center = side_px * rng.uniform(0.4, 0.6, 2)
    return _paint(rng, (points @ basis) * np.float32(scale) + center.astype(np.float32), last, side_px)


@functools.lru_cache(maxsize=4096)
def system(category: int) -> np.ndarray:
    """Choose the system of a class: 2 to 4 affine contractions whose fractal fills enough of its bounding box.

    Args:
        category: The class.

    Returns:
        The maps, [k, 2, 3], float32: x -> map[:, :2] x + map[:, 2].
    """
    rng = np.random.default_rng((category, 0xF7AC7A1))
    best, best_fill = None, 0.0
    for _ in range(6):
        maps = _draw_system(rng)
        points, _ = _play(rng, maps)
        cells = np.floor(np.clip(points + 0.5, 0, 0.999) * 24).astype(np.int64)
        fill = len(np.unique(cells[:, 0] * 24 + cells[:, 1])) / 24**2
        if best is None or fill > best_fill:
            best, best_fill = maps, fill
    return best


def _draw_system(rng: np.random.Generator) -> np.ndarray:
    """Draw singular values until sum(s1 + 2 s2) is in the range that Anderson and Farrell recommend."""
    count = int(rng.integers(2, 5))
    values = np.sort(rng.uniform(0.05, 0.97, (4096, count, 2)), -1)[..., ::-1]
    weight = (values[..., 0] + 2 * values[..., 1]).sum(-1)
    chosen = values[np.argmax((weight >= (5 + count) / 2) & (weight <= (6 + count) / 2))]
    left, right = rng.uniform(0, 2 * np.pi, (2, count))
    flips = rng.choice([-1.0, 1.0], (count, 1, 2))
    linear = (_turns(left) * (chosen[:, None] * flips)) @ _turns(right)
    return np.concatenate([linear, rng.uniform(-1, 1, (count, 2, 1))], -1).astype(np.float32)


def _turns(angles_rad: np.ndarray) -> np.ndarray:
    cosine, sine = np.cos(angles_rad), np.sin(angles_rad)
    return np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)


def _vary(rng: np.random.Generator, maps: np.ndarray) -> np.ndarray:
    """Scale one parameter by 0.8 to 1.2 and jitter the others slightly; every map remains a contraction."""
    factors = rng.uniform(0.97, 1.03, maps.shape)
    factors.reshape(-1)[rng.integers(factors.size)] = rng.uniform(0.8, 1.2)
    varied = (maps * factors).astype(np.float32)
    stretch = np.linalg.norm(varied[:, :, :2], 2, (1, 2))
    varied[:, :, :2] /= np.maximum(1.0, stretch / 0.98)[:, None, None]
    return varied


def _play(rng: np.random.Generator, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Play the chaos game with many chains; return points [n, 2] within about +-0.5, and the last map of each point."""
    weights = np.abs(np.linalg.det(maps[:, :, :2])) + 0.02
    chosen = rng.choice(len(maps), (ITERATIONS, CHAINS), p=weights / weights.sum())
    x, y, trail = np.zeros(CHAINS, np.float32), np.zeros(CHAINS, np.float32), []
    for taken in maps.reshape(-1, 6).T[:, chosen].swapaxes(0, 1):
        x, y = taken[0] * x + taken[1] * y + taken[2], taken[3] * x + taken[4] * y + taken[5]
        trail.append(np.stack([x, y], -1))
    points = np.concatenate(trail[BURN_IN:])
    low, high = np.percentile(points[::8], (1, 99), axis=0)
    return (points - (low + high) / 2) / max((high - low).max(), 1e-6), chosen[BURN_IN:].reshape(-1)


def _paint(rng: np.random.Generator, points: np.ndarray, last: np.ndarray, side_px: int) -> np.ndarray:
    """Bin the points per map, mix colors by count, and increase the opacity with the density."""
    cell = points.astype(np.int64)
    seen = ((cell >= 0) & (cell < side_px)).all(1)
    count = int(last.max()) + 1
    bins = (last * side_px + cell[:, 1])[seen] * side_px + cell[seen, 0]
    density = np.bincount(bins, minlength=count * side_px**2).reshape(count, side_px, side_px).astype(np.float32)
    total = density.sum(0)
    palette = draw_palette(rng, count) if chance(rng, 0.6) else np.repeat(draw_palette(rng, 1), count, 0)
    color = np.tensordot(density, palette, (0, 0)) / np.maximum(total, 1)[..., None]
    opacity = 1 - np.exp(-total * np.float32(rng.choice([0.3, 1.0, 8.0])))
    return draw_backdrop(rng, side_px) * (1 - opacity[..., None]) + color * opacity[..., None]
