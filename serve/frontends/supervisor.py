"""Start the process of the models and the front-end processes, restart those that end, and stop them all."""

import asyncio
import logging
import os
import shutil
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Self

from unfreeze.contract.errors import ServingError
from unfreeze.serve.frontends.board import Board
from unfreeze.serve.frontends.children import BEAT_S, Child, ChildTask, describe_exit
from unfreeze.serve.observability.logs import LogOptions
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.security.binding import bracketed

_SHORT_LIFE_S, _MAX_PAUSE_S = 3.0, 2.0
_STOP_S = 5.0  # beyond the drain timeout
_HUNG_S = 30.0  # without a sign of life
_log = logging.getLogger(__name__)


class Supervisor:
    """A server of several processes; `async with` starts and drains it.

    Args:
        options: what to serve, and how.
        logs: format and level of the log.

    Attributes:
        port: the gRPC port.
        http_address: URL of the HTTP server; None without one.
    """

    def __init__(self, options: ServeOptions, logs: LogOptions) -> None:
        self._options, self._logs = options, logs
        self._frontends = options.frontends_used
        self._folder: Path | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._children: dict[int, Child] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._reserved: list[socket.socket] = []
        self._lifeline = os.pipe()
        self.port = 0
        self.http_address: str | None = None

    async def __aenter__(self) -> Self:
        """Start all processes, and wait until they accept calls.

        Raises:
            UnfreezeError: one of them cannot be started.
        """
        try:
            await self._start()
        except BaseException:
            await self._stop(0)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the front ends finish the accepted requests, then stop."""
        await self._stop(self._options.drain_s + _STOP_S)

    async def _start(self) -> None:
        options = replace(self._options, port=self._reserve(self._options.port))
        if options.http is not None:
            options = replace(options, http=self._reserve(options.http))
        self.port = options.port
        self._board = Board.create(self._frontends)
        self._folder = Path(tempfile.mkdtemp(prefix="unfreeze-"))  # only its owner can enter it
        address = self._folder / "models"
        self._listener.bind(os.fspath(address))
        self._listener.listen(self._frontends)
        task = ChildTask(
            row=0,
            frontends=self._frontends,
            options=options,
            logs=self._logs,
            address=address,
            board=self._board.descriptor,
            lifeline=self._lifeline[0],
        )
        models = await self._start_child(replace(task, listener=self._listener.fileno()))
        await models.ready()
        fronts = [await self._start_child(replace(task, row=row)) for row in range(1, self._frontends + 1)]
        reports = [await front.ready() for front in fronts]
        self.http_address = reports[0].get("http")
        self._watchers = [asyncio.create_task(self._keep_running(child)) for child in self._children.values()]

    async def _start_child(self, task: ChildTask) -> Child:
        child = await Child.start(task)
        self._children[task.row] = child
        return child

    async def _keep_running(self, child: Child) -> None:
        """Restart a process whenever it ends; after a short life with a pause that grows."""
        pause_s = 0.0
        while True:
            started = time.monotonic()
            code = await self._end_of(child)
            self._board.clear(child.task.row)
            lived_s = time.monotonic() - started
            pause_s = 0.0 if lived_s > _SHORT_LIFE_S else min(_MAX_PAUSE_S, 2 * pause_s + 0.1)
            _log.error("the %s ended (%s); it is restarted", child.task.name, describe_exit(code))
            await asyncio.sleep(pause_s)
            child = await self._start_child(child.task)
            self._board.count_restart(child.task.row)
            try:
                await self._ready(child)
            except Exception as error:  # noqa: BLE001 - the next attempt may succeed
                _log.error("cannot restart the %s: %s", child.task.name, error)
            else:
                _log.info("the %s runs again", child.task.name)

    async def _ready(self, child: Child) -> None:
        """Wait until a process is ready; one that hangs while it starts is killed, which is an error.

        Raises:
            UnfreezeError: it cannot be started.
        """
        ending = asyncio.create_task(self._end_of(child))
        try:
            await child.ready()
        finally:
            ending.cancel()

    async def _end_of(self, child: Child) -> int:
        """Wait until a process ends, and return its exit code; kill it when its event loop hangs.

        Time in which this process did not run, such as that of a suspended machine, does not count, nor does that
        before the first sign of life: importing libraries may take long.
        """
        seen, silent_s = -1, 0.0
        while True:
            try:
                async with asyncio.timeout(BEAT_S):
                    return await child.wait()
            except TimeoutError:
                beats = self._board.beats(child.task.row)
                silent_s = silent_s + BEAT_S if beats and beats == seen else 0.0
                seen = beats
            if silent_s >= _HUNG_S:
                _log.error("the %s gave no sign of life for %.0f s and is killed", child.task.name, silent_s)
                child.kill()
                silent_s = 0.0

    async def _stop(self, timeout_s: float) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        fronts = [child for row, child in self._children.items() if row]
        reports = await self._end(fronts, timeout_s)
        answered, rejected = (sum(one.get(key, 0) for one in reports) for key in ("answered", "rejected"))
        await self._end([child for row, child in self._children.items() if not row], timeout_s)
        if self._watchers:
            _log.info("drained: requests answered: %d, rejected: %d", answered, rejected)
        for one in (*self._reserved, self._listener):
            one.close()
        for descriptor in self._lifeline:
            os.close(descriptor)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _end(self, children: list[Child], timeout_s: float) -> list[dict[str, int]]:
        for child in children:
            child.terminate()
        reports = [asyncio.create_task(child.last_report()) for child in children]
        if not reports:
            return []
        _, late = await asyncio.wait(reports, timeout=timeout_s or _STOP_S)
        for child, report in zip(children, reports, strict=True):
            if report in late:
                _log.error("the %s did not end in time and is killed", child.task.name)
                child.kill()
        return list(await asyncio.gather(*reports))

    def _reserve(self, port: int) -> int:
        """Keep a port that several processes will listen on, after a check that nobody else does.

        Raises:
            ServingError: the address is in use or not available.
        """
        host = self._options.host
        try:
            family, *_, where = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind(where)
                port = alone.getsockname()[1]
            shared = socket.socket(family)
            self._reserved.append(shared)
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            shared.bind((where[0], port, *where[2:]))
        except OSError as error:
            raise ServingError(
                f"cannot listen on {bracketed(host)}:{port}: {error.strerror or error}; choose another port, or 0 for "
                "any free port, and a --host that is an address of this machine"
            ) from None
        return port
