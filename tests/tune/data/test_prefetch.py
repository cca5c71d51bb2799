"""A parallel map that runs ahead of its consumer."""

import threading
import time
from collections.abc import Iterator

import pytest

from unfreeze.contract.cores import usable_cores
from unfreeze.tune.data.prefetch import map_ahead


def test_results_come_in_order_from_several_threads() -> None:
    """Whichever item is done first; without items there are no results."""
    never = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            never.wait(0.05)  # the first item is done last
        return 2 * item

    assert list(map_ahead(work, range(200))) == [2 * item for item in range(200)]
    assert list(map_ahead(work, [])) == []


def test_only_a_few_items_are_started_ahead() -> None:
    """The results of a long iterable are never in memory at once."""
    begun: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            begun.append(item)
            yield item

    results = map_ahead(lambda item: item, items())
    assert [next(results) for _ in range(10)] == list(range(10))
    assert 10 <= len(begun) <= 10 + 64
    results.close()


def test_an_error_reaches_the_consumer_and_stops_the_rest() -> None:
    """Items that have not started by then never start."""
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        if item == 3:
            raise ValueError("three")
        if item > 3:
            time.sleep(0.05)

    results = map_ahead(work, range(10_000))
    with pytest.raises(ValueError, match="three"):
        list(results)
    assert len(done) <= 4 + 2 * (usable_cores())
