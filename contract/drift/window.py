"""Windows over what a model sees, and their distance from the reference."""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.drift.chi_square import chi_square_quantile
from unfreeze.contract.drift.features import (
    FALSE_ALARM,
    FEWEST_IMAGES,
    FeatureDrift,
    feature_drift,
    no_products,
    products_of,
)
from unfreeze.contract.drift.histogram import NO_DISTANCE, Distance, distance
from unfreeze.contract.drift.reference import LABEL, OOD_SCORE, SIZE, DriftReference, measure, sample, side_of

FEATURES = "features"
_PARTS = 10
_GROUP = 64  # images that are counted at once
_SMALLEST_PSI = 0.1  # below it, a difference is of no practical interest


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far a window is from the reference in one quantity.

    Args:
        name: of the quantity.
        images: of the window.
        distance: from the reference.
        alarm: whether it is larger than chance and size of the window explain, and large enough to matter.
    """

    name: str
    images: int
    distance: Distance
    alarm: bool

    @property
    def excess(self) -> float:
        """The population stability index, less its expected value without any drift; at least 0."""
        return max(0.0, self.distance.psi - self.distance.expected_psi)


@dataclass(frozen=True, kw_only=True)
class WindowDrift:
    """How far a window is from the validation images.

    Args:
        quantities: in each quantity; empty if nothing is measured.
        features: in the features; None if the model does not return them.
    """

    quantities: tuple[Drift, ...] = ()
    features: FeatureDrift | None = None

    @property
    def alarms(self) -> tuple[str, ...]:
        """What has an alarm."""
        features = (FEATURES,) if self.features is not None and self.features.alarm else ()
        return (*(one.name for one in self.quantities if one.alarm), *features)


def drift_from(document: Mapping[str, Any]) -> WindowDrift:
    """Read what `dataclasses.asdict` has made of a `WindowDrift`."""
    features = document["features"]
    return WindowDrift(
        quantities=tuple(Drift(**{**one, "distance": Distance(**one["distance"])}) for one in document["quantities"]),
        features=None if features is None else FeatureDrift(**features),
    )


def drift_of(reference: DriftReference, counts: Mapping[str, np.ndarray]) -> tuple[Drift, ...]:
    """Compare counts with a reference.

    Args:
        reference: of the model.
        counts: by name of the quantity and bin; without any image, the distance is 0.
    """
    found = []
    for quantity in reference.quantities:
        own = counts.get(quantity.name)
        images = 0 if own is None else int(own.sum())
        if own is None or not images:
            found.append(Drift(name=quantity.name, images=0, distance=NO_DISTANCE, alarm=False))
            continue
        away = distance(quantity.histogram.counts, own.tolist())
        unlikely = away.statistic > chi_square_quantile(1 - FALSE_ALARM, away.freedom)
        one = Drift(name=quantity.name, images=images, distance=away, alarm=False)
        relevant = one.excess > _SMALLEST_PSI and images >= FEWEST_IMAGES
        found.append(replace(one, alarm=unlikely and relevant))
    return tuple(found)


class Window:
    """Counts of the latest images, thread-safe.

    A window consists of ten parts. When the newest is full, the oldest is dropped, so that nine tenths of the size to
    all of it are counted. Images are counted in groups, which takes less time for each.

    Args:
        reference: whose bins are counted.
        images: size of the window.
        features: number of projected features at the end of the model's answers.
    """

    def __init__(self, reference: DriftReference, images: int, features: int = 0) -> None:
        self.reference = reference
        self._features = features
        self._histograms = {one.name: one.histogram for one in reference.quantities}
        self._part = max(1, images // _PARTS)
        self._lock = threading.Lock()
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._sides: list[float] = []
        self._images_waiting = 0
        self._full: deque[dict[str, np.ndarray]] = deque(maxlen=_PARTS - 1)
        self._newest, self._in_newest = self._empty(), 0

    def add(self, pixels: UInt8[np.ndarray, "n h w 3"], answers: Float32[np.ndarray, "n a"]) -> None:
        """Count images.

        Args:
            pixels: prepared images; copied in part.
            answers: probabilities, the out-of-distribution score and projected features, as far as the model has them.
        """
        self.add_sampled(sample(pixels), answers)

    def add_sampled(self, sampled: UInt8[np.ndarray, "2 n values"], answers: Float32[np.ndarray, "n a"]) -> None:
        """Count images of which `sample` has copied a part; see `add`."""
        with self._lock:
            self._waiting.append((sampled, answers))
            self._images_waiting += len(answers)
            if self._images_waiting >= min(_GROUP, self._part):
                self._count()

    def add_size(self, size: tuple[int, int]) -> None:
        """Count the width and height of an encoded image; those of preprocessed images are not known."""
        with self._lock:
            self._sides.append(side_of(size))

    def counts(self) -> dict[str, np.ndarray]:
        """Return the counts of all images in the window, by name of the quantity and bin."""
        return {name: sums for name, sums in self._sums().items() if name != FEATURES}

    def drift(self) -> WindowDrift:
        """Compare the window with the reference."""
        sums = self._sums()
        features = feature_drift(self.reference.images, sums[FEATURES]) if self._features else None
        return WindowDrift(quantities=drift_of(self.reference, sums), features=features)

    def _sums(self) -> dict[str, np.ndarray]:
        """Return the counts of each quantity, and the products of the features."""
        with self._lock:
            self._count()
            parts = [*self._full, self._newest]
            return {name: np.sum([part[name] for part in parts], axis=0) for name in self._newest}

    def _count(self) -> None:
        sides, self._sides = np.asarray(self._sides, np.float64), []
        if SIZE in self._newest:
            self._newest[SIZE] += self._histograms[SIZE].count(sides)
        if not self._waiting:
            return
        samples, answers = zip(*self._waiting, strict=True)
        self._measure(np.concatenate(samples, axis=1), np.concatenate(answers))
        self._in_newest += self._images_waiting
        self._waiting, self._images_waiting = [], 0
        if self._in_newest >= self._part:
            self._full.append(self._newest)
            self._newest, self._in_newest = self._empty(), 0

    def _measure(self, sampled: UInt8[np.ndarray, "2 n values"], rows: Float32[np.ndarray, "n a"]) -> None:
        classes, has_score = self._histograms[LABEL].bins, OOD_SCORE in self._histograms
        for name, values in measure(sampled, rows[:, :classes], rows[:, classes] if has_score else None).items():
            if name in self._newest:
                self._newest[name] += self._histograms[name].count(values)
        if self._features:
            self._newest[FEATURES] += products_of(rows[:, classes + has_score :])

    def _empty(self) -> dict[str, np.ndarray]:
        counts = {name: np.zeros(histogram.bins, np.int64) for name, histogram in self._histograms.items()}
        return counts | ({FEATURES: no_products(self._features)} if self._features else {})
