"""The dynamic batcher, with a runtime that the test holds back and lets go."""

import asyncio
import functools
import itertools
import operator
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from unfreeze.contract.errors import DamagedImageError, DeadlineError, DrainingError, InvalidRequestError
from unfreeze.serve.scheduling.batcher import Batcher
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan
from unfreeze.serve.scheduling.request import InferenceRequest

DAMAGED = 255
PLAN = ExecutionPlan(instances=1, threads=1, batch=4, fused=False)
FUSED = ExecutionPlan(instances=2, threads=1, batch=4, fused=True)


class HeldRuntime:
    """Answers each image with its first byte, once it is let go; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.let_go = threading.Event()
        self.fail_on: int | None = None
        self.decoded: list[int] = []

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Wait, then answer."""
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        batch = self.batches[-1]
        assert self.let_go.wait(10)
        if self.fail_on in batch:
            raise RuntimeError("out of memory at 0xdeadbeef")
        return np.repeat(pixels[:, 0, 0, 0].astype(np.float32)[:, None], 2, 1)

    def prepare(self, encoded: bytes) -> np.ndarray:
        """Decode an image, whose only byte is its value; 255 is damaged."""
        self.decoded.append(encoded[0])
        if encoded[0] == DAMAGED:
            raise DamagedImageError("the image is truncated or damaged")
        return images(encoded[0])[0]


def images(*values: int) -> np.ndarray:
    """Make one image of 2 x 2 pixels for each value."""
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def room_for(images: int) -> np.ndarray:
    """Allocate memory for prepared images."""
    return np.empty((images, 2, 2, 3), np.uint8)


async def submit(batcher: Batcher, pixels: np.ndarray | list[bytes], **limits: float) -> np.ndarray:
    """Ask for an answer."""
    return await batcher.submit(InferenceRequest(pixels, 2, **limits))


def run(
    scenario: Callable[[Batcher, HeldRuntime], Awaitable[None]], plan: ExecutionPlan = PLAN, *, max_delay_ms: float = 0
) -> HeldRuntime:
    """Run a scenario on a started batcher."""
    runtime = HeldRuntime()

    async def whole() -> None:
        with ThreadPoolExecutor(2) as decoders:
            batcher = Batcher(runtime.run, runtime.prepare, room_for, plan, decoders, max_delay_ms=max_delay_ms)
            batcher.start()
            try:
                await scenario(batcher, runtime)
            finally:
                runtime.let_go.set()
                await asyncio.to_thread(batcher.close)

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
            calls.append(asyncio.create_task(submit(batcher, images(value))))
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
        await asyncio.gather(*(submit(batcher, images(value)) for value in range(4)))
        assert time.monotonic() - begun < 5
        await asyncio.gather(submit(batcher, images(7)), asyncio.to_thread(batcher.close))

    assert run(scenario, max_delay_ms=10_000).batches == [[0, 1, 2, 3], [7]]


