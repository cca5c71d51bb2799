"""Progress of the first worker, relayed to the process that started the run."""

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import ray

from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.reporting import Reporter

Event: TypeAlias = tuple[Any, ...]  # the name of a kind, and its values
_INTERVAL_S = 0.1


def start_relay() -> Any:
    """Start a `Relay` in an actor; return its handle."""
    return ray.remote(num_cpus=0)(Relay).remote()


class Relay:
    """Keeps what the workers report until the process that started the run takes it."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._errors: list[UnfreezeError] = []

    def add(self, *events: Event) -> None:
        """Add progress."""
        self._events += events

    def take(self) -> list[Event]:
        """Return the progress since the last call."""
        taken, self._events = self._events, []
        return taken

    def fail(self, error: UnfreezeError) -> None:
        """Add the error of a worker."""
        self._errors.append(error)

    def errors(self) -> list[UnfreezeError]:
        """Return the errors of the workers, in the order of their arrival."""
        return self._errors


class RelayReporter:
    """Reporter of a worker; steps are sent at most ten times a second.

    Args:
        relay: a `Relay`.
    """

    def __init__(self, relay: Any) -> None:
        self._relay = relay
        self._tasks = 0
        self._steps: dict[int, int] = {}
        self._sent_s = 0.0

    def info(self, text: str) -> None:
        """Send a message."""
        self.flush()
        self._relay.add.remote(("info", text))

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Send that a task begins."""
        number = self._tasks = self._tasks + 1
        self.flush()
        self._relay.add.remote(("track", number, what, total))

        def advance(steps: int) -> None:
            self._steps[number] = self._steps.get(number, 0) + steps
            if time.monotonic() - self._sent_s > _INTERVAL_S:
                self.flush()

        return advance

    def flush(self) -> None:
        """Send the steps that were not sent yet."""
        if self._steps:
            self._relay.add.remote(*(("advance", number, steps) for number, steps in self._steps.items()))
        self._steps, self._sent_s = {}, time.monotonic()


class Replay:
    """Repeats the events of a relay on a reporter.

    Args:
        reporter: shows the progress.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._tasks: dict[int, Callable[[int], None]] = {}

    def show(self, events: list[Event]) -> None:
        """Show progress."""
        for kind, *values in events:
            if kind == "info":
                self._reporter.info(*values)
            elif kind == "track":
                number, what, total = values
                self._tasks[number] = self._reporter.track(what, total)
            else:
                number, steps = values
                self._tasks[number](steps)
