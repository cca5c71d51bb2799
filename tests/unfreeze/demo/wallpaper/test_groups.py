"""Each generated pattern has exactly the symmetries of its wallpaper group, so the labels of the images are true."""

from itertools import product

import numpy as np
import pytest

from unfreeze.demo.wallpaper.groups import GROUPS, compose, operations, random_basis
from unfreeze.demo.wallpaper.pattern import random_pattern
from unfreeze.demo.wallpaper.rendering import draw, render

SHIFTS = np.array(list(product((-1, 0, 1), repeat=2)), float)
ORDERS = {
    **dict.fromkeys(["p1"], 1),
    **dict.fromkeys(["p2", "pm", "pg", "cm"], 2),
    **dict.fromkeys(["p3"], 3),
    **dict.fromkeys(["pmm", "pmg", "pgg", "cmm", "p4"], 4),
    **dict.fromkeys(["p3m1", "p31m", "p6"], 6),
    **dict.fromkeys(["p4m", "p4g"], 8),
    **dict.fromkeys(["p6m"], 12),
}


def _whole(vector: np.ndarray) -> bool:
    return bool(np.abs(vector - np.rint(vector)).max() < 1e-9)


def _turn(linear: np.ndarray) -> int:
    """Return the order of a rotation."""
    power, order = linear, 1
    while not np.allclose(power, np.eye(2)):
        power, order = power @ linear, order + 1
    return order


def _is_reflection(operation: np.ndarray) -> bool:
    """Return whether some translate of the operation has fixed points, that is, no glide."""
    return any(np.allclose((operation[:, :2] + np.eye(2)) @ (operation[:, 2] + shift), 0) for shift in SHIFTS)


def _has_glide_of_its_own(operation: np.ndarray) -> bool:
    """Return whether some translate is a true glide reflection: its axis is not the axis of a reflection."""
    squares = [(operation[:, :2] + np.eye(2)) @ (operation[:, 2] + shift) for shift in SHIFTS]
    return any(not _whole(square / 2) for square in squares)


def _every_third_turn_center_is_on_a_reflection(table: np.ndarray) -> bool:
    (turn,) = (one for one in table if _turns_by_a_third(one))
    reflections = [one for one in table if np.linalg.det(one[:, :2]) < 0 and _is_reflection(one)]
    centers = [np.linalg.solve(np.eye(2) - turn[:, :2], turn[:, 2] + shift) for shift in SHIFTS]
    return all(any(_whole(one[:, :2] @ center + one[:, 2] - center) for one in reflections) for center in centers)


def _turns_by_a_third(operation: np.ndarray) -> bool:
    return np.allclose(operation[:, :2], [[0, -1], [1, -1]])


def _name(table: np.ndarray) -> str:
    """Identify a group by its rotations, reflections and glides, by the usual flowchart of crystallography."""
    turns = max(_turn(one[:, :2]) for one in table if np.linalg.det(one[:, :2]) > 0)
    flips = [one for one in table if np.linalg.det(one[:, :2]) < 0]
    reflections = sum(_is_reflection(one) for one in flips)
    glides = sum(_has_glide_of_its_own(one) for one in flips)
    if turns == 6:
        return "p6m" if reflections else "p6"
    if turns == 4:
        return {0: "p4", 2: "p4g", 4: "p4m"}[reflections]
    if turns == 3:
        return "p3" if not reflections else "p3m1" if _every_third_turn_center_is_on_a_reflection(table) else "p31m"
    if turns == 2:
        return {0: "pgg" if glides else "p2", 1: "pmg", 2: "cmm" if glides else "pmm"}[reflections]
    return ("cm" if glides else "pm") if reflections else ("pg" if glides else "p1")


def test_all_seventeen_groups_are_defined() -> None:
    """The names are those of the 17 groups."""
    assert set(GROUPS) == set(ORDERS)
    assert len(GROUPS) == 17


@pytest.mark.parametrize("group", GROUPS)
def test_operations_form_the_group_of_that_name(group: str) -> None:
    """The table is closed, has inverses and the right order; its rotations, reflections and glides identify it."""
    table = operations(group)
    assert len(table) == ORDERS[group]
    known = {tuple(np.round(one % [[9, 9, 1]] * 2).astype(int).ravel()) for one in table}
    for outer, inner in product(table, repeat=2):
        assert tuple(np.round(compose(outer, inner) % [[9, 9, 1]] * 2).astype(int).ravel()) in known
    for one in table:
        assert any(np.allclose(compose(one, other), np.eye(2, 3)) for other in table)
    assert _name(table) == group


