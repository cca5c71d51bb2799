"""Random choices and colors; colors are random, so that no class can be recognized by its color."""

import numpy as np


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return True with a given probability.

    Args:
        rng: Random generator.
        probability: Probability of True, in [0, 1].
    """
    return bool(rng.random() < probability)


def draw_palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """Choose colors that are easy to distinguish.

    Args:
        rng: Random generator.
        count: Number of colors.

    Returns:
        RGB colors, [count, 3], float32 in [0, 255].
    """
    candidates = rng.uniform(0, 255, (8, count, 3))
    distances = np.abs(candidates[:, :, None] - candidates[:, None]).sum(-1) + 1e3 * np.eye(count)
    return candidates[distances.min((1, 2)).argmax()].astype(np.float32)


def paint_field(field: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Map a scalar field to a color gradient.

    Args:
        field: [h, w], in [0, 1].
        palette: Stops of the gradient, [k, 3] in [0, 255], with k at least 2.

    Returns:
        RGB image, [h, w, 3], float32 in [0, 255].
    """
    steps = 256
    at = np.linspace(0, len(palette) - 1, steps)
    ramp = np.stack([np.interp(at, np.arange(len(palette)), palette[:, c]) for c in range(3)], -1).astype(np.float32)
    return ramp[(np.clip(field, 0, 1) * (steps - 1)).astype(np.int64)]


def stretch(field: np.ndarray) -> np.ndarray:
    """Scale a field to [0, 1].

    Args:
        field: [h, w].

    Returns:
        The scaled field, [h, w].
    """
    low, high = field.min(), field.max()
    return (field - low) / max(high - low, 1e-9)
