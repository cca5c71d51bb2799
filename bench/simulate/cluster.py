"""Replicas behind a load balancer: start-up, failures, and retries."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from bench.simulate.batcher import LOST, QUEUE_FULL
from bench.simulate.costs import Costs
from bench.simulate.server import Server, ServerOptions


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Replicas and what happens to them.

    Args:
        server: how each replica runs.
        replicas: number of them at the start.
        startup_s: from the decision to start a replica until it serves: scheduling, image, models, probe.
        detect_s: from a crash until the balancer stops sending requests to the replica.
        mean_life_s: mean time between failures of a replica; 0 for none.
        retries: how often a caller repeats a request that was lost or refused, on another replica if there is one.
        retry_s: mean pause before the first repetition; it doubles each time, and is drawn at random.
    """

    server: ServerOptions
    replicas: int
    startup_s: float = 30.0
    detect_s: float = 5.0
    mean_life_s: float = 0.0
    retries: int = 0
    retry_s: float = 0.1


class Cluster:
    """Replicas of one server; requests go to them in turn.

    Args:
        env: the simulation.
        costs: CPU time of the stages.
        options: replicas and failures.
        seed: random seed.

    Attributes:
        serving: replicas that the balancer knows.
        wanted: number of replicas that serve or start.
        crashes: number of failures.
        retried: number of repeated requests.
        attempts: number of requests that the replicas got, repeated ones included.
    """

    def __init__(self, env: simpy.Environment, costs: Costs, options: ClusterOptions, seed: int = 0) -> None:
        self._env, self._costs, self.options = env, costs, options
        self._rng = np.random.default_rng(seed)
        self._turn = 0
        self.serving: list[Server] = []
        self.wanted = options.replicas
        self.crashes = self.retried = self.attempts = 0
        self.ended: list[Server] = []
        for _ in range(options.replicas):
            self._add()

    @property
    def pending(self) -> int:
        """Number of images of accepted requests, in all replicas."""
        return sum(server.pending for server in self.serving)

    def used_s(self) -> float:
        """Return the core-seconds that the replicas have used until now."""
        return sum(server.cores.used_s() for server in (*self.serving, *self.ended))

    def scale(self, replicas: int) -> None:
        """Start replicas, or take some away, which finish their requests."""
        for _ in range(replicas - self.wanted):
            self._env.process(self._start())
        for _ in range(min(self.wanted - replicas, len(self.serving) - 1)):
            self.ended.append(self.serving.pop())
        self.wanted = replicas

    def handle(self, decode_s: tuple[float, ...], deadline: float | None = None) -> Generator[simpy.Event, Any, str]:
        """Serve a request, and repeat it as often as the options allow; use it with `yield from`.

        Args:
            decode_s: CPU seconds to decode each of its images.
            deadline: in simulated time; None for none.

        Returns:
            The last status.
        """
        status = yield from self._attempt(decode_s, deadline)
        for number in range(self.options.retries):
            if status not in (LOST, QUEUE_FULL):
                break
            pause_s = self.options.retry_s * 2**number * self._rng.uniform(0.5, 1.5)
            if deadline is not None and self._env.now + pause_s > deadline:
                break
            yield self._env.timeout(pause_s)
            self.retried += 1
            status = yield from self._attempt(decode_s, deadline)
        return status

    def _attempt(self, decode_s: tuple[float, ...], deadline: float | None) -> Generator[simpy.Event, Any, str]:
        if not self.serving:
            return LOST
        self._turn += 1
        self.attempts += 1
        status = yield from self.serving[self._turn % len(self.serving)].handle(decode_s, deadline)
        return status

    def _start(self) -> Generator[simpy.Event, Any, None]:
        yield self._env.timeout(self.options.startup_s)
        if len(self.serving) < self.wanted:  # it may have been cancelled meanwhile
            self._add()

    def _add(self) -> None:
        server = Server(self._env, self._costs, self.options.server)
        self.serving.append(server)
        if self.options.mean_life_s:
            self._env.process(self._fail(server))

    def _fail(self, server: Server) -> Generator[simpy.Event, Any, None]:
        yield self._env.timeout(self._rng.exponential(self.options.mean_life_s))
        if server not in self.serving:
            return
        server.crash()
        self.crashes += 1
        self._env.process(self._start())
        yield self._env.timeout(self.options.detect_s)
        if server in self.serving:
            self.serving.remove(server)
            self.ended.append(server)
