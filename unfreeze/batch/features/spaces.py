"""Where the rows of a pass go: into the store, however slow its disk is, or back to another process."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.store.space import Receive, Space

_WAIT_S = 0.05


class _WriteOnly:
    """What a space that is not read answers."""

    is_on = False

    def find(self, keys: Sequence[str], columns: Collection[str]) -> np.ndarray:  # noqa: ARG002
        """Find nothing."""
        return np.zeros(len(keys), bool)

    def read(self, keys: Sequence[str], columns: Collection[str], receive: Receive) -> np.ndarray:  # noqa: ARG002
        """Read nothing."""
        return np.zeros(len(keys), bool)


@dataclass(frozen=True, kw_only=True)
class PatientSpace(_WriteOnly):
    """A space of the store that waits for its disk, where a run would leave rows out.

    Args:
        space: the space.
    """

    space: Space
    accepts_rows = True

    def add(self, keys: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
        """Write rows as soon as the store takes them on.

        Raises:
            UnfreezeError: the store is full, or cannot be written.
        """
        while not self.space.accepts_rows:
            if self.space.is_full:
                raise UnfreezeError("the feature store takes no more rows")
            time.sleep(_WAIT_S)
        self.space.add(keys, columns)


@dataclass(frozen=True, kw_only=True)
class CollectingSpace(_WriteOnly):
    """Keeps rows in memory.

    Args:
        keys: of the rows.
        rows: arrays whose first axis is the rows, in parts, by column.
    """

    accepts_rows = True
    keys: list[str] = field(default_factory=list)
    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, keys: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
        """Keep rows."""
        self.keys.extend(keys)
        for name, values in columns.items():
            self.rows.setdefault(name, []).append(values)
