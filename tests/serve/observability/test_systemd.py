"""What a service manager is told, over its own kind of socket."""

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

from unfreeze.serve.observability.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket that a manager listens on, and the name that it gives to its services."""
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


def test_states_arrive_as_one_datagram(manager: tuple[socket.socket, str]) -> None:
    """Several states are lines of one datagram, on a path and in the abstract namespace."""
    listening, name = manager
    Notifier({"NOTIFY_SOCKET": name}).tell("READY=1", "STATUS=serving")
    assert _received(listening) == ["READY=1\nSTATUS=serving"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_without_a_manager_nothing_happens(environment: dict[str, str]) -> None:
    """A server that nobody manages, or whose manager is gone, goes on."""
    Notifier(environment).tell("READY=1")


def test_a_manager_that_does_not_read_holds_nobody(manager: tuple[socket.socket, str]) -> None:
    """When its socket is full, states are left unsaid."""
    notifier, started = Notifier({"NOTIFY_SOCKET": manager[1]}), time.monotonic()
    for _ in range(2000):
        notifier.tell("WATCHDOG=1")
    assert time.monotonic() - started < 10
    assert 0 < len(_received(manager[0])) < 2000


def test_a_stuck_loop_gives_no_sign_of_life(manager: tuple[socket.socket, str]) -> None:
    """Signs come twice in a period from the loop itself: while it is blocked, none come."""
    listening, name = manager

    async def live() -> tuple[list[str], list[str]]:
        async with Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}).alive():
            await asyncio.sleep(0.55)
            living = _received(listening)
            time.sleep(0.5)  # noqa: ASYNC251 - that is the point
            return living, _received(listening)

    living, stuck = asyncio.run(live())
    assert set(living) == {"WATCHDOG=1"}
    assert 3 <= len(living) <= 6
    assert stuck == []


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}])
def test_who_waits_for_no_sign_gets_none(manager: tuple[socket.socket, str], environment: dict[str, str]) -> None:
    """Nothing is sent where no period is set, or where it is another process's."""
    listening, name = manager

    async def live() -> None:
        async with Notifier({"NOTIFY_SOCKET": name, **environment}).alive():
            await asyncio.sleep(0.15)

    asyncio.run(live())
    assert _received(listening) == []


def test_a_server_says_ready_lives_and_says_that_it_stops(manager: tuple[socket.socket, str], repository: Path) -> None:
    """READY comes when it answers, signs of life around it, and STOPPING after SIGTERM and before its end."""
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
