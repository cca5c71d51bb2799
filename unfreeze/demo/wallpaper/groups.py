"""The 17 wallpaper groups: their operations in lattice coordinates, and random lattices that admit them."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from unfreeze.contract.arrays import Float64

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]

_HALF_TURN = ((-1, 0, 0), (0, -1, 0))
_QUARTER_TURN = ((0, -1, 0), (1, 0, 0))
_THIRD_TURN = ((0, -1, 0), (1, -1, 0))
_SIXTH_TURN = ((1, -1, 0), (1, 0, 0))
_REFLECTION = ((-1, 0, 0), (0, 1, 0))
_SHIFTED_REFLECTION = ((-1, 0, 0.5), (0, 1, 0))
_GLIDE = ((-1, 0, 0), (0, 1, 0.5))
_SHIFTED_GLIDE = ((-1, 0, 0.5), (0, 1, 0.5))
_SWAP = ((0, 1, 0), (1, 0, 0))
_ANTI_SWAP = ((0, -1, 0), (-1, 0, 0))

# Lattices and generators follow the International Tables for Crystallography, volume A (plane groups 1 to 17), except
# that cm and cmm use their primitive rhombic cell. Each generator is (linear part | translation) and acts on column
# vectors of lattice coordinates. The hexagonal basis vectors enclose 120 degrees.
_DEFINITIONS: Mapping[str, tuple[str, tuple[Matrix, ...]]] = MappingProxyType(
    {
        "p1": ("oblique", ()),
        "p2": ("oblique", (_HALF_TURN,)),
        "pm": ("rectangular", (_REFLECTION,)),
        "pg": ("rectangular", (_GLIDE,)),
        "cm": ("rhombic", (_SWAP,)),
        "pmm": ("rectangular", (_REFLECTION, _HALF_TURN)),
        "pmg": ("rectangular", (_SHIFTED_REFLECTION, _HALF_TURN)),
        "pgg": ("rectangular", (_SHIFTED_GLIDE, _HALF_TURN)),
        "cmm": ("rhombic", (_SWAP, _HALF_TURN)),
        "p4": ("square", (_QUARTER_TURN,)),
        "p4m": ("square", (_QUARTER_TURN, _REFLECTION)),
        "p4g": ("square", (_QUARTER_TURN, _SHIFTED_GLIDE)),
        "p3": ("hexagonal", (_THIRD_TURN,)),
        "p3m1": ("hexagonal", (_THIRD_TURN, _ANTI_SWAP)),
        "p31m": ("hexagonal", (_THIRD_TURN, _SWAP)),
        "p6": ("hexagonal", (_SIXTH_TURN,)),
        "p6m": ("hexagonal", (_SIXTH_TURN, _SWAP)),
    }
)
GROUPS = tuple(_DEFINITIONS)


@lru_cache
def operations(group: str) -> Float64[np.ndarray, "g 2 3"]:
    """List the operations of a group, one per coset of its lattice translations.

    Args:
        group: One of `GROUPS`.

    Returns:
        Matrices (linear part | translation) that act on column vectors of lattice coordinates, identity first,
        translations in [0, 1). The array is cached and read-only.

    Raises:
        ValueError: The group is unknown.
    """
    _, generators = _definition(group)
    known = {_key(np.eye(2, 3)): np.eye(2, 3)}
    frontier = list(known.values())
    while frontier:
        products = [compose(np.array(generator, float), reached) for generator in generators for reached in frontier]
        fresh = {_key(product): product for product in products if _key(product) not in known}
        known |= fresh
        frontier = list(fresh.values())
    table = np.stack(list(known.values()))
    table.flags.writeable = False
    return table


def compose(outer: Float64[np.ndarray, "2 3"], inner: Float64[np.ndarray, "2 3"]) -> Float64[np.ndarray, "2 3"]:
    """Compose two operations modulo the lattice.

    Args:
        outer: Operation applied second.
        inner: Operation applied first.

    Returns:
        The product, with its translation in [0, 1).
    """
    linear = outer[:, :2] @ inner[:, :2]
    shift = outer[:, :2] @ inner[:, 2] + outer[:, 2]
    return np.column_stack([linear, shift % 1.0])


def random_basis(group: str, rng: np.random.Generator) -> Float64[np.ndarray, "2 2"]:
    """Draw a random lattice that admits the group, with a cell of area 1.

    The lattice is the most general one for the group. Only p1 and p2, which are compatible with every lattice,
    sometimes get a special one, because otherwise the lattice alone would reveal the group.

    Args:
        group: One of `GROUPS`.
        rng: Random generator.

    Returns:
        Basis vectors as rows.

    Raises:
        ValueError: The group is unknown.
    """
    system, _ = _definition(group)
    if system == "oblique" and rng.random() < 0.4:
        system = str(rng.choice(["rectangular", "rhombic", "square", "hexagonal"]))
    shapes: dict[str, Callable[[], tuple[float, float]]] = {
        "oblique": lambda: (rng.uniform(1.0, 1.45), rng.uniform(64, 86)),
        "rectangular": lambda: (np.exp(rng.uniform(-0.45, 0.45)), 90),
        "rhombic": lambda: (1.0, rng.choice([1, -1]) * rng.uniform(2, 38) + 90),
        "square": lambda: (1.0, 90),
        "hexagonal": lambda: (1.0, 120),
    }
    ratio, degrees = shapes[system]()
    angle = np.radians(degrees)
    basis = np.array([[1.0, 0.0], [ratio * np.cos(angle), ratio * np.sin(angle)]])
    scaled: Float64[np.ndarray, "2 2"] = basis / np.sqrt(np.linalg.det(basis))
    return scaled


def _definition(group: str) -> tuple[str, tuple[Matrix, ...]]:
    if group not in _DEFINITIONS:
        raise ValueError(f"unknown wallpaper group {group!r}; expected one of {', '.join(GROUPS)}")
    return _DEFINITIONS[group]


def _key(operation: Float64[np.ndarray, "2 3"]) -> tuple[int, ...]:
    return tuple(np.rint(2 * operation).astype(int).ravel().tolist())
