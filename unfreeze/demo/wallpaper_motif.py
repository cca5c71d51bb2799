"""What a wallpaper repeats: asymmetric shapes painted over a ground of waves, before any symmetry is imposed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float64, UInt16
from unfreeze.demo.wallpaper_palette import SHADES

Coordinates = Float64[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape of a motif.

    Args:
        kind: A key of `_DEPTHS`.
        center: Lattice coordinates.
        radius: In units of the plane; at most the inradius of the cell, so that a shape never meets its own translate.
        turn: Radians.
        traits: Four numbers in [-1, 1] that bend and skew it.
    """

    kind: str
    center: tuple[float, float]
    radius: float
    turn: float
    traits: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Motif:
    """Shapes over a ground.

    Args:
        shapes: From the bottom to the top.
        waves: Rows of (frequency along a, frequency along b, phase in radians); the frequencies are integers.
        gain: How often the ground runs through its colors; 0 for a plain ground.
    """

    shapes: tuple[Shape, ...]
    waves: tuple[tuple[int, int, float], ...]
    gain: float


def random_motif(rng: np.random.Generator, basis: Float64[np.ndarray, "2 2"], order: int) -> Motif:
    """Draw a motif whose shapes suit the room that a group leaves them.

    Args:
        rng: Source of randomness.
        basis: Basis vectors as rows.
        order: Number of the group's operations modulo the lattice.

    Returns:
        A motif of 3 to 11 shapes, larger ones below smaller ones.
    """
    inradius = 0.5 * abs(np.linalg.det(basis)) / np.linalg.norm(basis, axis=1).max()
    room = np.sqrt(1 / order)
    count = int(rng.integers(3, 6)) + {1: 5, 2: 3, 3: 1, 4: 1}.get(order, 0)
    radii = np.minimum(room * np.sort(rng.uniform(0.28, 0.85, count))[::-1], 0.97 * inradius)
    shapes = tuple(
        Shape(
            kind=str(rng.choice(list(_DEPTHS))),
            center=tuple(rng.random(2)),
            radius=float(radius),
            turn=float(rng.uniform(0, 2 * np.pi)),
            traits=tuple(rng.uniform(-1, 1, 4)),
        )
        for radius in radii
    )
    waves = tuple((*rng.integers(-2, 3, 2).tolist(), float(rng.uniform(0, 2 * np.pi))) for _ in range(4))
    gain = float(rng.choice([0, rng.uniform(0.25, 0.9)], p=[0.4, 0.6]))
    return Motif(shapes=shapes, waves=waves, gain=gain)


def shape_heights(
    motif: Motif, basis: Float64[np.ndarray, "2 2"], points: Float64[np.ndarray, "n 2"]
) -> UInt16[np.ndarray, " n"]:
    """Find the topmost shape at each point and how deep inside it the point lies.

    Args:
        motif: Its shapes are repeated along the lattice, by nothing else.
        basis: Basis vectors as rows.
        points: Lattice coordinates.

    Returns:
        0 outside every shape, else `SHADES` times the number of the shape (from 1) plus its depth, so that the larger
        of two heights is what lies on top.
    """
    heights = np.zeros(len(points), np.uint16)
    for layer, shape in enumerate(motif.shapes, 1):
        offset = points - shape.center
        offset = (offset - np.rint(offset)) @ (basis / shape.radius)
        inside = np.flatnonzero(np.einsum("ni,ni->n", offset, offset) < 1)
        cos, sin = np.cos(shape.turn), np.sin(shape.turn)
        x, y = np.array([[cos, sin], [-sin, cos]]) @ offset[inside].T
        depth = _DEPTHS[shape.kind](x, y, shape.traits)
        shade = layer * SHADES + np.clip(depth * SHADES, 0, SHADES - 1).astype(np.uint16)
        heights[inside] = np.where(depth > 0, shade, heights[inside])
    return heights


def ground_waves(motif: Motif, points: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, " n"]:
    """Add up the waves of the ground, which repeat along the lattice and nothing else.

    Args:
        motif: Whose waves.
        points: Lattice coordinates.

    Returns:
        The sum, of mean 0.
    """
    waves = np.array(motif.waves)
    return np.cos(2 * np.pi * (points @ waves[:, :2].T) + waves[:, 2]).sum(axis=1)


def _blob(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    angle = np.arctan2(y, x)
    edge = 0.64 + 0.14 * np.cos(angle + np.pi * traits[0]) + 0.13 * np.cos(2 * angle)
    edge += 0.09 * traits[1] * np.cos(3 * angle + np.pi * traits[2])
    return 1 - np.hypot(x, y) / edge


def _leaf(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    axis = (0.35 + 0.15 * traits[0]) * (y * y - 0.4)
    width = (0.3 + 0.1 * traits[1]) * (1 - y * y) * (1 + 0.7 * y)
    return 1 - np.abs(x - axis) / np.maximum(width, 1e-6)


def _comma(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    head = 1 - np.hypot(x - 0.1, y - 0.42) / (0.42 + 0.06 * traits[0])
    radius, angle = np.hypot(x + 0.3, y - 0.3), np.arctan2(y - 0.3, x + 0.3)
    width = 0.3 * np.clip(1 + angle / (1.9 + 0.3 * traits[1]), 0, 1)
    tail = np.where((angle < 0.2) & (width > 0), 1 - np.abs(radius - 0.6) / np.maximum(width, 1e-6), 0)
    return np.maximum(head, tail)


def _facet(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    # A scalene triangle whose corners may be cut off by a fourth side.
    angles = np.array([0.0, 2.1 + 0.4 * traits[0], 4.2 + 0.4 * traits[1], 5.2])
    reach = np.array([0.42, 0.4 + 0.12 * traits[2], 0.34, 0.62 + 0.2 * traits[3]])
    sides = np.outer(np.cos(angles), x) + np.outer(np.sin(angles), y)
    return (1 - sides / reach[:, None]).min(axis=0)


def _crescent(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    bite = np.hypot(x - 0.5 - 0.1 * traits[0], y - 0.35 * traits[1]) - 0.62
    return 2.2 * np.minimum(0.93 - np.hypot(x, y), bite)


def _ribbon(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    axis = (0.28 + 0.1 * traits[0]) * np.sin(3.0 * y + np.pi * traits[1])
    width = (0.2 + 0.05 * traits[2]) * (1 + 0.6 * y * traits[3])
    return np.minimum(1 - np.abs(x - axis) / width, 6 * (0.88 - np.abs(y)))


_DEPTHS: dict[str, Callable[["Coordinates", "Coordinates", tuple[float, ...]], "Coordinates"]] = {
    "blob": _blob,
    "leaf": _leaf,
    "comma": _comma,
    "facet": _facet,
    "crescent": _crescent,
    "ribbon": _ribbon,
}
