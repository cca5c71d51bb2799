"""The list of all images of a job, in a file: as large as it may be, it is read and written as a stream."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unfreeze.batch.repeats import Repeats
from unfreeze.batch.sources import AUTO, FORMATS, detect_format
from unfreeze.batch.sources.entry import UNUSABLE, Entry, SourceOptions
from unfreeze.batch.sources.expand import expand
from unfreeze.batch.sources.folder import walk
from unfreeze.batch.storage import is_url
from unfreeze.contract.counted import SHOWN, first_few
from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.contract.folders import LeftOut, summarize_ignored


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list of images in a file.

    Args:
        path: of the file, one line for each entry.
        digest: SHA-256 of its content; the same images have the same digest.
        images: number of images, as far as it is known before they are read.
        unknown: number of tar files behind URLs, whose images are not known.
        repeated: numbers of the lines that repeat an earlier one, ascending.
        ignored: hidden files and leftovers, in one line; empty if there are none.
    """

    path: Path
    digest: str
    images: int
    unknown: int
    repeated: np.ndarray
    ignored: str

    def entries(self) -> Iterator[Entry]:
        """Iterate over the entries without repetitions, in order."""
        repeated = iter(self.repeated.tolist())
        skipped = next(repeated, -1)
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                if number == skipped:
                    skipped = next(repeated, -1)
                else:
                    yield Entry.from_json(line)


def write_listing(path: Path, sources: Sequence[str], options: SourceOptions, skipped: Collection[str]) -> Listing:
    """List the images of sources.

    Args:
        path: of the file to write; a second one is written beside it and deleted.
        sources: paths, URLs and patterns.
        options: how they are read.
        skipped: absolute paths that are left out.

    Raises:
        OptionsError: the format is unknown.
        UnfreezeError: a source cannot be read, or there is no image in any of them.
    """
    if options.format != AUTO and options.format not in FORMATS:
        raise OptionsError(f"--format must be one of {AUTO}, {', '.join(FORMATS)}, got {options.format!r}")
    digest, ignored, problems = hashlib.sha256(), Counter[str](), list[str]()
    images, unknown = 0, 0
    with path.open("wb") as file, Repeats(path.with_suffix(".digests")) as repeats:
        for entry in list_entries(sources, options, skipped, ignored):
            line = f"{entry.to_json()}\n".encode()
            file.write(line)
            digest.update(line)
            repeats.add(_identity(entry))
            images, unknown = images + entry.count, unknown + (not entry.count)
            if entry.kind == UNUSABLE and len(problems) <= SHOWN:
                problems.append(f"{entry.path}: {entry.error}")
        repeated = repeats.find()
    if images == len(problems) and not unknown:
        raise UnfreezeError(
            f"no images in {first_few(sources)}{''.join(f'; {problem}' for problem in problems[:SHOWN])}"
        )
    listing = Listing(
        path=path,
        digest=digest.hexdigest(),
        images=images,
        unknown=unknown,
        repeated=repeated,
        ignored=_summary(ignored),
    )
    return replace(listing, images=sum(entry.count for entry in listing.entries())) if len(repeated) else listing


def list_entries(
    sources: Sequence[str], options: SourceOptions, skipped: Collection[str], ignored: Counter[str]
) -> Iterator[Entry]:
    """List the entries of sources, in a fixed order.

    Args:
        sources: paths, URLs and patterns.
        options: how they are read.
        skipped: absolute paths that are left out.
        ignored: counts hidden entries and leftovers, by kind.
    """
    for found in expand(sources):
        if isinstance(found, Entry):
            yield found
        elif os.path.abspath(found.path) in skipped:  # noqa: PTH100 - as `walk` compares
            continue
        elif found.is_folder:
            yield from _in_folder(found.path, options, skipped, ignored)
        else:
            chosen = detect_format(found.path) if options.format == AUTO else options.format
            yield from FORMATS[chosen].entries(found, options)


def _in_folder(folder: str, options: SourceOptions, skipped: Collection[str], ignored: Counter[str]) -> Iterator[Entry]:
    """List what a folder holds: image files, Parquet files and tar files; lists are used only if they are requested."""
    for found in walk(folder, skipped, ignored):
        if isinstance(found, Entry):
            yield found
            continue
        detected = detect_format(found.path)
        if options.format == AUTO:
            chosen = "images" if detected == "csv" else detected
        elif options.format in ("images", detected):
            chosen = options.format
        else:
            ignored[f"not of the format {options.format}"] += 1
            continue
        yield from FORMATS[chosen].entries(found, options)


def _identity(entry: Entry) -> str:
    path = entry.path if is_url(entry.path) else os.path.abspath(entry.path)  # noqa: PTH100 - links are files of their own
    return f"{path}#{entry.start}" if entry.kind != UNUSABLE else f"{path}#{entry.error}"


def _summary(ignored: Counter[str]) -> str:
    return summarize_ignored(LeftOut(path=Path(), reason=kind, files=count) for kind, count in ignored.items())
