"""Let one process at a time change a folder. The lock ends with the process, however that ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unfreeze.contract.errors import UnfreezeError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: of the lock's file, which stays.

    Raises:
        UnfreezeError: another process holds it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnfreezeError(f"another pull is running in {path.parent.parent}; nothing was changed") from error
        yield
