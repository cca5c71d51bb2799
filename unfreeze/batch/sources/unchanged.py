"""Open a file that holds many images, if it is still the one that was listed."""

from collections.abc import Callable

from unfreeze.batch.sources.entry import Entry
from unfreeze.batch.sources.images import describe
from unfreeze.batch.storage import OpenFile, located, look_up
from unfreeze.contract.errors import UnfreezeError


def open_unchanged(entry: Entry, base: str, opener: Callable[[str], OpenFile]) -> OpenFile:
    """Open the file of an entry.

    Args:
        entry: a part of the file.
        base: folder that local paths are relative to.
        opener: opens it.

    Raises:
        UnfreezeError: it can no longer be opened, or has changed since it was listed.
    """
    path = located(entry.path, base)
    try:
        found = look_up(path)
        if found is None:
            raise FileNotFoundError
        if found.version != entry.version:
            raise UnfreezeError(f"{path} has changed since it was listed; run the command again with --overwrite")
        return opener(path)
    except OSError as error:
        raise UnfreezeError(
            f"{path} was listed and can no longer be read: {describe(error)}; all machines that work need it"
        ) from error
