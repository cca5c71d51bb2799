"""Simulated load: what `bench/load.py` does, in simulated time."""

import itertools
from collections.abc import Callable, Generator, Iterable
from typing import Any

import simpy

from bench.load import Call
from bench.simulate.cores import Cores, Thread
from bench.simulate.costs import Costs

Handle = Callable[[tuple[float, ...], float | None], Generator[simpy.Event, Any, str]]


class LoadGenerator:
    """Sends requests to a server and notes what happened.

    Args:
        env: the simulation.
        costs: the images, and the generator's own CPU time.
        handle: serves a request; returns its status.
        cores: where the generator runs; None if it has cores of its own and takes no time.
        each: images a request.
        timeout_s: deadline of every request; None for none.
    """

    def __init__(
        self,
        env: simpy.Environment,
        costs: Costs,
        handle: Handle,
        *,
        cores: Cores | None = None,
        each: int = 1,
        timeout_s: float | None = None,
    ) -> None:
        self._env, self._costs, self._handle = env, costs, handle
        self._loop = Thread(env, cores) if cores else None
        self._each, self._timeout_s = each, timeout_s
        self._images = itertools.cycle(costs.decode_s)
        self.calls: list[Call] = []

    def open_loop(self, times: Iterable[float]) -> Generator[simpy.Event, Any, None]:
        """Send requests at given times; a process."""
        for time in times:
            if (pause := time - self._env.now) > 0:
                yield self._env.timeout(pause)
            self._env.process(self._call())

    def closed_loop(self, seconds: float) -> Generator[simpy.Event, Any, None]:
        """Send one request after the other; a process."""
        while self._env.now < seconds:
            yield from self._call()

    def _call(self) -> Generator[simpy.Event, Any, None]:
        images = tuple(itertools.islice(self._images, self._each))
        began = self._env.now
        deadline = None if self._timeout_s is None else began + self._timeout_s
        if self._loop:
            yield from self._loop.run(self._costs.client_s / 2)
        status = yield from self._handle(images, deadline)
        if self._loop:
            yield from self._loop.run(self._costs.client_s / 2)
        self.calls.append(Call(began=began, took_s=self._env.now - began, status=status, version=""))
