"""Image files, one by one."""

from collections.abc import Iterator

from unfreeze.batch.sources.entry import IMAGE, Entry, Item, SourceOptions
from unfreeze.batch.storage import Stored, located, read_bytes
from unfreeze.contract.errors import first_line

NO_SUCH_FILE = "no such file"


def list_image(file: Stored, options: SourceOptions) -> Iterator[Entry]:  # noqa: ARG001 - the interface of a format
    """List an image file, whatever its name."""
    yield Entry(kind=IMAGE, path=file.path, version=file.version)


def read_image(entry: Entry, base: str) -> Iterator[Item]:
    """Read an image file.

    Args:
        entry: of the image.
        base: folder that local paths are relative to.
    """
    try:
        yield Item(path=entry.path, data=read_bytes(located(entry.path, base)))
    except OSError as error:
        yield Item(path=entry.path, error=describe(error))


def describe(error: OSError) -> str:
    """Describe in one line why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return NO_SUCH_FILE
    return error.strerror or first_line(error)