def test_a_lone_request_leaves_when_its_delay_is_over() -> None:
    """Nobody waits longer than the delay for company."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        runtime.let_go.set()
        answer = await asyncio.wait_for(submit(batcher, images(3)), 5)
        assert answer.tolist() == [[3, 3]]

    assert run(scenario, max_delay_ms=50).batches == [[3]]


def test_many_images_of_one_caller_go_in_several_batches() -> None:
    """More images than a batch holds are split, and the answer is in their order."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        runtime.let_go.set()
        answer = await submit(batcher, images(*range(10)))
        assert answer[:, 0].tolist() == list(range(10))

    assert run(scenario).batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_cancelled_caller_leaves_the_queue_and_harms_nobody() -> None:
    """InferenceRequest of a caller that has gone is not run, and its batch-mates are answered."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        calls = [asyncio.create_task(submit(batcher, images(value))) for value in range(4)]
        await settled()
        calls[2].cancel()
        calls[0].cancel()
        await settled()
        kept = [len(work.images) for work in batcher._waiting.requests()]
        assert sum(kept) == 1, "what nobody waits for keeps no memory"
        runtime.let_go.set()
        assert (await calls[1])[0, 0] == 1
        assert (await calls[3])[0, 0] == 3
        assert calls[0].cancelled()
        assert calls[2].cancelled()

    batches = run(scenario, replace(PLAN, batch=2)).batches
    assert [2] not in batches
    assert functools.reduce(operator.iadd, batches, []).count(2) == 0


def test_work_whose_deadline_passed_is_dropped_before_it_costs_anything() -> None:
    """A request that waited past its deadline gets DeadlineError and never reaches the runtime."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        first = asyncio.create_task(submit(batcher, images(0)))
        await settled()
        late = asyncio.create_task(submit(batcher, images(1), deadline=time.monotonic() + 0.01))
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
            await submit(batcher, images(1))
        assert (await submit(batcher, images(2)))[0, 0] == 2

    run(scenario)


def test_closing_answers_what_waits_and_refuses_what_comes() -> None:
    """After close begins nothing is accepted, and all that was accepted is answered."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        calls = [asyncio.create_task(submit(batcher, images(value))) for value in range(6)]
        await settled()
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await settled()
        with pytest.raises(DrainingError, match="shutting down"):
            await submit(batcher, images(9))
        runtime.let_go.set()
        await closing
        assert [(await call)[0, 0] for call in calls] == list(range(6))

    run(scenario)


def test_encoded_images_are_decoded_while_the_runtime_is_busy() -> None:
    """They are ready when it is free, and leave as one batch with prepared ones, in their order."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        first = asyncio.create_task(submit(batcher, images(0)))
        await settled()
        others = [asyncio.create_task(submit(batcher, work)) for work in ([b"\1", b"\2"], images(3))]
        await settled()
        assert sorted(runtime.decoded) == [1, 2]
        assert runtime.batches == [[0]]
        runtime.let_go.set()
        assert [answer[:, 0].tolist() for answer in await asyncio.gather(first, *others)] == [[0], [1, 2], [3]]

    assert run(scenario).batches == [[0], [1, 2, 3]]


@pytest.mark.parametrize("plan", [PLAN, FUSED])
def test_a_damaged_image_fails_its_request_alone(plan: ExecutionPlan) -> None:
    """It is named by its place, and those in the same batch are answered."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        held = [asyncio.create_task(submit(batcher, images(0))) for _ in range(plan.instances)]
        await settled()
        good = asyncio.create_task(submit(batcher, [b"\1", b"\2"]))
        bad = asyncio.create_task(submit(batcher, [b"\3", bytes([DAMAGED])]))
        await settled()
        runtime.let_go.set()
        with pytest.raises(InvalidRequestError, match=r"^image 2 of 2: the image is truncated or damaged$"):
            await bad
        assert (await good)[:, 0].tolist() == [1, 2]
        await asyncio.gather(*held)

    run(scenario, plan)


def test_instances_share_what_waits() -> None:
    """Where each decodes what it takes, none takes more than its share, so that all work at the same time."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        held = [asyncio.create_task(submit(batcher, images(0))) for _ in range(2)]
        await settled()
        call = asyncio.create_task(submit(batcher, [bytes([value]) for value in range(1, 5)]))
        await settled()
        assert runtime.decoded == []
        runtime.let_go.set()
        assert (await call)[:, 0].tolist() == [1, 2, 3, 4]
        await asyncio.gather(*held)

    batches = run(scenario, FUSED).batches
    assert batches[:2] == [[0], [0]]
    assert all(len(batch) <= 2 for batch in batches)
    assert sorted(itertools.chain(*batches[2:])) == [1, 2, 3, 4]


