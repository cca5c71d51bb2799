"""Tell a service manager how the server is: systemd's protocol, datagrams to the socket that it names."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

_PER_PERIOD = 2


class Notifier:
    """Sends a server's states to its service manager; does nothing where there is none.

    Args:
        environment: says where it listens, `NOTIFY_SOCKET`, and how long it waits for a sign of life, `WATCHDOG_USEC`.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # In the abstract namespace an address begins with a zero byte, which no variable can hold.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(environment)

    def tell(self, *states: str) -> None:
        """Send states, such as `READY=1`; what cannot be sent is left unsaid, for the server is more important.

        Args:
            states: each a name and a value.
        """
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(0)  # a manager that does not read must not hold the loop
            sender.sendto("\n".join(states).encode(), self._address)

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Give a sign of life twice in a period for as long as the body runs, from its event loop.

        A loop that is stuck gives none, and is started anew.
        """
        watchdog = asyncio.create_task(self._watch(), name="watchdog")
        try:
            yield
        finally:
            watchdog.cancel()

    async def _watch(self) -> None:
        while self._watchdog_s:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / _PER_PERIOD)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Say how long the manager waits for a sign of life; 0 where it waits for none, or for another process's."""
    period = environment.get("WATCHDOG_USEC", "")
    of_us = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    return int(period) / 1e6 if of_us and period.isdecimal() else 0.0
