"""The dynamic batcher, with a runtime that the test holds back and lets go."""

import asyncio
import functools
import operator
import threading
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from contract.errors import DeadlineError, DrainingError
from serve.batcher import Batcher


class HeldRuntime:
    """Answers each picture with its first byte, once it is let go; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.let_go = threading.Event()
        self.fail_on: int | None = None

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Wait, then answer."""
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        assert self.let_go.wait(10)
        if self.fail_on in self.batches[-1]:
            raise RuntimeError("out of memory at 0xdeadbeef")
        return np.repeat(pixels[:, 0, 0, 0].astype(np.float32)[:, None], 2, 1)


def pictures(*values: int) -> np.ndarray:
    """Make one picture of 2 x 2 pixels for each value."""
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def run(
    scenario: Callable[[Batcher, HeldRuntime], Awaitable[None]], *, max_batch: int = 4, max_delay_ms: float = 0
) -> HeldRuntime:
    """Run a scenario on a started batcher."""
    runtime = HeldRuntime()

    async def whole() -> None:
        batcher = Batcher(runtime.run, max_batch=max_batch, max_delay_ms=max_delay_ms)
        batcher.start()
        try:
            await scenario(batcher, runtime)
        finally:
            runtime.let_go.set()
            await batcher.close()

    asyncio.run(whole())
    return runtime


async def settled() -> None:
    """Let every task and thread that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0.01)


def test_what_waits_leaves_as_one_batch_when_the_runtime_is_free() -> None:
    """The first request leaves alone at once; those that come meanwhile leave together, up to the largest batch."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        calls = []
        for value in range(6):
            calls.append(asyncio.create_task(batcher.submit(pictures(value))))
            await settled()
        assert runtime.batches == [[0]]
        runtime.let_go.set()
        answers = await asyncio.gather(*calls)
        assert [answer[0, 0] for answer in answers] == [0, 1, 2, 3, 4, 5]

    assert run(scenario).batches == [[0], [1, 2, 3, 4], [5]]


def test_a_delay_fills_the_batch() -> None:
    """With a delay the first request waits for others; a full batch does not wait for the delay to end."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        runtime.let_go.set()
        begun = time.monotonic()
        await asyncio.gather(*(batcher.submit(pictures(value)) for value in range(4)))
        assert time.monotonic() - begun < 5
        await asyncio.gather(batcher.submit(pictures(7)), batcher.close())

    assert run(scenario, max_delay_ms=10_000).batches == [[0, 1, 2, 3], [7]]


def test_a_lone_request_leaves_when_its_delay_is_over() -> None:
    """Nobody waits longer than the delay for company."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        runtime.let_go.set()
        answer = await asyncio.wait_for(batcher.submit(pictures(3)), 5)
        assert answer.tolist() == [[3, 3]]

    assert run(scenario, max_delay_ms=50).batches == [[3]]


def test_many_pictures_of_one_caller_go_in_several_batches() -> None:
    """More pictures than a batch holds are split, and the answer is in their order."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        runtime.let_go.set()
        answer = await batcher.submit(pictures(*range(10)))
        assert answer[:, 0].tolist() == list(range(10))

    assert run(scenario).batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_cancelled_caller_leaves_the_queue_and_harms_nobody() -> None:
    """Work of a caller that has gone is not run, and its batch-mates are answered."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        calls = [asyncio.create_task(batcher.submit(pictures(value))) for value in range(4)]
        await settled()
        calls[2].cancel()
        calls[0].cancel()
        await settled()
        assert len(batcher._waiting) == 2, "what nobody waits for keeps no memory"
        runtime.let_go.set()
        assert (await calls[1])[0, 0] == 1
        assert (await calls[3])[0, 0] == 3
        assert calls[0].cancelled()
        assert calls[2].cancelled()

    batches = run(scenario, max_batch=2).batches
    assert [2] not in batches
    assert functools.reduce(operator.iadd, batches, []).count(2) == 0


def test_work_whose_deadline_passed_is_dropped_before_it_costs_anything() -> None:
    """A request that waited past its deadline gets DeadlineError and never reaches the runtime."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        first = asyncio.create_task(batcher.submit(pictures(0)))
        await settled()
        late = asyncio.create_task(batcher.submit(pictures(1), deadline=time.monotonic() + 0.01))
        await asyncio.sleep(0.05)
        runtime.let_go.set()
        with pytest.raises(DeadlineError, match="deadline passed while the request was waiting"):
            await late
        assert (await first)[0, 0] == 0

    assert run(scenario).batches == [[0]]


def test_a_failing_batch_fails_its_callers_alone() -> None:
    """Those in a batch that the runtime fails on get its error; later ones are answered."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        runtime.fail_on = 1
        runtime.let_go.set()
        with pytest.raises(RuntimeError, match="out of memory"):
            await batcher.submit(pictures(1))
        assert (await batcher.submit(pictures(2)))[0, 0] == 2

    run(scenario)


def test_closing_answers_what_waits_and_refuses_what_comes() -> None:
    """After close begins nothing is accepted, and all that was accepted is answered."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        calls = [asyncio.create_task(batcher.submit(pictures(value))) for value in range(6)]
        await settled()
        closing = asyncio.create_task(batcher.close())
        await settled()
        with pytest.raises(DrainingError, match="shutting down"):
            await batcher.submit(pictures(9))
        runtime.let_go.set()
        await closing
        assert [(await call)[0, 0] for call in calls] == list(range(6))

    run(scenario)
