"""From what a user gives to files and folders: braces, patterns, paths and URLs."""

import fnmatch
import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence

from unfreeze.batch.sources.entry import UNUSABLE, Entry
from unfreeze.batch.sources.images import describe
from unfreeze.batch.storage import Stored, is_url, list_url, look_up
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.folders import file_problem

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WILD = re.compile(r"[*?\[]")
_MOST_NAMES = 10_000_000


def expand(sources: Sequence[str]) -> Iterator[Stored | Entry]:
    """Find the files and folders that sources name, in the order of the sources.

    `{a,b}` and `{000..127}` name several, `*`, `?`, `[...]` and `**` are patterns, unless there is a file of exactly
    this name.

    Args:
        sources: paths, URLs or patterns.

    Yields:
        Files and folders, and entries for what a pattern matches and is none.

    Raises:
        UnfreezeError: one does not exist, a pattern matches nothing, or the storage does not answer.
    """
    for source in sources:
        if not is_url(source) and os.path.lexists(source):
            yield _found(source)
            continue
        for name in expand_braces(source):
            if _WILD.search(_without_options(name)):
                yield from _matches(name)
            else:
                yield _found(name)


def expand_braces(text: str) -> Iterator[str]:
    """Write out the alternatives `{a,b}` and ranges `{00..11}` of a name; numbers keep their leading zeros.

    Raises:
        UnfreezeError: there are more than ten million.
    """
    parts = _BRACES.split(text)  # texts and contents of braces in turn
    choices = [_choices(part) if place % 2 else [part] for place, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST_NAMES:
        raise UnfreezeError(f"{text} stands for {count:,} names; at most {_MOST_NAMES:,} are allowed")
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _choices(content: str) -> Sequence[str]:
    if found := _RANGE.fullmatch(content):
        first, last = int(found[1]), int(found[2])
        width = len(found[1]) if found[1].startswith("0") else 0
        step = 1 if first <= last else -1
        if abs(last - first) >= _MOST_NAMES:
            raise UnfreezeError(f"{{{content}}} stands for more than {_MOST_NAMES:,} names")
        return [f"{number:0{width}}" for number in range(first, last + step, step)]
    return content.split(",") if "," in content else [f"{{{content}}}"]


def _found(path: str) -> Stored:
    try:
        found = look_up(path)
    except OSError as error:
        raise UnfreezeError(f"{path} cannot be read: {describe(error)}") from error
    if found is None:
        problem = "no such file or folder" if is_url(path) else file_problem(path)
        raise UnfreezeError(f"{path}: {problem}; give image files, folders, or CSV, Parquet or tar files")
    return found


def _matches(pattern: str) -> Iterator[Stored | Entry]:
    """Find what matches a pattern, by name."""
    count = 0
    for found in _url_matches(pattern) if is_url(pattern) else _local_matches(pattern):
        yield found
        count += 1
    if not count:
        raise UnfreezeError(f"nothing matches the pattern {pattern}")


def _local_matches(pattern: str) -> Iterator[Stored | Entry]:
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - paths stay text, as they were given
        problem = None if os.path.isdir(name) else file_problem(name)  # noqa: PTH112 - Path.is_dir() raises
        yield Entry(kind=UNUSABLE, path=name, error=problem) if problem else _found(name)


def _url_matches(pattern: str) -> Iterator[Stored]:
    """Find what matches a pattern of a URL; only its last part may have wildcards."""
    folder, _, name = _without_options(pattern).rpartition("/")
    if _WILD.search(folder):
        raise UnfreezeError(f"{pattern}: in a URL, only the name after the last / may have wildcards")
    try:
        listed = list_url(folder + pattern[len(folder) + 1 + len(name) :])
    except OSError as error:
        raise UnfreezeError(f"{folder} cannot be listed: {describe(error)}") from error
    for stored in listed:
        if fnmatch.fnmatchcase(_without_options(stored.path).rpartition("/")[2], name):
            yield stored


def _without_options(url: str) -> str:
    """Leave out what follows a question mark and looks like an option; it is no wildcard."""
    return re.sub(r"\?\w+=.*$", "", url) if is_url(url) else url
