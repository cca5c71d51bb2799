"""Real servers: each in a process of its own, or in a thread of this process."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc._cython import cygrpc

from unfreeze.serve.options import ServeOptions
from unfreeze.serve.server import Server

START_LINE = "serving "
# The contexts of gRPC's C implementation do not derive from the documented class, which type checks in tests expect.
grpc.aio.ServicerContext.register(cygrpc._ServicerContext)
grpc.HandlerCallDetails.register(cygrpc._HandlerCallDetails)


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server's process and its address."""

    process: "subprocess.Popen[str]"
    target: str

    def terminate(self, timeout_s: float = 30) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def serve_command(repository: Path, port: int | str = 0) -> list[str]:
    """Return the command that serves a repository, on a free port by default."""
    command = [sys.executable, "-m", "unfreeze.command", "serve"]
    return [*command, "--repository", str(repository), "--port", str(port), "--metrics-port", "0"]


@contextmanager
def running_server(repository: Path, *arguments: str) -> Iterator[RunningServer]:
    """Start `unfreeze serve` on a free port, and terminate it at the end."""
    command = serve_command(repository)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stdout.readline()
        assert line.startswith(START_LINE), f"the server did not start: {line!r}"
        server = RunningServer(process=process, target=line.split()[-1])
        try:
            yield server
        finally:
            if process.poll() is None:
                server.terminate()


@contextmanager
def server_thread(repository: Path, **options: object) -> Iterator[str]:
    """Start a server as `server_in_thread` does, and yield its HOST:PORT."""
    with server_in_thread(repository, **options) as server:
        yield f"127.0.0.1:{server.port}"


@contextmanager
def server_in_thread(repository: Path, **options: object) -> Iterator[Server]:
    """Start a server on a free port in a thread of this process, which saves the imports; drain it at the end.

    Args:
        repository: the model repository.
        options: further fields of `ServeOptions`; there are no metrics by default.

    Yields:
        The server.
    """
    configured = ServeOptions(repository=repository, **({"port": 0, "metrics": False} | options))
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, Server]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        try:
            async with Server(configured) as server:
                started.set_result((asyncio.get_running_loop(), stop, server))
                await stop.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    loop, stop, server = started.result()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
