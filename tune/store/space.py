"""The rows of one space: found by their key, read, and written in the background."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.tune.store.folder import DESCRIPTION_FILE, delete, list_segments, mark_used
from unfreeze.tune.store.segments import DamagedSegmentError, read_columns, read_index
from unfreeze.tune.store.writer import SegmentWriter

Receive = Callable[[str, np.ndarray, np.ndarray], None]
_Location = tuple[Path, int]  # a segment, and the number of a row in it
_NAME_LENGTH = 32


class Space:
    """The rows that were computed in one way.

    Args:
        folder: of the store.
        writer: writes new rows; None neither reads nor writes.
        description: everything that the values depend on except the key, of types that JSON has.
    """

    def __init__(self, folder: Path, writer: SegmentWriter | None, description: Mapping[str, Any]) -> None:
        self._description = dict(description)
        canonical = json.dumps(self._description, sort_keys=True).encode()
        self.folder = folder / hashlib.sha256(canonical).hexdigest()[:_NAME_LENGTH]
        self._writer = writer
        self._columns: dict[Path, frozenset[str]] = {}
        self._locations: defaultdict[str, list[_Location]] = defaultdict(list)
        if writer is not None:
            mark_used(self.folder / DESCRIPTION_FILE)

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the values depend on except the key."""
        return dict(self._description)

    @property
    def is_on(self) -> bool:
        """Whether rows are read and written."""
        return self._writer is not None

    @property
    def accepts_rows(self) -> bool:
        """Whether new rows would be written: not if the store is full, or if the disk is too slow."""
        return self._writer is not None and self._writer.accepts_rows

    @property
    def is_full(self) -> bool:
        """Whether no row will be written any more: the store is full, or cannot be written."""
        return self._writer is not None and self._writer.is_stopped

    def keys(self, columns: Collection[str]) -> frozenset[str]:
        """Return the keys of all rows that have all of some columns."""
        if not self.is_on:
            return frozenset()
        self._refresh()
        return frozenset(key for key in self._locations if self._locate(key, columns) is not None)

    def find(self, keys: Sequence[str], columns: Collection[str]) -> np.ndarray:
        """Return which keys have rows with all of some columns, bool."""
        if not self.is_on:
            return np.zeros(len(keys), bool)
        self._refresh()
        return np.array([self._locate(key, columns) is not None for key in keys], bool)

    def read(self, keys: Sequence[str], columns: Collection[str], receive: Receive) -> np.ndarray:
        """Read the rows that have all of some columns, one segment at a time.

        Args:
            keys: of the rows; a key may occur several times.
            columns: names of the columns.
            receive: called with a column, the positions of rows in `keys`, int64 [n], and their values, [n, ...]; also
                for rows of which another column turns out to be damaged.

        Returns:
            Which rows were received completely, bool.
        """
        complete = self.find(keys, columns)
        wanted: defaultdict[Path, defaultdict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        for position in np.flatnonzero(complete).tolist():
            for column, (path, row) in (self._locate(keys[position], columns) or {}).items():
                wanted[path][column].append((position, row))
        for path, by_column in wanted.items():
            values = self._load(path)
            for column, pairs in by_column.items():
                positions, rows = np.array(pairs, np.int64).T
                if column in values:
                    receive(column, positions, values[column][rows])
                else:
                    complete[positions] = False
        return complete

    def add(self, keys: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
        """Write rows in the background; they may be dropped.

        Args:
            keys: of the rows.
            columns: arrays whose first axis is the rows; they must not change afterwards.
        """
        if self._writer is not None:
            self._writer.put(self.folder, self._description, keys, columns)

    def _locate(self, key: str, columns: Collection[str]) -> dict[str, _Location] | None:
        """Return where the columns of a row are; None unless all are stored."""
        found: dict[str, _Location] = {}
        for location in self._locations.get(key, ()):
            for column in self._columns[location[0]].intersection(columns):
                found.setdefault(column, location)
            if len(found) == len(columns):
                return found
        return None

    def _refresh(self) -> None:
        """Find the segments that were written since the last time, and forget those that were deleted."""
        present = {segment.path for segment in list_segments(self.folder) if segment.complete}
        if self._columns.keys() - present:
            self._columns.clear()
            self._locations.clear()
        for path in sorted(present - self._columns.keys()):
            try:
                index = read_index(path)
            except DamagedSegmentError as error:
                self._discard(path, error)
            except OSError:
                continue  # it was deleted since, or cannot be read
            else:
                self._columns[path] = frozenset(index.columns)
                for row, key in enumerate(index.keys):
                    self._locations[key].append((path, row))

    def _load(self, path: Path) -> dict[str, np.ndarray]:
        """Read a segment; nothing if it is damaged or deleted."""
        try:
            values = read_columns(path)
        except DamagedSegmentError as error:
            self._discard(path, error)
            return {}
        except OSError:
            return {}
        mark_used(path)
        return values

    def _discard(self, path: Path, error: DamagedSegmentError) -> None:
        delete(path)
        if self._writer is not None:
            self._writer.report(f"{path} is damaged ({error}) and was deleted; its images are computed again")
