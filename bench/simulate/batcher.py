"""Dynamic batching as `serve/scheduling/batcher.py` does it, in simulated time."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from bench.simulate.cores import Cores
from bench.simulate.costs import Costs

_SMOOTHING, _MAX_OUTLIER = 0.05, 8.0  # as in the batcher
OK, QUEUE_FULL, LATE, LOST = "OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An execution plan: see `serve/scheduling/execution_plan.py`.

    Args:
        instances: batches executed at the same time.
        threads: CPU threads of the runtime per instance.
        max_batch: images in the largest batch.
        fused: each instance decodes its own images.
        max_delay_s: how long the first image of a batch waits for others.
    """

    instances: int
    threads: int = 1
    max_batch: int = 4
    fused: bool = True
    max_delay_s: float = 0.0


@dataclass(eq=False, kw_only=True)
class Request:
    """A request in the server.

    Args:
        decode_s: CPU seconds to decode each image.
        done: triggered with the status.
        deadline: in simulated time; None for none.
        encoded: whether its images must still be decoded by the batcher.
    """

    decode_s: tuple[float, ...]
    done: simpy.Event
    deadline: float | None = None
    encoded: bool = True
    remaining: int = field(init=False)

    def __post_init__(self) -> None:
        self.remaining = self.images

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.decode_s)

    def finish(self, status: str) -> None:
        """Answer the caller, unless that has happened."""
        if not self.done.triggered:
            self.done.succeed(status)

    def is_pending(self, now: float) -> bool:
        """Check whether the caller still waits; a request whose deadline has passed fails."""
        if self.deadline is not None and now > self.deadline:
            self.finish(LATE)
        return not self.done.triggered


Slice = tuple[Request, int, int]  # request, first image, number of images


@dataclass(eq=False)
class Batch:
    """Slices that are executed together."""

    slices: list[Slice] = field(default_factory=list)
    decodes: list[simpy.Event] = field(default_factory=list)
    rows: int = 0
    started: float | None = None


class Batcher:
    """The instances of one model.

    Args:
        env: the simulation.
        cores: where it runs.
        costs: CPU time of the stages.
        plan: the execution plan.
        decoders: threads that decode if the plan is not fused.
    """

    def __init__(self, env: simpy.Environment, cores: Cores, costs: Costs, plan: Plan, decoders: int) -> None:
        self._env, self._cores, self._costs, self.plan = env, cores, costs, plan
        self._decoders = simpy.Resource(env, decoders)
        self._device = simpy.Resource(env)
        self._forming = simpy.Resource(env, plan.instances if plan.fused else 1)
        self._queue: deque[Slice] = deque()
        self._waiting: deque[simpy.Event] = deque()
        self._free = plan.instances
        self.queued_images = self.images_in_batches = 0
        self.batch_sizes: list[int] = []
        self._image_s = costs.request_s() / plan.instances
        for _ in range(plan.instances if plan.fused else plan.instances + 1):
            env.process(self._serve())

    @property
    def image_s(self) -> float:
        """Estimated seconds per image, as measured lately."""
        return self._image_s

    def is_late(self, images: int, deadline: float | None) -> bool:
        """Check whether a request would miss its deadline behind those before it; never if there are none."""
        before = self.queued_images + self.images_in_batches
        return deadline is not None and before > 0 and self._env.now + (before + images) * self._image_s > deadline

    def enqueue(self, request: Request) -> None:
        """Add a request to the queue."""
        step = 1 if request.encoded else self.plan.max_batch
        slices = [(request, first, min(step, request.images - first)) for first in range(0, request.images, step)]
        self._queue.extend(slices)
        self.queued_images += request.images
        self._notify(len(slices))

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        while True:
            with self._forming.request() as turn:
                yield turn
                batch = yield from self._form_batch()
            yield from self._execute(batch)
            self._free += 1
            self.images_in_batches -= batch.rows
            if not self.plan.fused:
                self._notify(len(self._waiting))

    def _form_batch(self) -> Generator[simpy.Event, Any, Batch]:
        batch = Batch()
        while True:
            self._fill(batch)
            delay_s = 0.0 if batch.started is None else batch.started + self.plan.max_delay_s - self._env.now
            ready = batch.rows == self.plan.max_batch or delay_s <= 0
            if batch.rows and self._free and ready:
                self._free -= 1
                return batch
            changed = self._env.event()
            self._waiting.append(changed)
            yield changed | self._env.timeout(delay_s) if batch.rows and self._free else changed
            if not changed.triggered:
                self._waiting.remove(changed)

    def _fill(self, batch: Batch) -> None:
        target = self.plan.max_batch
        if self.plan.fused and not self.plan.max_delay_s:
            target = min(target, max(1, -(-len(self._queue) // self.plan.instances)))
        encoded_only = not self._free
        while batch.rows < target and (taken := self._take(self.plan.max_batch - batch.rows, encoded_only)):
            request, first, images = taken
            batch.started = self._env.now if batch.started is None else batch.started
            batch.slices.append(taken)
            batch.rows += images
            self.images_in_batches += images
            if request.encoded and not self.plan.fused:
                batch.decodes.append(self._env.process(self._decode(request, first)))

    def _take(self, max_images: int, encoded_only: bool) -> Slice | None:  # noqa: FBT001
        while self._queue:
            request, _, images = self._queue[0]
            pending = request.is_pending(self._env.now)
            if pending and (images > max_images or (encoded_only and not request.encoded)):
                return None
            taken = self._queue.popleft()
            self.queued_images -= images
            if pending:
                return taken
        return None

    def _decode(self, request: Request, image: int) -> Generator[simpy.Event, Any, None]:
        with self._decoders.request() as thread:
            yield thread
            if request.is_pending(self._env.now):
                yield self._cores.run(request.decode_s[image])

    def _execute(self, batch: Batch) -> Generator[simpy.Event, Any, None]:
        started = self._env.now
        if batch.decodes:
            yield self._env.all_of(batch.decodes)
        if self.plan.fused:
            for request, first, _ in batch.slices:
                if request.encoded and request.is_pending(self._env.now):
                    yield self._cores.run(request.decode_s[first])
        pending = [one for one in batch.slices if one[0].is_pending(self._env.now)]
        if not pending:
            return
        yield from self._run(batch.rows)
        self.batch_sizes.append(batch.rows)
        for request, _, images in pending:
            request.remaining -= images
            if request.remaining == 0:
                request.finish(OK)
        image_s = (self._env.now - started) / batch.rows / self.plan.instances
        self._image_s += _SMOOTHING * (min(image_s, _MAX_OUTLIER * self._image_s or image_s) - self._image_s)

    def _run(self, images: int) -> Generator[simpy.Event, Any, None]:
        """Run the model: on the accelerator if there is one, else on the plan's threads."""
        if self._costs.device_s:
            with self._device.request() as turn:
                yield turn
                yield self._env.timeout(self._costs.batch_device_s(images))
            return
        each_s = self._costs.batch_s(images) / self.plan.threads
        if self.plan.threads == 1:
            yield self._cores.run(each_s)
            return
        yield self._env.all_of([self._cores.run(each_s) for _ in range(self.plan.threads)])

    def _notify(self, count: int) -> None:
        for _ in range(min(count, len(self._waiting))):
            waiting = self._waiting.popleft()
            if not waiting.triggered:
                waiting.succeed()
