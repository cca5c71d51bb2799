"""The shared memory object that mutated requests name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.hostile.messages import OBJECT, OBJECT_BYTES

OPTIONS = "--shared-memory", OBJECT
_PATH = Path("/dev/shm") / OBJECT  # noqa: S108 - where Linux keeps shared memory objects


@contextmanager
def shared_object() -> Iterator[None]:
    """Create it, and remove it at the end."""
    _PATH.write_bytes(bytes(OBJECT_BYTES))
    try:
        yield
    finally:
        _PATH.unlink(missing_ok=True)