def test_what_is_urgent_goes_first() -> None:
    """A lower number overtakes; among equals the first to come is the first to go."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        calls = [asyncio.create_task(submit(batcher, images(0)))]
        await settled()
        for value, priority in ((1, 1000), (2, 1), (3, 1000), (4, 1), (5, 2000)):
            calls.append(asyncio.create_task(submit(batcher, images(value), priority=priority)))
            await settled()
        runtime.let_go.set()
        await asyncio.gather(*calls)

    assert run(scenario, replace(PLAN, batch=1)).batches == [[0], [2], [4], [1], [3], [5]]


def test_waiting_is_counted_from_arrival_to_being_taken() -> None:
    """Also of what joins a batch that is forming already: nobody waits for less than nothing."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        works = [InferenceRequest(images(0), 2)]
        calls = [asyncio.create_task(batcher.submit(works[0]))]
        for value in (b"\1", b"\2"):
            await settled()
            works.append(InferenceRequest([value], 2))
            calls.append(asyncio.create_task(batcher.submit(works[-1])))
        await settled()
        runtime.let_go.set()
        await asyncio.gather(*calls)
        assert all(work.times.began >= work.times.arrived for work in works)

    assert run(scenario).batches == [[0], [1, 2]]


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    """By what images took until now, and how many go before it; where none does, it is tried."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        call = asyncio.create_task(submit(batcher, images(1), deadline=time.monotonic() + 60))
        await settled()
        with pytest.raises(DeadlineError, match="would take about 3000 ms, longer than the deadline leaves"):
            await submit(batcher, images(0, 0), deadline=time.monotonic() + 0.5)
        runtime.let_go.set()
        assert (await call)[0, 0] == 1
        await asyncio.sleep(0.05)  # until the instance is free again
        assert len(await submit(batcher, images(0, 0), deadline=time.monotonic() + 0.5)) == 2

    assert run(scenario, replace(PLAN, image_s=1.0)).batches == [[1], [0, 0]]


def test_what_is_less_urgent_keeps_nobody_from_being_in_time() -> None:
    """An estimate counts what goes before a request, not all that waits."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        bulk = [asyncio.create_task(submit(batcher, images(*[9] * 4), priority=5000)) for _ in range(3)]
        await settled()
        deadline = time.monotonic() + 7
        with pytest.raises(DeadlineError):
            await submit(batcher, images(0), deadline=deadline, priority=5000)
        urgent = asyncio.create_task(submit(batcher, images(1), deadline=deadline, priority=1))
        await settled()
        runtime.let_go.set()
        assert (await urgent)[0, 0] == 1
        await asyncio.gather(*bulk)

    run(scenario, replace(PLAN, image_s=1.0))


class HastyWork(InferenceRequest):
    """A request whose caller gives up in the worst moment: when it was found to be wanted, as its batch is formed."""

    asked = 0

    def is_wanted(self) -> bool:
        """Say yes the second time too, and give up."""
        wanted, self.asked = super().is_wanted(), self.asked + 1
        if self.asked == 2:
            self.give_up()
        return wanted


def test_who_gives_up_while_images_are_gathered_harms_nobody() -> None:
    """Those in the same batch are answered, and the instance goes on."""

    async def scenario(batcher: Batcher, runtime: HeldRuntime) -> None:
        first = asyncio.create_task(submit(batcher, images(1)))
        await settled()
        hasty = asyncio.create_task(batcher.submit(HastyWork(images(2), 2)))
        patient = asyncio.create_task(submit(batcher, images(4)))
        await settled()
        runtime.let_go.set()
        assert (await asyncio.wait_for(patient, 10))[0, 0] == 4
        alone = asyncio.create_task(batcher.submit(HastyWork(images(5), 2)))
        await asyncio.wait((first, hasty, alone), timeout=10)
        assert (await asyncio.wait_for(submit(batcher, images(6)), 10))[0, 0] == 6

    run(scenario, ExecutionPlan(instances=1, threads=1, batch=4, fused=True))
