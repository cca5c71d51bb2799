"""How long-running work reports its progress, independent of how that is shown."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Reporter(Protocol):
    """Shows messages and progress; `unfreeze.console` has one for terminals."""

    def info(self, text: str) -> None:
        """Show a message."""

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Begin a task of `total` steps; call the result with the number of steps done since the last call."""


@runtime_checkable
class CountingReporter(Reporter, Protocol):
    """A reporter that also shows work whose size may become known only on the way."""

    def count(self, what: str) -> Callable[[int, int], None]:
        """Begin a task; call the result with the number of steps done so far and of all steps, as far as known."""


class Silent:
    """Shows nothing."""

    def info(self, text: str) -> None:
        """Ignore a message."""

    def track(self, what: str, total: int) -> Callable[[int], None]:  # noqa: ARG002
        """Ignore the progress of a task."""
        return lambda _: None

    def count(self, what: str) -> Callable[[int, int], None]:  # noqa: ARG002
        """Ignore the progress of a task."""
        return lambda _done, _total: None
