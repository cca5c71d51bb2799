"""Shared memory objects of tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

PREFIX = f"unfreeze-tests-{os.getpid()}-"
_numbers = count()


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A shared memory object, as a file of this machine."""

    name: str

    @property
    def path(self) -> Path:
        """Where Linux keeps it."""
        return Path("/dev/shm") / self.name  # noqa: S108

    def put(self, content: bytes, offset: int = 0) -> None:
        """Write into it."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    def get(self) -> bytes:
        """Read all of it."""
        return self.path.read_bytes()


@contextmanager
def segment(content: bytes) -> Iterator[Segment]:
    """Create an object whose name has the prefix `PREFIX`; it is removed at the end, if it is still there."""
    made = Segment(name=f"{PREFIX}{next(_numbers)}")
    made.path.write_bytes(content)
    try:
        yield made
    finally:
        with suppress(FileNotFoundError):
            made.path.unlink()
