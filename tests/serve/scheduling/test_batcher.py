"""The dynamic batcher, with a runtime that blocks until the test releases it."""

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
PLAN = ExecutionPlan(instances=1, threads=1, max_batch=4, fused=False)
FUSED = ExecutionPlan(instances=2, threads=1, max_batch=4, fused=True)


class BlockingRuntime:
    """Returns the first byte of each image, once it is released; records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.released = threading.Event()
        self.fail_on: int | None = None
        self.decoded: list[int] = []

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Block until released, then classify."""
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        batch = self.batches[-1]
        assert self.released.wait(10)
        if self.fail_on in batch:
            raise RuntimeError("out of memory at 0xdeadbeef")
        return np.repeat(pixels[:, 0, 0, 0].astype(np.float32)[:, None], 2, 1)

    def preprocess(self, encoded: bytes) -> np.ndarray:
        """Decode an image, whose only byte is its value; 255 stands for a damaged image."""
        self.decoded.append(encoded[0])
        if encoded[0] == DAMAGED:
            raise DamagedImageError("the image is truncated or damaged")
        return images(encoded[0])[0]


def images(*values: int) -> np.ndarray:
    """Return one image of 2 x 2 pixels for each value."""
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def allocate(images: int) -> np.ndarray:
    """Allocate a buffer for preprocessed images."""
    return np.empty((images, 2, 2, 3), np.uint8)


async def submit(batcher: Batcher, pixels: np.ndarray | list[bytes], **limits: float) -> np.ndarray:
    """Submit a request."""
    return await batcher.submit(InferenceRequest(pixels, 2, **limits))


def run(
    scenario: Callable[[Batcher, BlockingRuntime], Awaitable[None]],
    plan: ExecutionPlan = PLAN,
    *,
    max_delay_ms: float = 0,
) -> BlockingRuntime:
    """Run a scenario on a started batcher."""
    runtime = BlockingRuntime()

    async def run_scenario() -> None:
        with ThreadPoolExecutor(2) as decoders:
            batcher = Batcher(runtime.run, runtime.preprocess, allocate, plan, decoders, max_delay_ms=max_delay_ms)
            batcher.start()
            try:
                await scenario(batcher, runtime)
            finally:
                runtime.released.set()
                await asyncio.to_thread(batcher.close)

    asyncio.run(run_scenario())
    return runtime


async def settle() -> None:
    """Let all tasks and threads run until they block."""
    for _ in range(5):
        await asyncio.sleep(0.01)


def test_queued_requests_form_one_batch_when_the_runtime_is_free() -> None:
    """The first request starts at once; those that arrive meanwhile are executed together, up to the largest batch."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        calls = []
        for value in range(6):
            calls.append(asyncio.create_task(submit(batcher, images(value))))
            await settle()
        assert runtime.batches == [[0]]
        runtime.released.set()
        answers = await asyncio.gather(*calls)
        assert [answer[0, 0] for answer in answers] == [0, 1, 2, 3, 4, 5]

    assert run(scenario).batches == [[0], [1, 2, 3, 4], [5]]


def test_a_full_batch_does_not_wait_for_its_delay() -> None:
    """With a delay the first request waits for others, but only until the batch is full or the batcher closes."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        runtime.released.set()
        started = time.monotonic()
        await asyncio.gather(*(submit(batcher, images(value)) for value in range(4)))
        assert time.monotonic() - started < 5
        await asyncio.gather(submit(batcher, images(7)), asyncio.to_thread(batcher.close))

    assert run(scenario, max_delay_ms=10_000).batches == [[0, 1, 2, 3], [7]]


