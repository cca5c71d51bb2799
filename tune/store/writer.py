"""Write rows to segments in the background, within the bound of the store."""

import errno
import mmap
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from unfreeze.tune.store.folder import create_space, make_room
from unfreeze.tune.store.segments import write_segment

SEGMENT_BYTES = 16 << 20
_BACKLOG_BYTES = 16 * SEGMENT_BYTES
_SHARES = 8  # of the bound, for a segment of a small store
_LARGE_BYTES = 1 << 17
_FLUSH_SECONDS = 10.0
_DISK_RESERVE_BYTES = 1 << 30  # left for the run's own files


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows that belong into one segment if they are for the same space and have the same columns."""

    folder: Path
    description: Mapping[str, Any]
    keys: Sequence[str]
    columns: Mapping[str, np.ndarray]

    @property
    def size_bytes(self) -> int:
        return sum(rows.nbytes for rows in self.columns.values())


@dataclass(kw_only=True)
class _Pending:
    """Rows for the next segment."""

    since: float
    rows: list[_Rows] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(rows.size_bytes for rows in self.rows)


class SegmentWriter:
    """A thread that collects rows and writes them as segments.

    Rows are dropped, not waited for, where the disk is slower than the run.

    Args:
        folder: of the store.
        bound_bytes: its largest size.
        since: segments that were used after this time are not deleted for new ones.
    """

    def __init__(self, folder: Path, bound_bytes: int, *, since: float) -> None:
        self._folder, self._bound_bytes, self._since = folder, bound_bytes, since
        self._segment_bytes = min(SEGMENT_BYTES, bound_bytes // _SHARES)
        self._queue: SimpleQueue[_Rows | None] = SimpleQueue()
        self._backlog_bytes, self._lock = 0, threading.Lock()
        self._pending: dict[tuple[Path, tuple[str, ...]], _Pending] = {}
        self._thread: threading.Thread | None = None
        self._problems: dict[str, None] = {}
        self._stopped = False

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong so far, one line each."""
        return tuple(self._problems)

    def report(self, problem: str) -> None:
        """Record a problem; one that is recorded already is not repeated."""
        self._problems.setdefault(problem)

    @property
    def is_stopped(self) -> bool:
        """Whether no row will be taken on any more."""
        return self._stopped

    @property
    def accepts_rows(self) -> bool:
        """Whether rows would be taken on now."""
        return not self._stopped and self._backlog_bytes < _BACKLOG_BYTES

    def put(
        self, folder: Path, description: Mapping[str, Any], keys: Sequence[str], columns: Mapping[str, np.ndarray]
    ) -> None:
        """Take on rows, or drop them.

        Args:
            folder: of their space.
            description: of their space.
            keys: of the rows.
            columns: arrays whose first axis is the rows; they must not change afterwards.
        """
        if not self.accepts_rows or not keys:
            return
        off_heap = {name: _off_heap(values) for name, values in columns.items()}
        rows = _Rows(folder=folder, description=description, keys=keys, columns=off_heap)
        with self._lock:
            self._backlog_bytes += rows.size_bytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="feature store", daemon=True)
                self._thread.start()
        self._queue.put(rows)

    def close(self) -> None:
        """Write what was taken on, and end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        for rows in self._taken():
            if rows is not None:
                key = (rows.folder, tuple(sorted(rows.columns)))
                self._pending.setdefault(key, _Pending(since=time.monotonic())).rows.append(rows)
            for key, pending in list(self._pending.items()):
                is_old = time.monotonic() - pending.since > _FLUSH_SECONDS
                if is_old or pending.size_bytes >= self._segment_bytes:
                    self._write(self._pending.pop(key))
        for pending in self._pending.values():
            self._write(pending)

    def _taken(self) -> Iterator[_Rows | None]:
        """Yield rows until the end, and None after some time without any."""
        while True:
            try:
                rows = self._queue.get(timeout=_FLUSH_SECONDS)
            except Empty:
                yield None
                continue
            if rows is None:
                return
            yield rows

    def _write(self, pending: _Pending) -> None:
        """Write a segment; after an error, nothing more is stored."""
        try:
            if not self._stopped:
                self._write_segment(pending)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._stop(f"nothing more is stored in {self._folder}: {reason}")
        finally:
            with self._lock:
                self._backlog_bytes -= pending.size_bytes

    def _write_segment(self, pending: _Pending) -> None:
        size = pending.size_bytes
        if not make_room(self._folder, size, self._bound_bytes, unused_since=self._since):
            bound = f"{self._bound_bytes / 1e9:g} GB"
            self._stop(f"{bound} do not hold the features of all images; a larger --store-gb does")
            return
        first = pending.rows[0]
        first.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._folder).free - size < _DISK_RESERVE_BYTES:
            raise OSError(errno.ENOSPC, "the disk is almost full")
        keys = [key for rows in pending.rows for key in rows.keys]
        columns = {name: [rows.columns[name] for rows in pending.rows] for name in first.columns}
        try:
            create_space(first.folder, first.description)
            write_segment(first.folder, keys, columns)
        except FileNotFoundError:  # another process has just deleted the folder because it was empty
            create_space(first.folder, first.description)
            write_segment(first.folder, keys, columns)

    def _stop(self, problem: str) -> None:
        self._stopped = True
        self.report(problem)


def _off_heap(values: np.ndarray) -> np.ndarray:
    """Copy a large array to memory of its own; kept on the heap, it would keep a batch's memory from being reused."""
    if values.nbytes < _LARGE_BYTES:
        return values
    copy = np.frombuffer(mmap.mmap(-1, values.nbytes), values.dtype).reshape(values.shape)
    copy[...] = values
    return copy
