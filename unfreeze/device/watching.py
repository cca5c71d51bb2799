"""The new files of a folder, each once, when it is completely written."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from unfreeze.contract.closing import Closing
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.files import fingerprint
from unfreeze.contract.folders import scan_folder
from unfreeze.contract.leftovers import leftover_kind
from unfreeze.device.inotify import Change, FolderEvents

_SETTLED_S = 2.0
_WAIT_S = 0.2
_State = tuple[int, int, int] | None


class WatchedFolder(Closing):
    """Watches a folder, not those below it; a context manager.

    On Linux, a file is complete when its writer closes it, or when it is moved here. Elsewhere, for links, and for
    files that another machine writes to a network folder, it is complete when it has not changed for two seconds. A
    file that is written again is new again. Hidden files, as copying programs write them, are left out.

    Args:
        folder: to watch.
        existing: also take the files that are there at the beginning.

    Raises:
        UnfreezeError: the folder does not exist.
    """

    def __init__(self, folder: Path, *, existing: bool = False) -> None:
        if not folder.is_dir():
            raise UnfreezeError(f"cannot watch {folder}: it is not a folder")
        self._folder = folder
        try:
            self._events: FolderEvents | None = FolderEvents(folder)
        except OSError:
            self._events = None
        self._taken: dict[str, _State] = {} if existing else self._list()
        self._waiting: dict[str, tuple[_State, float]] = {}  # since when a file has been as it is
        self._written: set[str] = set()  # written to, and not closed since
        self._next_listing = 0.0

    def new_files(self, stopped: Callable[[], bool]) -> Iterator[Path | None]:
        """Yield complete new files until stopped.

        Args:
            stopped: is asked at least five times a second.

        Yields:
            A file; None whenever there is none, which is the time for other work.
        """
        while not stopped():
            ready = self._wait()
            if time.monotonic() >= self._next_listing:
                ready += self._settled()
                self._next_listing = time.monotonic() + (_SETTLED_S / 4 if self._waiting else _SETTLED_S / 2)
            for name in ready:
                if stopped():
                    return
                if self._take(name):
                    yield self._folder / name
            yield None

    def close(self) -> None:
        """Stop watching; may be called again."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _wait(self) -> list[str]:
        """Wait for a moment; return the files that were closed or moved here."""
        if self._events is None:
            time.sleep(_WAIT_S)
            return []
        closed: dict[str, None] = {}
        for change in self._events.wait(_WAIT_S):
            self._follow(change)
            if change.complete and leftover_kind(change.name) is None:
                closed[change.name] = None
        return [name for name in closed if name not in self._written]

    def _follow(self, change: Change) -> None:
        if not change.name:  # events were lost
            self._written.clear()
        elif change.complete:
            self._written.discard(change.name)
        else:
            self._written.add(change.name)

    def _settled(self) -> list[str]:
        """List the files that have not changed for a while, and that nobody was seen writing to."""
        now, listed = time.monotonic(), self._list()
        self._taken = {name: state for name, state in self._taken.items() if name in listed}
        self._written &= listed.keys()
        waiting = {name: state for name, state in listed.items() if self._taken.get(name) != state}
        since = {name: self._waiting.get(name, (None, now)) for name in waiting}
        self._waiting = {
            name: (state, since[name][1] if since[name][0] == state else now) for name, state in waiting.items()
        }
        return [
            name
            for name, (state, began) in self._waiting.items()
            if now - began >= _SETTLED_S and name not in self._written and state is not None and state[1] > 0
        ]

    def _take(self, name: str) -> bool:
        """Remember a file as it is now; return False if it is gone, or was taken as it is."""
        path = self._folder / name
        state = fingerprint(path)
        self._waiting.pop(name, None)
        if state is None or not path.is_file() or self._taken.get(name) == state:
            return False
        self._taken[name] = state
        return True

    def _list(self) -> dict[str, _State]:
        return {path.name: fingerprint(path) for path in scan_folder(self._folder).files}