def test_a_single_request_starts_after_the_delay() -> None:
    """A batch that is not full starts when the delay is over."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        runtime.released.set()
        answer = await asyncio.wait_for(submit(batcher, images(3)), 5)
        assert answer.tolist() == [[3, 3]]

    assert run(scenario, max_delay_ms=50).batches == [[3]]


def test_splits_a_large_request_into_batches() -> None:
    """A request larger than a batch is split, and its probabilities are in the order of its images."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        runtime.released.set()
        answer = await submit(batcher, images(*range(10)))
        assert answer[:, 0].tolist() == list(range(10))

    assert run(scenario).batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_cancelled_requests_are_not_executed() -> None:
    """A cancelled request leaves the queue and frees its images, and the other requests are answered."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        calls = [asyncio.create_task(submit(batcher, images(value))) for value in range(4)]
        await settle()
        calls[2].cancel()
        calls[0].cancel()
        await settle()
        kept = [len(request.images) for request in batcher._queue.requests()]
        assert sum(kept) == 1, "cancelled requests must not keep their images in memory"
        runtime.released.set()
        assert (await calls[1])[0, 0] == 1
        assert (await calls[3])[0, 0] == 3
        assert calls[0].cancelled()
        assert calls[2].cancelled()

    batches = run(scenario, replace(PLAN, max_batch=2)).batches
    assert [2] not in batches
    assert functools.reduce(operator.iadd, batches, []).count(2) == 0


def test_requests_are_not_executed_after_their_deadline() -> None:
    """A request that is still queued at its deadline fails with DeadlineError and never reaches the runtime."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        first = asyncio.create_task(submit(batcher, images(0)))
        await settle()
        late = asyncio.create_task(submit(batcher, images(1), deadline=time.monotonic() + 0.01))
        await asyncio.sleep(0.05)
        runtime.released.set()
        with pytest.raises(DeadlineError, match="deadline passed while the request was waiting"):
            await late
        assert (await first)[0, 0] == 0

    assert run(scenario).batches == [[0]]


def test_a_runtime_error_fails_only_the_requests_in_its_batch() -> None:
    """The error is raised in the callers of the batch; later requests are answered."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        runtime.fail_on = 1
        runtime.released.set()
        with pytest.raises(RuntimeError, match="out of memory"):
            await submit(batcher, images(1))
        assert (await submit(batcher, images(2)))[0, 0] == 2

    run(scenario)


def test_close_answers_queued_requests_and_rejects_new_ones() -> None:
    """After `close` is called no request is accepted, and all accepted ones are answered."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        calls = [asyncio.create_task(submit(batcher, images(value))) for value in range(6)]
        await settle()
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await settle()
        with pytest.raises(DrainingError, match="shutting down"):
            await submit(batcher, images(9))
        runtime.released.set()
        await closing
        assert [(await call)[0, 0] for call in calls] == list(range(6))

    run(scenario)


def test_encoded_images_are_decoded_while_the_runtime_is_busy() -> None:
    """They are ready when it is free, and are executed in one batch with preprocessed ones, in order of arrival."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        first = asyncio.create_task(submit(batcher, images(0)))
        await settle()
        others = [asyncio.create_task(submit(batcher, pixels)) for pixels in ([b"\1", b"\2"], images(3))]
        await settle()
        assert sorted(runtime.decoded) == [1, 2]
        assert runtime.batches == [[0]]
        runtime.released.set()
        assert [answer[:, 0].tolist() for answer in await asyncio.gather(first, *others)] == [[0], [1, 2], [3]]

    assert run(scenario).batches == [[0], [1, 2, 3]]


@pytest.mark.parametrize("plan", [PLAN, FUSED])
def test_a_damaged_image_fails_only_its_request(plan: ExecutionPlan) -> None:
    """The error names the image by its position, and other requests in the batch are answered."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        held = [asyncio.create_task(submit(batcher, images(0))) for _ in range(plan.instances)]
        await settle()
        good = asyncio.create_task(submit(batcher, [b"\1", b"\2"]))
        bad = asyncio.create_task(submit(batcher, [b"\3", bytes([DAMAGED])]))
        await settle()
        runtime.released.set()
        with pytest.raises(InvalidRequestError, match=r"^image 2 of 2: the image is truncated or damaged$"):
            await bad
        assert (await good)[:, 0].tolist() == [1, 2]
        await asyncio.gather(*held)

    run(scenario, plan)