@pytest.mark.parametrize("group", GROUPS)
def test_operations_are_isometries_of_the_lattice(group: str) -> None:
    """On every lattice that is drawn for a group, its operations preserve distances."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        basis = random_basis(group, rng)
        metric = basis @ basis.T
        for operation in operations(group):
            np.testing.assert_allclose(operation[:, :2].T @ metric @ operation[:, :2], metric, atol=1e-9)


@pytest.mark.parametrize("group", GROUPS)
def test_pattern_is_invariant_under_its_group(group: str) -> None:
    """Every point has the color of its images under all operations and translations of the group."""
    rng = np.random.default_rng(2)
    for _ in range(3):
        pattern = random_pattern(group, rng)
        points = rng.uniform(-3, 3, (1500, 2))
        colors, lattice = pattern.color(points), points @ np.linalg.inv(pattern.basis)
        for operation in operations(group):
            moved = lattice @ operation[:, :2].T + operation[:, 2] + rng.integers(-3, 4, 2)
            changed = np.abs(pattern.color(moved @ pattern.basis) - colors).max(1) > 1e-6
            assert changed.mean() < 0.005, "more than rounding at the shapes' borders"


LARGER = [
    *[("p1", "p2"), ("pm", "pmm"), ("pg", "pgg"), ("cm", "cmm"), ("p2", "p4"), ("p4", "p4m"), ("p4", "p4g")],
    *[("p3", "p6"), ("p3", "p3m1"), ("p3", "p31m"), ("p31m", "p6m"), ("p3m1", "p6m"), ("p6", "p6m")],
]


@pytest.mark.parametrize(("group", "larger"), LARGER)
def test_pattern_is_not_invariant_under_a_larger_group(group: str, larger: str) -> None:
    """No pattern has a symmetry of a larger group by accident."""
    rng = np.random.default_rng(3)
    own = [one[:, :2] for one in operations(group)]
    foreign = [one for one in operations(larger) if not any(np.allclose(one[:, :2], linear) for linear in own)]
    assert foreign
    for _ in range(3):
        pattern = random_pattern(group, rng)
        points = rng.uniform(-2, 2, (1000, 2))
        colors, lattice = pattern.color(points), points @ np.linalg.inv(pattern.basis)
        for operation in foreign:
            moved = lattice @ operation[:, :2].T + operation[:, 2]
            assert np.abs(pattern.color(moved @ pattern.basis) - colors).mean() > 0.02


@pytest.mark.parametrize("group", GROUPS)
def test_rendered_image_shows_the_symmetries(group: str) -> None:
    """Rendering from a viewpoint that an operation has moved, rotated or reflected gives the same image."""
    rng = np.random.default_rng(4)
    pattern = random_pattern(group, rng)
    offset, angle = rng.random(2), 0.7
    image = _coarse(render(pattern, 160, 50.0, angle, tuple(offset)))
    assert image.std() > 5
    inverse = np.linalg.inv(pattern.basis)
    for operation in operations(group):
        move = (inverse @ operation[:, :2].T @ pattern.basis).T  # on columns of points in the plane
        shift = operation[:, 2] @ pattern.basis
        flip = np.diag([np.linalg.det(move), 1.0])
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        turned = move @ turn @ flip  # again a rotation by minus some angle
        angle_there = np.arctan2(turned[0, 1], turned[0, 0])
        from_there = _coarse(render(pattern, 160, 50.0, angle_there, tuple(move @ offset + shift)))
        seen = from_there[:, ::-1] if flip[0, 0] < 0 else from_there
        assert np.abs(seen - image).mean() < 0.05 * image.std()


def _coarse(image: np.ndarray) -> np.ndarray:
    """Average 4 x 4 pixels, because samples are rounded to the grid of the cell."""
    return image.reshape(40, 4, 40, 4, 3).mean((1, 3))


@pytest.mark.parametrize("group", GROUPS)
def test_drawing_is_reproducible(group: str) -> None:
    """The same seed gives the same image, another seed another image."""
    first, again, other = (draw(group, np.random.default_rng(seed), 64) for seed in (5, 5, 6))
    assert first.shape == (64, 64, 3)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


def test_unknown_group_is_rejected() -> None:
    """The message lists the 17 groups."""
    with pytest.raises(ValueError, match="unknown wallpaper group 'p5'; expected one of p1, p2"):
        draw("p5", np.random.default_rng(0))
