"""Random motifs: asymmetric shapes over a background of waves, to which symmetry is applied later."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float64, UInt16
from unfreeze.demo.wallpaper.palette import SHADES

Coordinates = Float64[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape of a motif.

    Args:
        kind: A key of `_DEPTHS`.
        center: Lattice coordinates.
        radius: In units of the plane; at most the inradius of the cell, so that a shape cannot overlap its translates.
        turn: Rotation in radians.
        traits: Four numbers in [-1, 1] that bend and skew the shape.
    """

    kind: str
    center: tuple[float, float]
    radius: float
    turn: float
    traits: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Motif:
    """Shapes over a background.

    Args:
        shapes: From the bottom to the top.
        waves: Rows of (frequency along a, frequency along b, phase in radians); the frequencies are integers.
        gain: How often the background cycles through its colors; 0 for a plain background.
    """

    shapes: tuple[Shape, ...]
    waves: tuple[tuple[int, int, float], ...]
    gain: float


def random_motif(rng: np.random.Generator, basis: Float64[np.ndarray, "2 2"], order: int) -> Motif:
    """Draw a motif whose shapes fit the area that a group leaves for each copy.

    Args:
        rng: Random generator.
        basis: Basis vectors as rows.
        order: Number of operations of the group modulo the lattice.

    Returns:
        A motif of 3 to 11 shapes, larger ones below smaller ones.
    """
    inradius = 0.5 * abs(np.linalg.det(basis)) / np.linalg.norm(basis, axis=1).max()
    side = np.sqrt(1 / order)  # of a square with the area of a fundamental domain
    count = int(rng.integers(3, 6)) + {1: 5, 2: 3, 3: 1, 4: 1}.get(order, 0)
    radii = np.minimum(side * np.sort(rng.uniform(0.28, 0.85, count))[::-1], 0.97 * inradius)
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
    """Find the topmost shape at each point, and the depth of the point inside it.

    Args:
        motif: The motif, whose shapes are repeated along the lattice only.
        basis: Basis vectors as rows.
        points: Lattice coordinates.

    Returns:
        0 outside all shapes, otherwise `SHADES` times the number of the shape (from 1) plus the depth, so that the
        larger of two heights is the topmost shape.
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
    """Sum the waves of the background, which repeat along the lattice only.

    Args:
        motif: The motif.
        points: Lattice coordinates.

    Returns:
        The sum, with mean 0.
    """
    waves = np.array(motif.waves)
    result: Float64[np.ndarray, " n"] = np.cos(2 * np.pi * (points @ waves[:, :2].T) + waves[:, 2]).sum(axis=1)
    return result


def _blob(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    angle = np.arctan2(y, x)
    edge = 0.64 + 0.14 * np.cos(angle + np.pi * traits[0]) + 0.13 * np.cos(2 * angle)
    edge += 0.09 * traits[1] * np.cos(3 * angle + np.pi * traits[2])
    depth: Coordinates = 1 - np.hypot(x, y) / edge
    return depth


def _leaf(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    axis = (0.35 + 0.15 * traits[0]) * (y * y - 0.4)
    width = (0.3 + 0.1 * traits[1]) * (1 - y * y) * (1 + 0.7 * y)
    depth: Coordinates = 1 - np.abs(x - axis) / np.maximum(width, 1e-6)
    return depth


def _comma(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    head = 1 - np.hypot(x - 0.1, y - 0.42) / (0.42 + 0.06 * traits[0])
    radius, angle = np.hypot(x + 0.3, y - 0.3), np.arctan2(y - 0.3, x + 0.3)
    width = 0.3 * np.clip(1 + angle / (1.9 + 0.3 * traits[1]), 0, 1)
    tail = np.where((angle < 0.2) & (width > 0), 1 - np.abs(radius - 0.6) / np.maximum(width, 1e-6), 0)
    return np.maximum(head, tail)


def _facet(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    # A scalene triangle; a fourth side may cut off a corner.
    angles = np.array([0.0, 2.1 + 0.4 * traits[0], 4.2 + 0.4 * traits[1], 5.2])
    reach = np.array([0.42, 0.4 + 0.12 * traits[2], 0.34, 0.62 + 0.2 * traits[3]])
    sides = np.outer(np.cos(angles), x) + np.outer(np.sin(angles), y)
    depth: Coordinates = (1 - sides / reach[:, None]).min(axis=0)
    return depth


def _crescent(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    bite = np.hypot(x - 0.5 - 0.1 * traits[0], y - 0.35 * traits[1]) - 0.62
    depth: Coordinates = 2.2 * np.minimum(0.93 - np.hypot(x, y), bite)
    return depth


def _ribbon(x: "Coordinates", y: "Coordinates", traits: tuple[float, ...]) -> "Coordinates":
    axis = (0.28 + 0.1 * traits[0]) * np.sin(3.0 * y + np.pi * traits[1])
    width = (0.2 + 0.05 * traits[2]) * (1 + 0.6 * y * traits[3])
    depth: Coordinates = np.minimum(1 - np.abs(x - axis) / width, 6 * (0.88 - np.abs(y)))
    return depth


_DEPTHS: dict[str, Callable[["Coordinates", "Coordinates", tuple[float, ...]], "Coordinates"]] = {
    "blob": _blob,
    "leaf": _leaf,
    "comma": _comma,
    "facet": _facet,
    "crescent": _crescent,
    "ribbon": _ribbon,
}
