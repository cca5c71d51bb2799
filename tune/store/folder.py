"""The folder of the store: what is in it, how large it is, and what is deleted first."""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.contract.cache_folder import cache_folder
from unfreeze.tune.store.segments import SEGMENT_SUFFIX, TEMPORARY_SUFFIX

DESCRIPTION_FILE = "space.json"
_FEATURES = "features"
_ABANDONED_SECONDS = 3600.0  # no process takes this long to write one segment


def store_folder() -> Path:
    """Return the folder of the store: in UNFREEZE_CACHE_DIR, or in the user's cache folder."""
    return cache_folder() / _FEATURES


@dataclass(frozen=True, kw_only=True)
class SegmentFile:
    """A file with rows.

    Args:
        path: of the file.
        size_bytes: its size.
        last_used: when it was last written or read, in seconds since the epoch.
        complete: whether it has its final name.
    """

    path: Path
    size_bytes: int
    last_used: float
    complete: bool


@dataclass(frozen=True, kw_only=True)
class SpaceFolder:
    """The segments of one space: rows that were computed in the same way.

    Args:
        path: of the folder.
        segments: its files, the longest unused first.
        opened: when a run last opened it, in seconds since the epoch; 0 if that is unknown.
    """

    path: Path
    segments: tuple[SegmentFile, ...]
    opened: float

    @property
    def size_bytes(self) -> int:
        """Size of all segments."""
        return sum(segment.size_bytes for segment in self.segments)

    @property
    def last_used(self) -> float:
        """When it was last opened, or a segment of it last used, in seconds since the epoch."""
        return max([self.opened, *(segment.last_used for segment in self.segments)])

    def description(self) -> dict[str, Any]:
        """Read how the rows were computed; empty if that is unknown."""
        try:
            found = json.loads((self.path / DESCRIPTION_FILE).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def create_space(folder: Path, description: Mapping[str, Any]) -> None:
    """Create the folder of a space and write how its rows are computed, unless that is there.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / DESCRIPTION_FILE).exists():
        temporary = folder / f"{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"  # several processes may create it at once
        temporary.write_text(json.dumps(dict(description), indent=2), encoding="utf-8")
        temporary.replace(folder / DESCRIPTION_FILE)


def list_segments(space: Path) -> tuple[SegmentFile, ...]:
    """List the segments of a space, the longest unused first; none if the folder cannot be read."""
    found = []
    try:
        with os.scandir(space) as entries:
            for entry in entries:
                if entry.name.endswith((SEGMENT_SUFFIX, TEMPORARY_SUFFIX)):
                    found += [_stat(entry)]
    except OSError:
        return ()
    return tuple(sorted((one for one in found if one), key=lambda segment: segment.last_used))


def _stat(entry: os.DirEntry[str]) -> SegmentFile | None:
    try:
        status = entry.stat()
    except OSError:  # another process has deleted it
        return None
    return SegmentFile(
        path=Path(entry.path),
        size_bytes=status.st_size,
        last_used=status.st_mtime,
        complete=entry.name.endswith(SEGMENT_SUFFIX),
    )


def list_spaces(folder: Path) -> tuple[SpaceFolder, ...]:
    """List the spaces of a store, the longest unused first; none if the folder cannot be read."""
    try:
        paths = [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return ()
    spaces = (SpaceFolder(path=path, segments=list_segments(path), opened=_opened(path)) for path in paths)
    return tuple(sorted(spaces, key=lambda space: space.last_used))


def _opened(space: Path) -> float:
    try:
        return (space / DESCRIPTION_FILE).stat().st_mtime
    except OSError:
        return 0.0


def mark_used(path: Path) -> None:
    """Record that a segment, or the description of a space, is used now, by this machine's clock."""
    now = time.time()
    with suppress(OSError):  # it is deleted, or the folder is read-only
        os.utime(path, (now, now))


def make_room(folder: Path, size_bytes: int, bound_bytes: int, *, unused_since: float) -> bool:
    """Delete segments until a new one fits: those of the longest unused space first, its longest unused first.

    Segments that are in use stay, so that a run over more images than the store holds keeps the first ones instead of
    replacing every row before it is read again.

    Args:
        folder: of the store.
        size_bytes: of the new segment.
        bound_bytes: largest size of the store.
        unused_since: segments that were used after this time stay.

    Returns:
        Whether it fits.
    """
    spaces = list_spaces(folder)
    excess = sum(space.size_bytes for space in spaces) + size_bytes - bound_bytes
    if excess <= 0:
        return True
    for segment in _deletable(spaces, unused_since):
        if delete(segment.path):
            excess -= segment.size_bytes
        if excess <= 0:
            break
    _remove_empty(spaces, unused_since)
    return excess <= 0


def clear(folder: Path, *, unused_since: float) -> int:
    """Delete all segments that were not used after a time, and spaces that are empty then.

    Returns:
        The number of bytes that were freed.
    """
    freed = 0
    for space in list_spaces(folder):
        for segment in _deletable([space], unused_since):
            freed += segment.size_bytes if delete(segment.path) else 0
    _remove_empty(list_spaces(folder), unused_since)
    return freed


def _deletable(spaces: Sequence[SpaceFolder], unused_since: float) -> Iterator[SegmentFile]:
    """Yield the segments that may be deleted, in the order of deletion."""
    abandoned = time.time() - _ABANDONED_SECONDS
    for space in spaces:
        for segment in space.segments:
            if segment.last_used < (unused_since if segment.complete else min(abandoned, unused_since)):
                yield segment


def delete(path: Path) -> bool:
    """Delete a file; return whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _remove_empty(spaces: Sequence[SpaceFolder], unused_since: float) -> None:
    """Delete spaces without segments that were not opened after a time."""
    for space in spaces:
        if space.opened < unused_since and not list_segments(space.path):
            delete(space.path / DESCRIPTION_FILE)
            with suppress(OSError):  # another process writes to it
                space.path.rmdir()
