"""Terminal output of the commands: results on standard output, progress and remarks on standard error."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from unfreeze.contract.json_text import json_text

RESULTS = Console(highlight=False, soft_wrap=True, emoji=False)
REMARKS = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class _RateColumn(ProgressColumn):
    """Steps a second and the time left, for tasks that ask for it."""

    def render(self, task: Task) -> Text:
        """Write both as far as they are known."""
        if not task.fields.get("rate") or not task.speed:
            return Text()
        left = "" if task.finished or task.time_remaining is None else f", {_duration(task.time_remaining)} left"
        return Text(f"{task.speed:,.0f}/s{left}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class TerminalReporter:
    """Reporter that shows progress bars and messages on standard error; a context manager."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _RateColumn(),
            console=REMARKS,
        )

    def info(self, text: str) -> None:
        """Print a message."""
        REMARKS.print(text, markup=False)

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Show a progress bar.

        Args:
            what: Description of the work.
            total: Number of steps.

        Returns:
            A function that advances the bar by a number of steps.
        """
        task = self._progress.add_task(what, total=total)
        return lambda steps: self._progress.advance(task, steps)

    def count(self, what: str) -> Callable[[int, int], None]:
        """Show a progress bar with the steps a second and the time left.

        Args:
            what: Description of the work.

        Returns:
            A function that takes the number of steps done so far, and of all steps.
        """
        task = self._progress.add_task(what, total=None, rate=True)
        return lambda done, total: self._progress.update(task, completed=done, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def print_json(document: Any) -> None:
    """Print a document as one line of JSON on standard output."""
    print(json_text(document))  # noqa: T201 - rich would wrap and color it
