"""Successive halving over backbones, within a bounded number of image passes.

Jamieson and Talwalkar 2016 (arXiv:1502.07943), with two changes: a backbone competes only with faster ones, because the
result is a Pareto front and not a single best; and passes are weighted by the time that each backbone takes per image.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from unfreeze.compare.scores import Scores, lead

BOUND = 3  # all passes cost at most this many times what the slowest backbone costs on all images
_CLEARLY = 2.0  # standard errors of the paired difference
_FEWEST_FINALISTS = 2


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The result of a pass over some images.

    Args:
        scores: cross-validated on these images.
        seconds: per image.
    """

    scores: Scores
    seconds: float


@dataclass(kw_only=True)
class Halving:
    """The state of a search for the backbones that are worth a pass over all images.

    Args:
        latencies: of the exported models, by backbone.
        images: number of all images.
        least: smallest number of images that can be cross-validated.
        evaluate: cross-validates a backbone on the first images; None if it fails. Only images that were not
            used for this backbone before cost a pass.
        dropped: why backbones were dropped.
        evaluated: the latest result of each backbone.
        passes: number of images that were used so far, by backbone.
    """

    latencies: Mapping[str, float]
    images: int
    least: int
    evaluate: Callable[[str, int], Evaluated | None]
    dropped: dict[str, str] = field(default_factory=dict)
    evaluated: dict[str, Evaluated] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)

    def run(self) -> tuple[str, ...]:
        """Return the finalists, the fastest first: passes of all of them over all images stay within the bound."""
        alive = sorted(self.latencies, key=self.latencies.__getitem__)
        if len(alive) <= BOUND:
            return tuple(alive)
        count = first_count(tuple(self.latencies.values()), self.images, self.least)
        alive = self._rung(alive, count)
        while alive and self._cost(alive, self.images) > self._left() and 2 * count < self.images:
            halved = self.thinned(alive, partial(self._is_half, alive))
            if self._cost(halved, count) + self._reserve(halved) > self._left():
                break
            self._drop(
                alive, halved, f"after {count} images: gains the least over a faster one, and halving must go on"
            )
            count *= 2
            alive = self._rung(halved, count)
        finalists = self.thinned(alive, lambda kept: self._cost(kept, self.images) <= self._left(), least=1)
        self._drop(alive, finalists, f"after {count} images: gains the least over a faster one, to bound the cost")
        return tuple(finalists)

    def thinned(
        self, alive: Sequence[str], suffices: Callable[[Sequence[str]], bool], *, least: int = _FEWEST_FINALISTS
    ) -> list[str]:
        """Drop the backbone that gains the least over a faster one, until the others suffice or few are left.

        Args:
            alive: the fastest first, which is always kept.
            suffices: whether the remaining ones are few enough.
            least: number of backbones to keep at least.
        """
        kept = list(alive)
        while len(kept) > least and not suffices(kept):
            gains = {name: self._gain(name, kept[:index]) for index, name in enumerate(kept)}
            kept.remove(min(kept, key=gains.__getitem__))
        return kept

    def _rung(self, names: Sequence[str], count: int) -> list[str]:
        """Evaluate on the first images; return those that may still be on the front."""
        found: list[str] = []
        for name in names:
            result = self.evaluate(name, count)
            if result is not None:
                self.evaluated[name] = result
                self.passes[name] = count
                found.append(name)
        better = {name: self._clearly_better(name, found[:index]) for index, name in enumerate(found)}
        for name, other in better.items():
            if other is not None:
                self.dropped[name] = f"after {count} images: {other} is clearly more accurate, and not slower"
        return [name for name in found if name not in self.dropped]

    def _clearly_better(self, name: str, faster: Sequence[str]) -> str | None:
        scores = self.evaluated[name].scores
        return next((other for other in faster if lead(self.evaluated[other].scores, scores) > _CLEARLY), None)

    def _is_half(self, whole: Sequence[str], kept: Sequence[str]) -> bool:
        """Return whether some of the backbones cost at most half of what all cost per image."""
        return 2 * self._cost(kept, 1) <= self._cost(whole, 1)

    def _gain(self, name: str, faster: Sequence[str]) -> float:
        """Return the lead over the most accurate of the faster ones; infinite for the fastest one."""
        if not faster:
            return math.inf
        best = max(faster, key=lambda other: self.evaluated[other].scores.compared.mean)
        return lead(self.evaluated[name].scores, self.evaluated[best].scores)

    def _drop(self, before: Sequence[str], after: Sequence[str], reason: str) -> None:
        self.dropped.update({name: reason for name in before if name not in after})

    def _cost(self, names: Sequence[str], count: int) -> float:
        return sum(self.evaluated[name].seconds * count for name in names)

    def _reserve(self, names: Sequence[str]) -> float:
        """Return the cost of two finalists: the fastest, and any other one."""
        fastest, *others = (self.evaluated[name].seconds * self.images for name in names)
        return fastest + max(others, default=0.0)

    def _slowest(self) -> float:
        return max(result.seconds for result in self.evaluated.values()) * self.images

    def _spent(self) -> float:
        return sum(self.evaluated[name].seconds * count for name, count in self.passes.items())

    def _left(self) -> float:
        return BOUND * self._slowest() - self._spent()


def first_count(latencies: Sequence[float], images: int, least: int) -> int:
    """Return the number of images of the first rung.

    All backbones together should cost at most one pass of the slowest over all images, if passes take as long as the
    exported models; and however long they take, at most two, so that one finalist remains affordable.

    Args:
        latencies: of the backbones.
        images: number of all images.
        least: smallest number of images that can be cross-validated; it takes precedence.
    """
    passes = max(sum(latencies) / max(latencies), len(latencies) / 2)
    return min(images, max(least, images >> math.ceil(math.log2(passes))))
