"""Terminal output of the commands: results on standard output, progress and remarks on standard error."""

import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

RESULTS = Console(highlight=False, soft_wrap=True, emoji=False)
REMARKS = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class TerminalReporter:
    """Reporter that shows progress bars and messages on standard error; a context manager."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
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

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def print_json(document: Any) -> None:
    """Print a document as one line of JSON on standard output."""
    print(json.dumps(document, ensure_ascii=False))  # noqa: T201 - rich would wrap and color it
