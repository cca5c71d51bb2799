"""CPU cores that threads share, and threads that do one thing after another."""

import heapq
import itertools
from collections.abc import Generator
from typing import Any

import simpy

_EPSILON_S = 1e-12


class Cores:
    """Cores of one machine, shared equally by the threads that compute (processor sharing).

    A thread has at most one core. With more threads than cores, all are equally slow: what an operating system
    approximates with short time slices.

    Args:
        env: the simulation.
        count: number of cores.

    Attributes:
        busy_s: core-seconds used so far, up to the last change.
    """

    def __init__(self, env: simpy.Environment, count: float) -> None:
        self.env, self.count = env, count
        self.busy_s = 0.0
        self._progress_s = 0.0  # CPU seconds that each thread would have received since the start
        self._updated = env.now
        self._running: list[tuple[float, int, simpy.Event]] = []
        self._sequence, self._timer = itertools.count(), 0

    def run(self, seconds: float) -> simpy.Event:
        """Compute in a thread of its own.

        Args:
            seconds: CPU time.

        Returns:
            An event at its end.
        """
        done = self.env.event()
        if not seconds:
            return done.succeed()
        self._advance()
        heapq.heappush(self._running, (self._progress_s + seconds, next(self._sequence), done))
        if self._running[0][2] is done or len(self._running) > self.count:
            self._set_timer()
        return done

    def used_s(self) -> float:
        """Return the core-seconds used until now."""
        self._advance()
        return self.busy_s

    @property
    def _speed(self) -> float:
        return min(1.0, self.count / max(1, len(self._running)))

    def _advance(self) -> None:
        elapsed_s = self.env.now - self._updated
        self._progress_s += elapsed_s * self._speed
        self.busy_s += elapsed_s * min(self.count, len(self._running))
        self._updated = self.env.now

    def _set_timer(self) -> None:
        self._timer += 1
        if not self._running:
            return
        number = self._timer
        wait_s = max(0.0, self._running[0][0] - self._progress_s) / self._speed
        timeout = self.env.timeout(wait_s)
        timeout.callbacks.append(lambda _: self._finish(number))

    def _finish(self, number: int) -> None:
        if number != self._timer:
            return  # the threads have changed since
        self._advance()
        first = self._running[0][0]  # at least this one has finished; rounding must not keep it
        while self._running and self._running[0][0] <= max(first, self._progress_s) + _EPSILON_S:
            heapq.heappop(self._running)[2].succeed()
        self._set_timer()


class Thread:
    """A thread that does one thing after another, such as an event loop.

    Args:
        env: the simulation.
        cores: where it runs.
    """

    def __init__(self, env: simpy.Environment, cores: Cores) -> None:
        self._cores, self._turn = cores, simpy.Resource(env)

    def run(self, seconds: float) -> Generator[simpy.Event, Any, None]:
        """Wait for the thread, then compute; use it with `yield from`.

        Args:
            seconds: CPU time.
        """
        if not seconds:
            return
        with self._turn.request() as turn:
            yield turn
            yield self._cores.run(seconds)
