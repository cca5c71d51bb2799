"""Finite pieces of the plane's symmetry groups, as stacks of 3x3 matrices acting on homogeneous column vectors."""

import numpy as np

FRIEZES = ("p1", "p11g", "p1m1", "p2", "p2mg", "p11m", "p2mm")


def rotation(angle_rad: float) -> np.ndarray:
    """Build a rotation about the origin.

    Args:
        angle_rad: Angle in radians, counterclockwise.

    Returns:
        The matrix, [3, 3], float64.
    """
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def similarity(center: tuple[float, float], scale: float, angle_rad: float) -> np.ndarray:
    """Build a rotation and scaling about the origin, followed by a translation.

    Args:
        center: Image of the origin, (x, y).
        scale: Scale factor, above 0.
        angle_rad: Angle in radians, counterclockwise.

    Returns:
        The matrix, [3, 3], float64.
    """
    matrix = rotation(angle_rad)
    matrix[:2, :2] *= scale
    matrix[:2, 2] = center
    return matrix


def shift(x: float, y: float = 0.0) -> np.ndarray:
    """Build a translation.

    Args:
        x: Distance along x.
        y: Distance along y.

    Returns:
        The matrix, [3, 3], float64.
    """
    return similarity((x, y), 1.0, 0.0)


def rosette(order: int, *, reflected: bool) -> np.ndarray:
    """List a point group: cyclic C_n, or dihedral D_n when reflected.

    Args:
        order: Order n of the rotation, at least 1.
        reflected: Whether the group contains reflections.

    Returns:
        The elements, [n or 2n, 3, 3], float64.
    """
    turns = np.stack([rotation(2 * np.pi * step / order) for step in range(order)])
    if not reflected:
        return turns
    return np.concatenate([turns, turns @ np.diag([1.0, -1.0, 1.0])])


def frieze(name: str, period: float, repeats: int) -> np.ndarray:
    """List the elements of one of the seven frieze groups over some periods along x.

    Args:
        name: One of `FRIEZES`, the crystallographic names.
        period: Length of the translation.
        repeats: Number of periods on each side of the origin.

    Returns:
        The elements, [k, 3, 3], float64.
    """
    across, along = np.diag([1.0, -1.0, 1.0]), np.diag([-1.0, 1.0, 1.0])
    glide = shift(period / 2) @ across
    cell = {
        "p1": [np.eye(3)],
        "p11g": [np.eye(3), glide],
        "p1m1": [np.eye(3), along],
        "p2": [np.eye(3), rotation(np.pi)],
        "p2mg": [np.eye(3), glide, along, glide @ along],
        "p11m": [np.eye(3), across],
        "p2mm": [np.eye(3), across, along, rotation(np.pi)],
    }[name]
    moves = [shift(step * period) for step in range(-repeats, repeats + 1)]
    return np.stack([move @ element for move in moves for element in cell])
