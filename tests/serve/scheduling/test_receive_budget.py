"""The memory of requests that are being received."""

import asyncio
import time

import pytest

from unfreeze.contract.errors import DeadlineError, QueueFullError
from unfreeze.serve.scheduling import receive_budget
from unfreeze.serve.scheduling.receive_budget import ReceiveBudget


def test_reservations_wait_in_order() -> None:
    """The first that waits is the first that gets memory."""
    order: list[int] = []

    async def run() -> None:
        budget = ReceiveBudget(10)

        async def hold(number: int) -> None:
            await budget.reserve(6, None)
            order.append(number)
            await asyncio.sleep(0.01)
            budget.give(6)

        await asyncio.gather(*(hold(number) for number in range(5)))

    asyncio.run(run())
    assert order == [0, 1, 2, 3, 4]


def test_never_more_than_the_limit_is_held() -> None:
    """Over reservations and what is taken at once; one that is larger than the limit goes alone."""
    held, peaks = [0], list[int]()

    async def run() -> None:
        budget = ReceiveBudget(100, on_change=lambda size: held.__setitem__(0, size))

        async def hold(size: int) -> None:
            await budget.reserve(size, None)
            peaks.append(held[0])
            await asyncio.sleep(0.001)
            budget.give(size)

        await asyncio.gather(*(hold(30 + number % 3) for number in range(20)))
        budget.take(90)
        with pytest.raises(QueueFullError, match="may take up to 0 MiB together"):
            budget.take(11)
        budget.give(90)
        await budget.reserve(500, None)
        budget.give(500)

    asyncio.run(run())
    assert max(peaks) <= 100
    assert max(peaks) > 60
    assert held == [0]


@pytest.mark.parametrize(("deadline_s", "error"), [(0.05, DeadlineError), (None, QueueFullError)])
def test_waiting_ends(deadline_s: float | None, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline, or after the longest wait; then the next in line gets its turn."""
    monkeypatch.setattr(receive_budget, "_MAX_WAIT_S", 0.1)

    async def run() -> None:
        budget = ReceiveBudget(10)
        await budget.reserve(10, None)
        with pytest.raises(error):
            await budget.reserve(10, None if deadline_s is None else time.monotonic() + deadline_s)
        budget.give(10)
        await asyncio.wait_for(budget.reserve(10, None), 1)

    asyncio.run(run())


def test_other_processes_count() -> None:
    """What they give back is noticed without being told."""
    elsewhere = [8]

    async def run() -> None:
        budget = ReceiveBudget(10, lambda: elsewhere[0])
        with pytest.raises(QueueFullError):
            budget.take(3)
        waiting = asyncio.create_task(budget.reserve(3, None))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        elsewhere[0] = 0
        await asyncio.wait_for(waiting, 1)

    asyncio.run(run())
