"""The store of a run: opened with the run, closed when the last row is written."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.store.folder import store_folder
from unfreeze.tune.store.space import Space
from unfreeze.tune.store.writer import SegmentWriter


class FeatureStore:
    """Rows of numbers that earlier runs computed, in a folder of bounded size; a context manager.

    No method raises an error because of the folder: what cannot be read is missing, and what cannot be written is not
    stored. Leaving the context waits for the rows that are still to be written and reports problems, one line each.

    Args:
        bound_bytes: largest size of the folder; 0 neither reads nor writes.
        folder: of the store; None uses `store_folder()`.
        reporter: shows problems.
    """

    def __init__(self, bound_bytes: int, folder: Path | None = None, reporter: Reporter | None = None) -> None:
        self.folder = folder or store_folder()
        self._reporter = reporter or Silent()
        self._writer = SegmentWriter(self.folder, bound_bytes, since=time.time()) if bound_bytes else None

    @property
    def is_on(self) -> bool:
        """Whether rows are read and written."""
        return self._writer is not None

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong so far, one line each."""
        return () if self._writer is None else self._writer.problems

    def space(self, description: Mapping[str, Any]) -> Space:
        """Return the rows that were computed in one way.

        Args:
            description: everything that the values depend on except the key, of types that JSON has.
        """
        return Space(self.folder, self._writer, description)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
            for problem in self._writer.problems:
                self._reporter.info(f"feature store: {problem}")


NO_STORE = FeatureStore(0, Path())
