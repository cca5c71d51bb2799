"""The kinds of sources: one file for each, and one line below."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from unfreeze.batch.sources import csv_list, images, parquet, webdataset
from unfreeze.batch.sources.entry import IMAGE, PARQUET, TAR, UNUSABLE, Entry, Item, SourceOptions
from unfreeze.batch.storage import Stored

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Args:
        summary: a few words for help texts.
        suffixes: of its files, in lower case; none for files with any other suffix.
        entries: lists the images of a file.
    """

    summary: str
    suffixes: tuple[str, ...]
    entries: Callable[[Stored, SourceOptions], Iterator[Entry]]


FORMATS: dict[str, Format] = {
    "images": Format(summary="image files", suffixes=(), entries=images.list_image),
    "csv": Format(summary="lists of paths or URLs", suffixes=(".csv", ".tsv"), entries=csv_list.list_csv),
    "parquet": Format(
        summary="tables of images or of paths", suffixes=(".parquet", ".parq"), entries=parquet.list_parquet
    ),
    "webdataset": Format(summary="tar files", suffixes=(".tar",), entries=webdataset.list_tar),
}
_READERS: dict[str, Callable[[Entry, str], Iterator[Item]]] = {
    IMAGE: images.read_image,
    TAR: webdataset.read_members,
    PARQUET: parquet.read_rows,
}


def detect_format(path: str) -> str:
    """Return the name of the format of a file, by its suffix."""
    name = path.partition("?")[0].lower() if "://" in path else path.lower()
    return next((key for key, found in FORMATS.items() if found.suffixes and name.endswith(found.suffixes)), "images")


def read(entry: Entry, base: str) -> Iterator[Item]:
    """Read the images of an entry.

    Args:
        entry: of a listing.
        base: folder that local paths are relative to.

    Yields:
        Images, or the reason why there is none.

    Raises:
        UnfreezeError: a file that holds many images can no longer be read.
    """
    if entry.kind == UNUSABLE:
        yield Item(path=entry.path, error=entry.error)
    else:
        yield from _READERS[entry.kind](entry, base)
