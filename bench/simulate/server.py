"""A simulated server: event loops, admission, front ends, and the batcher."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from bench.simulate.batcher import LATE, LOST, QUEUE_FULL, Batcher, Plan, Request
from bench.simulate.cores import Cores, Thread
from bench.simulate.costs import Costs


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a server runs.

    Args:
        cores: CPU cores that it may use.
        plan: the execution plan.
        max_queue: images that may wait or run.
        frontends: front-end processes; 1 for a single process, as `--frontends 1`.
    """

    cores: int
    plan: Plan
    max_queue: int = 1024
    frontends: int = 1


class Server:
    """A server of one model.

    Args:
        env: the simulation.
        costs: CPU time of the stages.
        options: how it runs.
        cores: cores that others use as well; its own by default.

    Attributes:
        pending: images of accepted requests: `nv_inference_pending_request_count`.
        most_pending: the largest number of them so far.
        pending_image_s: integral of `pending` over time, up to its last change.
    """

    def __init__(
        self, env: simpy.Environment, costs: Costs, options: ServerOptions, cores: Cores | None = None
    ) -> None:
        self._env, self._costs, self.options = env, costs, options
        self.cores = cores or Cores(env, options.cores)
        self.alive = True
        self.pending = self.most_pending = 0
        self.pending_image_s, self._changed = 0.0, env.now
        self._requests: set[Request] = set()
        self.batcher = Batcher(env, self.cores, costs, options.plan, options.cores)
        self._fronts = [Thread(env, self.cores) for _ in range(options.frontends)]
        self._models = Thread(env, self.cores)
        threads = -(-options.cores // options.frontends)
        self._decoders = [simpy.Resource(env, threads) for _ in self._fronts]
        self._next_front = 0

    def handle(self, decode_s: tuple[float, ...], deadline: float | None = None) -> Generator[simpy.Event, Any, str]:
        """Serve a request; use it with `yield from`.

        Args:
            decode_s: CPU seconds to decode each of its images.
            deadline: in simulated time; None for none.

        Returns:
            The status.
        """
        if not self.alive:
            return LOST
        front = self._next_front = (self._next_front + 1) % len(self._fronts)
        if self._costs.transport_s:
            yield self.cores.run(self._costs.transport_s)
        if status := self._refusal(len(decode_s), deadline):
            yield from self._fronts[front].run(self._costs.refuse_s)
            return status
        request = Request(
            decode_s=decode_s, done=self._env.event(), deadline=deadline, encoded=self.options.frontends == 1
        )
        self._change(request.images)
        self._requests.add(request)
        try:
            yield from self._fronts[front].run(self._costs.loop_s / 2)
            yield from self._classify(request, front)
            yield from self._fronts[front].run(self._costs.loop_s / 2)
        finally:
            self._requests.discard(request)
            self._change(-request.images)
        return str(request.done.value)

    def crash(self) -> None:
        """End the process: requests in it are lost."""
        self.alive = False
        for request in list(self._requests):
            request.finish(LOST)

    def _refusal(self, images: int, deadline: float | None) -> str:
        if self.pending + images > self.options.max_queue:
            return QUEUE_FULL
        return LATE if self.batcher.is_late(images, deadline) else ""

    def _classify(self, request: Request, front: int) -> Generator[simpy.Event, Any, None]:
        if request.encoded:
            self.batcher.enqueue(request)
            yield request.done
            return
        yield self._env.all_of(
            [self._env.process(self._decode(request, seconds, front)) for seconds in request.decode_s]
        )
        yield from self._models.run(self._costs.bridge_s / 2)
        if request.is_pending(self._env.now):
            self.batcher.enqueue(request)
            yield request.done
        yield from self._models.run(self._costs.bridge_s / 2)
        yield from self._fronts[front].run(self._costs.bridge_s)

    def _decode(self, request: Request, seconds: float, front: int) -> Generator[simpy.Event, Any, None]:
        with self._decoders[front].request() as thread:
            yield thread
            if request.is_pending(self._env.now):
                yield self.cores.run(seconds)

    def _change(self, images: int) -> None:
        self.pending_image_s += self.pending * (self._env.now - self._changed)
        self._changed = self._env.now
        self.pending += images
        self.most_pending = max(self.most_pending, self.pending)
