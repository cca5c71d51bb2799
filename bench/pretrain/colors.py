"""Chance and colors: colors are chosen at random, so that no class can be told by its color."""

import numpy as np


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Toss a coin.

    Args:
        rng: The source of chance.
        probability: Of the answer True, 0..1.

    Returns:
        The answer.
    """
    return bool(rng.random() < probability)


def draw_palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """Choose colors that a viewer can tell apart.

    Args:
        rng: The source of chance.
        count: How many.

    Returns:
        The colors, [count, 3] float32 in 0..255.
    """
    tries = rng.uniform(0, 255, (8, count, 3))
    apart = np.abs(tries[:, :, None] - tries[:, None]).sum(-1) + 1e3 * np.eye(count)
    return tries[apart.min((1, 2)).argmax()].astype(np.float32)


def paint_field(field: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Map a scalar field to colors along a ramp.

    Args:
        field: The scalars, [h, w] in 0..1.
        palette: The ramp's stops, [k, 3] in 0..255, k at least 2.

    Returns:
        The image, [h, w, 3] float32 in 0..255.
    """
    steps = 256
    at = np.linspace(0, len(palette) - 1, steps)
    ramp = np.stack([np.interp(at, np.arange(len(palette)), palette[:, c]) for c in range(3)], -1).astype(np.float32)
    return ramp[(np.clip(field, 0, 1) * (steps - 1)).astype(np.int64)]


def stretch(field: np.ndarray) -> np.ndarray:
    """Scale a field to 0..1.

    Args:
        field: Any scalars, [h, w].

    Returns:
        The scalars, [h, w] in 0..1.
    """
    low, high = field.min(), field.max()
    return (field - low) / max(high - low, 1e-9)
