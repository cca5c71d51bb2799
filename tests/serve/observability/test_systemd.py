"""Notifications to systemd, received on a real socket."""

import asyncio
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import serve_command

from unfreeze.serve.observability.systemd import SystemdNotifier

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as opened by systemd, and the value of NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@unfreeze-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0", 1) if request.param == "abstract" else name)
        listening.settimeout(30)
        yield listening, name


def _received(listening: socket.socket) -> list[str]:
    listening.settimeout(0)
    received = []
    try:
        while True:
            received.append(listening.recv(4096).decode())
    except BlockingIOError:
        return received


def test_sends_states_in_one_datagram(manager: tuple[socket.socket, str]) -> None:
    """Several states are lines of one datagram, for a path and for an abstract address."""
    listening, name = manager
    SystemdNotifier({"NOTIFY_SOCKET": name}).notify("READY=1", "STATUS=serving")
    assert _received(listening) == ["READY=1\nSTATUS=serving"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_ignores_a_missing_service_manager(environment: dict[str, str]) -> None:
    """Without NOTIFY_SOCKET, or with a socket that does not exist, notifications do nothing."""
    SystemdNotifier(environment).notify("READY=1")


def test_full_socket_does_not_block(manager: tuple[socket.socket, str]) -> None:
    """If the socket buffer is full, notifications are dropped."""
    notifier, started = SystemdNotifier({"NOTIFY_SOCKET": manager[1]}), time.monotonic()
    for _ in range(2000):
        notifier.notify("WATCHDOG=1")
    assert time.monotonic() - started < 10
    assert 0 < len(_received(manager[0])) < 2000


def test_watchdog_pings_stop_while_the_event_loop_is_blocked(manager: tuple[socket.socket, str]) -> None:
    """Two pings are sent per watchdog timeout, and none while the event loop is blocked."""
    listening, name = manager

    async def run() -> tuple[list[str], list[str]]:
        async with SystemdNotifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}).watchdog():
            await asyncio.sleep(0.55)
            running = _received(listening)
            time.sleep(0.5)  # noqa: ASYNC251 - blocks the event loop on purpose
            return running, _received(listening)

    running, blocked = asyncio.run(run())
    assert set(running) == {"WATCHDOG=1"}
    assert 3 <= len(running) <= 6
    assert blocked == []


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}])
def test_sends_no_pings_without_a_watchdog(manager: tuple[socket.socket, str], environment: dict[str, str]) -> None:
    """No pings are sent without a timeout, or if the timeout is for another process."""
    listening, name = manager

    async def run() -> None:
        async with SystemdNotifier({"NOTIFY_SOCKET": name, **environment}).watchdog():
            await asyncio.sleep(0.15)

    asyncio.run(run())
    assert _received(listening) == []


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_server_notifies_ready_watchdog_and_stopping(manager: tuple[socket.socket, str], repository: Path) -> None:
    """READY is sent once the port is open, watchdog pings all the time, and STOPPING after SIGTERM."""
    listening, name = manager
    environment = {**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}
    with subprocess.Popen(serve_command(repository), stdout=subprocess.PIPE, text=True, env=environment) as process:
        while (state := listening.recv(4096).decode()) == "WATCHDOG=1":
            pass
        assert state == "READY=1"
        address, port = process.stdout.readline().split()[-1].split(":")
        socket.create_connection((address, int(port)), timeout=5).close()
        assert listening.recv(4096) == b"WATCHDOG=1"
        process.terminate()
        while (state := listening.recv(4096).decode()) == "WATCHDOG=1":
            pass
        assert state == "STOPPING=1"
        assert process.wait(30) == 0
    assert set(_received(listening)) <= {"WATCHDOG=1"}
