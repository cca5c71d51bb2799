"""Patterns that have the symmetries of one wallpaper group by construction, and no others, which is checked."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from unfreeze.contract.arrays import Bool, Float64, Int64, UInt8, UInt16
from unfreeze.demo.wallpaper.groups import operations, random_basis
from unfreeze.demo.wallpaper.motif import Motif, ground_waves, random_motif, shape_heights
from unfreeze.demo.wallpaper.palette import SHADES, random_palette, random_ramp

_PROBE = 32  # samples along each side of the cell in the search for further symmetries
_LIKENESS_LIMIT = 0.8
_CONTRAST_LIMIT = 0.1
_ATTEMPTS = 25


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A color for each point of the plane.

    The color is looked up by a height, the maximum over all images of the motif under the group. The group therefore
    leaves it unchanged, whatever the motif is.

    Args:
        group: One of `GROUPS`.
        basis: Basis vectors of the lattice as rows; the cell has area 1.
        motif: The repeated motif.
        table: sRGB in [0, 1] for each height; `SHADES` rows for the background and for each shape.
    """

    group: str
    basis: Float64[np.ndarray, "2 2"]
    motif: Motif
    table: Float64[np.ndarray, "heights 3"]

    def color(self, points: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 3"]:
        """Evaluate the pattern at arbitrary points.

        Args:
            points: Coordinates in the plane, in units of the square root of the cell's area.

        Returns:
            sRGB in [0, 1].
        """
        lattice = points @ np.linalg.inv(self.basis)
        images = [lattice @ operation[:, :2].T + operation[:, 2] for operation in operations(self.group)]
        shapes = np.max([shape_heights(self.motif, self.basis, image) for image in images], axis=0)
        waves = np.mean([ground_waves(self.motif, image) for image in images], axis=0)
        result: Float64[np.ndarray, "n 3"] = self.table[_cover(self, waves, shapes)]
        return result

    def cell(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """Evaluate one cell of the pattern on a grid, many times faster than `color`.

        The group permutes the points of a grid with an even number of points, so the motif is evaluated once per
        point and its images are looked up.

        Args:
            size: Points along each basis vector; even.

        Returns:
            RGB; entry [i, j] is the color at lattice coordinates (i / size, j / size).
        """
        table = np.rint(self.table * 255).astype(np.uint8)
        result: UInt8[np.ndarray, "size size 3"] = table[self._cell_heights(size)].reshape(size, size, 3)
        return result

    def likeness(self) -> float:
        """Measure how close the pattern is to having a symmetry outside its group.

        Returns:
            The largest correlation of the luminance with its image under an isometry that preserves the lattice and is
            not in, or close to, the group; 1 for a further symmetry, or if there is hardly any contrast.
        """
        luminance = (self.table @ (0.3, 0.59, 0.11))[self._cell_heights(_PROBE)].reshape(_PROBE, _PROBE)
        luminance = luminance - luminance.mean()
        if luminance.std() < _CONTRAST_LIMIT:
            return 1.0
        choice = _isometries(self.basis)
        images = luminance.ravel()[_candidate_indices(_PROBE)[choice]].reshape(-1, _PROBE, _PROBE)
        spectra = np.fft.rfft2(luminance) * np.fft.rfft2(images).conj()
        correlation = np.fft.irfft2(spectra, s=(_PROBE, _PROBE)) / (luminance**2).sum()
        return float(correlation[~_near_group(self.group)[choice]].max(initial=-1.0))

    def _cell_heights(self, size: int) -> UInt16[np.ndarray, " size*size"]:
        points = _grid(size) / size
        images = _image_indices(self.group, size)
        shapes = shape_heights(self.motif, self.basis, points)[images].max(axis=0)
        waves = ground_waves(self.motif, points)[images].mean(axis=0) if self.motif.gain else np.zeros(len(points))
        return _cover(self, waves, shapes)


def random_pattern(group: str, rng: np.random.Generator) -> Pattern:
    """Draw a random pattern that visibly has the symmetries of the group, and of no larger group.

    Args:
        group: One of `GROUPS`.
        rng: Random generator.

    Returns:
        The first pattern without a near-symmetry outside the group, or the best of many.

    Raises:
        ValueError: The group is unknown.
    """
    best, least = None, np.inf
    for _ in range(_ATTEMPTS):
        pattern = _any_pattern(group, rng)
        likeness = pattern.likeness()
        if likeness < least:
            best, least = pattern, likeness
        if likeness < _LIKENESS_LIMIT:
            break
    assert best is not None  # noqa: S101 - the loop runs at least once
    return best


def _any_pattern(group: str, rng: np.random.Generator) -> Pattern:
    basis = random_basis(group, rng)
    motif = random_motif(rng, basis, len(operations(group)))
    palette = random_palette(rng, 6)
    # Neighboring layers never have the same main color.
    order = [0, *(1 + (layer % 5) for layer in range(len(motif.shapes)))]
    ramps = [random_ramp(rng, palette[main], palette[rng.integers(6)]) for main in order]
    return Pattern(group=group, basis=basis, motif=motif, table=np.concatenate(ramps))


def _cover(
    pattern: Pattern, waves: Float64[np.ndarray, " n"], shapes: UInt16[np.ndarray, " n"]
) -> UInt16[np.ndarray, " n"]:
    phase = pattern.motif.gain * np.sqrt(len(operations(pattern.group))) * waves
    ground = (0.5 + 0.5 * np.sin(np.pi * phase)) * (SHADES - 1)
    result: UInt16[np.ndarray, " n"] = np.maximum(shapes, np.rint(ground).astype(np.uint16))
    return result


def _grid(size: int) -> Int64[np.ndarray, "size*size 2"]:
    return np.stack(np.divmod(np.arange(size * size), size), axis=-1)


@lru_cache(maxsize=40)
def _image_indices(group: str, size: int) -> Int64[np.ndarray, "g size*size"]:
    table = operations(group)
    shifts = np.rint(table[:, :, 2] * size)
    images = _grid(size) @ table[:, :, :2].transpose(0, 2, 1) + shifts[:, None]
    result: Int64[np.ndarray, "g size*size"] = (images % size @ (size, 1)).astype(np.int64)
    return result


@lru_cache
def _candidates() -> Float64[np.ndarray, "c 2 2"]:
    # Every isometry of a plane lattice has finite order: trace 0 with determinant -1, or determinant 1 and trace
    # -1, 0, 1 or plus or minus the identity. In a reduced basis, its entries are -1, 0 and 1.
    matrices = np.array(list(product((-1.0, 0.0, 1.0), repeat=4))).reshape(-1, 2, 2)
    trace, determinant = matrices.trace(axis1=1, axis2=2), np.rint(np.linalg.det(matrices))
    identity = (
        np.abs(matrices[:, 0, 1]) + np.abs(matrices[:, 1, 0]) + np.abs(matrices[:, 0, 0] - matrices[:, 1, 1]) == 0
    )
    turn = (determinant == 1) & ((np.abs(trace) <= 1) | identity)
    result: Float64[np.ndarray, "c 2 2"] = matrices[turn | ((determinant == -1) & (trace == 0))]
    return result


def _isometries(basis: Float64[np.ndarray, "2 2"]) -> Bool[np.ndarray, " c"]:
    metric = basis @ basis.T
    moved = _candidates().transpose(0, 2, 1) @ metric @ _candidates()
    result: Bool[np.ndarray, " c"] = np.abs(moved - metric).max(axis=(1, 2)) < 0.15
    return result


@lru_cache
def _candidate_indices(size: int) -> Int64[np.ndarray, "c size*size"]:
    inverses = np.linalg.inv(_candidates())
    result: Int64[np.ndarray, "c size*size"] = (
        np.rint(_grid(size) @ inverses.transpose(0, 2, 1)) % size @ (size, 1)
    ).astype(np.int64)
    return result


@lru_cache
def _near_group(group: str) -> Bool[np.ndarray, "c probe probe"]:
    near = np.zeros((len(_candidates()), _PROBE, _PROBE), bool)
    for operation in operations(group):
        index = int(np.flatnonzero((_candidates() == operation[:, :2]).all(axis=(1, 2)))[0])
        distance = (_grid(_PROBE) / _PROBE - operation[:, 2] + 0.5) % 1 - 0.5
        near[index] |= (np.abs(distance).max(axis=1) <= 0.13).reshape(_PROBE, _PROBE)
    return near