def test_fused_instances_share_the_queue() -> None:
    """No instance takes more than its share, so that all of them decode at the same time."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        held = [asyncio.create_task(submit(batcher, images(0))) for _ in range(2)]
        await settle()
        call = asyncio.create_task(submit(batcher, [bytes([value]) for value in range(1, 5)]))
        await settle()
        assert runtime.decoded == []
        runtime.released.set()
        assert (await call)[:, 0].tolist() == [1, 2, 3, 4]
        await asyncio.gather(*held)

    batches = run(scenario, FUSED).batches
    assert batches[:2] == [[0], [0]]
    assert all(len(batch) <= 2 for batch in batches)
    assert sorted(itertools.chain(*batches[2:])) == [1, 2, 3, 4]


def test_priority_orders_the_queue() -> None:
    """Requests with lower numbers are executed first; equal priorities keep their order of arrival."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        calls = [asyncio.create_task(submit(batcher, images(0)))]
        await settle()
        for value, priority in ((1, 1000), (2, 1), (3, 1000), (4, 1), (5, 2000)):
            calls.append(asyncio.create_task(submit(batcher, images(value), priority=priority)))
            await settle()
        runtime.released.set()
        await asyncio.gather(*calls)

    assert run(scenario, replace(PLAN, max_batch=1)).batches == [[0], [2], [4], [1], [3], [5]]


def test_queue_time_is_never_negative() -> None:
    """It ends when a request joins a batch, also if the batch started to form before the request arrived."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        requests = [InferenceRequest(images(0), 2)]
        calls = [asyncio.create_task(batcher.submit(requests[0]))]
        for value in (b"\1", b"\2"):
            await settle()
            requests.append(InferenceRequest([value], 2))
            calls.append(asyncio.create_task(batcher.submit(requests[-1])))
        await settle()
        runtime.released.set()
        await asyncio.gather(*calls)
        assert all(request.timing.started >= request.timing.arrived for request in requests)

    assert run(scenario).batches == [[0], [1, 2]]


def test_rejects_a_deadline_that_cannot_be_met() -> None:
    """The estimate counts the images before the request; without any, the request is tried."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        call = asyncio.create_task(submit(batcher, images(1), deadline=time.monotonic() + 60))
        await settle()
        with pytest.raises(DeadlineError, match="would take about 3000 ms, which is after its deadline"):
            await submit(batcher, images(0, 0), deadline=time.monotonic() + 0.5)
        runtime.released.set()
        assert (await call)[0, 0] == 1
        await asyncio.sleep(0.05)  # until the instance is free again
        assert len(await submit(batcher, images(0, 0), deadline=time.monotonic() + 0.5)) == 2

    assert run(scenario, replace(PLAN, image_s=1.0)).batches == [[1], [0, 0]]


def test_estimates_ignore_requests_of_lower_priority() -> None:
    """An estimate counts only the requests that are executed first, not the whole queue."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        bulk = [asyncio.create_task(submit(batcher, images(*[9] * 4), priority=5000)) for _ in range(3)]
        await settle()
        deadline = time.monotonic() + 7
        with pytest.raises(DeadlineError):
            await submit(batcher, images(0), deadline=deadline, priority=5000)
        urgent = asyncio.create_task(submit(batcher, images(1), deadline=deadline, priority=1))
        await settle()
        runtime.released.set()
        assert (await urgent)[0, 0] == 1
        await asyncio.gather(*bulk)

    run(scenario, replace(PLAN, image_s=1.0))


class CancelledDuringAssembly(InferenceRequest):
    """A request that is cancelled at the worst moment: after its batch has found it to be pending."""

    checks = 0

    def is_pending(self) -> bool:
        """Return the true state; cancel the request at the second check."""
        pending, self.checks = super().is_pending(), self.checks + 1
        if self.checks == 2:
            self.cancel()
        return pending


def test_cancelling_while_a_batch_is_assembled_affects_no_other_request() -> None:
    """The other requests of the batch are answered, and the instance goes on."""

    async def scenario(batcher: Batcher, runtime: BlockingRuntime) -> None:
        first = asyncio.create_task(submit(batcher, images(1)))
        await settle()
        cancelled = asyncio.create_task(batcher.submit(CancelledDuringAssembly(images(2), 2)))
        other = asyncio.create_task(submit(batcher, images(4)))
        await settle()
        runtime.released.set()
        assert (await asyncio.wait_for(other, 10))[0, 0] == 4
        alone = asyncio.create_task(batcher.submit(CancelledDuringAssembly(images(5), 2)))
        await asyncio.wait((first, cancelled, alone), timeout=10)
        assert (await asyncio.wait_for(submit(batcher, images(6)), 10))[0, 0] == 6

    run(scenario, replace(FUSED, instances=1))
