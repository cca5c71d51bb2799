"""How commands speak to people: progress and remarks on standard error, results on standard output."""

import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

RESULTS = Console(highlight=False, soft_wrap=True, emoji=False)
REMARKS = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class TerminalReporter:
    """Shows progress bars and remarks on standard error; a context manager."""

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
        """Tell one thing."""
        REMARKS.print(text, markup=False)

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Show a bar of `total` steps."""
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
    """Print a result for machines."""
    print(json.dumps(document, ensure_ascii=False))  # noqa: T201 - rich would wrap and color it
