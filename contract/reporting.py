"""How long work tells people how it goes, without knowing how that is shown."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Reporter(Protocol):
    """Shows progress; `unfreeze.console` has one for terminals."""

    def info(self, text: str) -> None:
        """Tell one thing."""

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Begin a piece of work of `total` steps; the result is called with the number of steps done since."""


class Silent:
    """Shows nothing."""

    def info(self, text: str) -> None:
        """Tell nobody."""

    def track(self, what: str, total: int) -> Callable[[int], None]:  # noqa: ARG002
        """Count nothing."""
        return lambda _: None
