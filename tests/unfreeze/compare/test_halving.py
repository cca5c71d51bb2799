"""Successive halving: what is dropped, and what the passes cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unfreeze.compare.halving import BOUND, Evaluated, Halving, first_count
from unfreeze.compare.scores import Scores

IMAGES = 800


class _Simulation:
    """Backbones with given accuracies and times per image, whose passes are counted."""

    def __init__(
        self, accuracies: dict[str, float], seconds: dict[str, float], latencies: dict[str, float] | None = None
    ) -> None:
        self.accuracies = accuracies
        self.latencies = latencies or seconds
        self.seconds = seconds
        self.passes = dict.fromkeys(accuracies, 0)
        self.failing: set[str] = set()

    def evaluate(self, name: str, count: int) -> Evaluated | None:
        if name in self.failing:
            return None
        self.passes[name] = max(self.passes[name], count)
        # All backbones find the same images hard, as real ones do.
        difficulty = np.random.default_rng(0).permutation(IMAGES)[:count] / IMAGES
        labels = np.arange(count) % 2
        scores = Scores(labels=labels, correct=difficulty < self.accuracies[name])
        return Evaluated(scores=scores, seconds=self.seconds[name])

    def halving(self) -> Halving:
        return Halving(latencies=self.latencies, images=IMAGES, least=6, evaluate=self.evaluate)

    def relative_cost(self, finalists: tuple[str, ...]) -> float:
        """Count the passes of all rungs, and those of the finalists over all images."""
        total = sum(self.passes[name] * self.seconds[name] for name in self.passes)
        total += sum(IMAGES * self.seconds[name] for name in finalists)
        return total / (IMAGES * max(self.seconds.values()))


def test_first_rung_costs_about_one_pass() -> None:
    """Ten equal backbones start with a sixteenth of the images; with more where most are fast, but at most twice."""
    assert first_count((1.0,) * 10, 1600, 6) == 100
    assert first_count((1.0,) * 4, 1600, 6) == 400
    assert first_count((*(0.4,) * 9, 1.0), 1600, 6) == 200  # 4.6 times the slowest, but 10 / 8 if all take as long
    assert first_count((*(0.01,) * 9, 1.0), 1600, 6) == 200
    assert first_count((1.0,) * 10, 1600, 300) == 300
    assert first_count((1.0,) * 10, 200, 300) == 200


def test_ten_equally_fast_backbones_cost_at_most_three() -> None:
    """By hand: 10/16 in the first rung, 5/16 in the second, and two finalists on all images: 2.94."""
    names = [f"b{number}" for number in range(10)]
    simulation = _Simulation({name: 0.5 + 0.001 * number for number, name in enumerate(names)}, dict.fromkeys(names, 1))
    finalists = simulation.halving().run()
    assert len(finalists) == 2
    assert sorted(simulation.passes.values()) == [50] * 5 + [100] * 5
    assert simulation.relative_cost(finalists) == pytest.approx(10 / 16 + 5 / 16 + 2)


@given(st.lists(st.tuples(st.floats(0.05, 0.99), st.floats(0.01, 1), st.floats(0.01, 1)), min_size=1, max_size=24))
def test_cost_is_bounded(backbones: list[tuple[float, float, float]]) -> None:
    """Whatever accuracies, times and latencies are, all passes cost at most three times those of the slowest."""
    names = [f"b{number}" for number in range(len(backbones))]
    accuracies, seconds, latencies = (dict(zip(names, values, strict=True)) for values in zip(*backbones, strict=True))
    simulation = _Simulation(accuracies, seconds, latencies)
    halving = simulation.halving()
    finalists = halving.run()
    assert finalists
    assert simulation.relative_cost(finalists) <= BOUND + 1e-9
    assert set(finalists) | set(halving.dropped) == set(accuracies)
    assert not set(finalists) & set(halving.dropped)


def test_three_backbones_are_all_finalists() -> None:
    """Three cannot cost more than three times the slowest, so none of them is dropped before."""
    simulation = _Simulation({"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 3, "b": 1, "c": 2})
    assert simulation.halving().run() == ("b", "c", "a")
    assert set(simulation.passes.values()) == {0}


def test_a_fast_backbone_is_not_dropped_by_a_slower_better_one() -> None:
    """The fastest is worse than all others, and a finalist; a slow one that is worse than a faster one is dropped."""
    accuracies = {"fast": 0.5, "middle": 0.9, "slow": 0.6, "slower": 0.7, "slowest": 0.95}
    seconds = {"fast": 0.05, "middle": 0.2, "slow": 0.5, "slower": 0.8, "slowest": 1.0}
    halving = _Simulation(accuracies, seconds).halving()
    assert halving.run() == ("fast", "middle", "slowest")
    reason = "after 200 images: middle is clearly more accurate, and not slower"
    assert halving.dropped == {"slow": reason, "slower": reason}


def test_backbones_that_fail_are_neither_finalists_nor_dropped() -> None:
    """The others go on, also if none is left."""
    names = ("a", "b", "c", "d", "e")
    simulation = _Simulation(dict.fromkeys(names, 0.5), {name: 1.0 + index for index, name in enumerate(names)})
    simulation.failing = {"a", "c"}
    halving = simulation.halving()
    finalists = halving.run()
    assert finalists[0] == "b"
    assert {"a", "c"}.isdisjoint({*finalists, *halving.dropped})
    simulation.failing = set(names)
    assert simulation.halving().run() == ()
