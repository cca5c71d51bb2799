"""Notifications to systemd: the sd_notify protocol, which sends datagrams to the socket named by `NOTIFY_SOCKET`."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

_PINGS_PER_TIMEOUT = 2


class SystemdNotifier:
    """Sends state changes and watchdog pings to the service manager; does nothing if there is none.

    Args:
        environment: environment variables: `NOTIFY_SOCKET`, the socket's address, and `WATCHDOG_USEC`, the watchdog
            timeout in microseconds.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte at the start of an address in Linux's abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_timeout_s(environment)

    def notify(self, *states: str) -> None:
        """Send states; errors are ignored, because they must not stop the server.

        Args:
            states: assignments such as `READY=1`.
        """
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(0)  # a full socket buffer must not block the event loop
            sender.sendto("\n".join(states).encode(), self._address)

    @asynccontextmanager
    async def watchdog(self) -> AsyncIterator[None]:
        """Send two pings per watchdog timeout from the event loop while the body runs.

        If the event loop is blocked, pings stop, and systemd restarts the server.
        """
        pings = asyncio.create_task(self._send_pings(), name="watchdog")
        try:
            yield
        finally:
            pings.cancel()

    async def _send_pings(self) -> None:
        while self._watchdog_s:
            self.notify("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / _PINGS_PER_TIMEOUT)


def _watchdog_timeout_s(environment: Mapping[str, str]) -> float:
    """Return the watchdog timeout in seconds; 0 if there is none or it is for another process."""
    timeout_us = environment.get("WATCHDOG_USEC", "")
    for_this_process = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    return int(timeout_us) / 1e6 if for_this_process and timeout_us.isdecimal() else 0.0
