"""The classes, and drawing an image of a class from a seed."""

from collections.abc import Callable

import numpy as np

from bench.pretrain.draw_fractals import draw_fractal
from bench.pretrain.draw_shapes import draw_flock, draw_frieze, draw_rosettes, draw_stars
from bench.pretrain.draw_textures import TEXTURES, draw_texture
from bench.pretrain.finish import finish
from bench.pretrain.isometries import FRIEZES

SIDE_PX = 128
FRACTALS = 200
# Share of each family. Within a family all classes are equally likely, except the rare ones.
SHARES = {"rosette": 0.58, "frieze": 0.18, "fractal": 0.1, "texture": 0.06, "flock": 0.04, "star": 0.04}
RARE = {f"{kind}{order}" for kind in "CD" for order in (5, 7, 8)}
RARE_WEIGHT = 0.3

Draw = Callable[[np.random.Generator, int], np.ndarray]


def _families() -> dict[str, dict[str, Draw]]:
    """Map every class of every family to the function that draws it."""

    def bind(function: Callable[..., np.ndarray], *settings: object) -> Draw:
        return lambda rng, side_px: function(rng, *settings, side_px)

    hands = (False, True)
    return {
        "rosette": {f"{'CD'[m]}{n}": bind(draw_rosettes, n, m) for m in hands for n in range(1, 9)},
        "fractal": {f"ifs {category}": bind(draw_fractal, category) for category in range(FRACTALS)},
        "texture": {kind: bind(draw_texture, kind) for kind in TEXTURES},
        "flock": {f"{'CD'[m]}{n or '*'}": bind(draw_flock, n, m) for m in hands for n in (0, 1, 2, 3, 4, 6)},
        "frieze": {name: bind(draw_frieze, name) for name in FRIEZES},
        "star": {f"{'star' if s else 'gon'} {n}": bind(draw_stars, n, s) for s in hands for n in range(3, 9)},
    }


FAMILIES = _families()
CLASSES = [(family, name) for family, members in FAMILIES.items() for name in members]
_WEIGHTS = np.array([RARE_WEIGHT if name in RARE else 1.0 for _, name in CLASSES])
_SUMS = {family: sum(_WEIGHTS[at] for at, (of, _) in enumerate(CLASSES) if of == family) for family in FAMILIES}
_PROBABILITIES = np.array([SHARES[family] / _SUMS[family] for family, _ in CLASSES]) * _WEIGHTS


def draw_labels(seed: int, shard: int, count: int) -> np.ndarray:
    """Draw the classes of the images of a shard.

    Args:
        seed: Random seed of the run.
        shard: Number of the shard.
        count: Number of images.

    Returns:
        Indices into `CLASSES`, [count], int64.
    """
    return np.random.default_rng((seed, shard)).choice(len(CLASSES), count, p=_PROBABILITIES / _PROBABILITIES.sum())


def draw_image(label: int, *seed: int) -> np.ndarray:
    """Draw an image of a class; the same label and seed give the same image.

    Args:
        label: Index into `CLASSES`.
        *seed: Non-negative integers.

    Returns:
        The image, [SIDE_PX, SIDE_PX, 3], uint8.
    """
    family, name = CLASSES[label]
    rng = np.random.default_rng((label, *seed))
    return finish(rng, FAMILIES[family][name](rng, SIDE_PX))
