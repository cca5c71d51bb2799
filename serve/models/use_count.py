"""Counts the users of a model version, so that it stays loaded while it is used."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

Used = TypeVar("Used")


class UseCount:
    """The number of users, of one event loop."""

    def __init__(self) -> None:
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def counted(self, used: Used) -> Iterator[Used]:
        """Count a user while the body runs; yields what is used."""
        self._users += 1
        self._idle.clear()
        try:
            yield used
        finally:
            self._users -= 1
            if self._users == 0:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until there are no users."""
        await self._idle.wait()
