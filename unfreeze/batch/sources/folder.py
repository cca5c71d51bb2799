"""Everything below a folder, in a fixed order, without a list of all of it in memory."""

import os
from collections import Counter, deque
from collections.abc import Collection, Iterator
from pathlib import Path

from unfreeze.batch.sources.entry import UNUSABLE, Entry
from unfreeze.batch.sources.images import describe
from unfreeze.batch.storage import Stored, is_url, list_url, local_file
from unfreeze.contract.folders import file_problem
from unfreeze.contract.leftovers import leftover_kind

_LINK = "link to a folder that is listed already"
_MARKERS = {
    "_success": "_SUCCESS (Hadoop)",
    "_metadata": "_metadata (Parquet)",
    "_common_metadata": "_metadata (Parquet)",
}


def walk(folder: str, skipped: Collection[str], ignored: Counter[str]) -> Iterator[Stored | Entry]:
    """Find all files below a folder, by name; what lies behind links to folders comes last.

    The names of one folder are in memory, never those of all.

    Args:
        folder: path or URL.
        skipped: absolute paths that are left out without a word.
        ignored: counts hidden entries and leftovers, by kind.

    Yields:
        Files, and entries for what is none, with the reason.
    """
    if is_url(folder):
        yield from _walk_url(folder, ignored)
        return
    seen = {_identity(str(parent)) for parent in Path(os.path.realpath(folder)).parents}
    links = deque([folder])
    while links:
        yield from _walk_tree(links.popleft(), seen, links, skipped, ignored)


def _walk_tree(
    top: str, seen: set[tuple[int, int]], links: deque[str], skipped: Collection[str], ignored: Counter[str]
) -> Iterator[Stored | Entry]:
    """Walk a folder depth first; links to folders are put into `links`."""
    stack: list[Iterator[str]] = [iter((top,))]
    while stack:
        path = next(stack[-1], None)
        if path is None:
            stack.pop()
        elif os.path.abspath(path) in skipped:  # noqa: PTH100 - resolve() would follow links
            continue
        elif not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() raises for names that are too long
            yield _file(path)
        elif path != top and os.path.islink(path):  # noqa: PTH114
            links.append(path)
        else:
            yield from _enter(path, seen, stack, ignored)


def _enter(
    folder: str, seen: set[tuple[int, int]], stack: list[Iterator[str]], ignored: Counter[str]
) -> Iterator[Entry]:
    try:
        identity = _identity(folder)
        if identity in seen:
            ignored[_LINK] += 1
            return
        seen.add(identity)
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names alone need less memory
    except OSError as error:
        yield Entry(kind=UNUSABLE, path=folder, error=f"cannot be read: {describe(error)}")
        return
    stack.append(os.path.join(folder, name) for name in names if not _is_ignored(name, ignored))  # noqa: PTH118


def _walk_url(folder: str, ignored: Counter[str]) -> Iterator[Stored]:
    for stored in list_url(folder):
        if _is_ignored(stored.path.rsplit("/", 1)[-1], ignored):
            continue
        if stored.is_folder:
            yield from _walk_url(stored.path, ignored)
        else:
            yield stored


def _is_ignored(name: str, ignored: Counter[str]) -> bool:
    kind = leftover_kind(name) or _MARKERS.get(name.lower())
    if kind is not None:
        ignored[kind] += 1
    return kind is not None


def _file(path: str) -> Stored | Entry:
    try:
        problem = file_problem(path)
        return Entry(kind=UNUSABLE, path=path, error=problem) if problem else local_file(path)
    except OSError as error:
        return Entry(kind=UNUSABLE, path=path, error=f"cannot be read: {describe(error)}")


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)  # noqa: PTH116
    return found.st_dev, found.st_ino
