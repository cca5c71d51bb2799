"""The models as a front-end process sees them: it decodes, and another process executes."""

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from unfreeze.contract.drift.window import drift_from
from unfreeze.contract.errors import RestartingError
from unfreeze.contract.traffic import TrafficSettings, traffic_from
from unfreeze.serve.frontends.board import Board
from unfreeze.serve.frontends.decode_pool import DecodePool
from unfreeze.serve.frontends.link import Kind, Link, Record, error_from
from unfreeze.serve.frontends.region import Region
from unfreeze.serve.frontends.remote_model import RemoteAnswer, RemoteModel
from unfreeze.serve.models.sampled_model import SampledModel
from unfreeze.serve.models.served import LoadedVersions, ServedModel
from unfreeze.serve.models.version_state import VersionState
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.recording.recorder import RECORDED
from unfreeze.serve.scheduling.statistics import statistics_from
from unfreeze.serve.status import ERRORS_BY_STATUS
from unfreeze.serve.traffic.routing import Route

_RETRY_S, _COUNTS_S = 0.05, 1.0
_MIN_REGION_BYTES = 2**28  # an empty queue accepts a request of any size
_RESTARTING = "the process of the models ended and is being restarted; retry"


class RemoteModels:
    """Implements `ServedModels`: the models of another process.

    Args:
        options: limits.
        board: counters of all processes.
        address: Unix socket of the process of the models.
        decoders: number of threads that decode.
        on_change: called whenever a model or a version was added or removed, and when the process ended.
    """

    def __init__(
        self, options: ServeOptions, board: Board, address: Path, decoders: int, on_change: Callable[[], None]
    ) -> None:
        self._loaded = LoadedVersions[RemoteModel]()
        self.options, self.board, self.pool = options, board, DecodePool(decoders)
        # As much as may wait, and as much again for answers, other models and what lies unused between two requests.
        self.region = Region(max(_MIN_REGION_BYTES, 2 * options.max_queue_mib * 2**20))
        self._address, self._on_change = address, on_change
        self._link: Link | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._states: tuple[VersionState, ...] = ()
        self._connected, self._disconnected = asyncio.Event(), asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []

    def __iter__(self) -> Iterator["RemoteModel"]:
        """Iterate over all loaded versions."""
        return iter(self._loaded)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the loaded models."""
        return tuple(self._loaded.by_name)

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the loaded versions of a model, oldest first."""
        return self._loaded.versions(name)

    @property
    def available(self) -> bool:
        """Whether the process of the models is running."""
        return self._connected.is_set()

    async def open(self) -> None:
        """Connect, and wait for the models."""
        self._tasks = [asyncio.create_task(self._keep_connected()), asyncio.create_task(self._send_counts())]
        await self._connected.wait()

    async def close(self) -> None:
        """Disconnect."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._link is not None:
            self._link.send(Record(Kind.COUNTS), self._counts())
            self._link.close()
        await asyncio.to_thread(self.pool.close)

    def find(self, name: str, version: str = "") -> "RemoteModel":
        """Look up a model, as `LoadedVersions.find` does.

        Raises:
            UnknownModelError: the model or the version is not loaded.
            RestartingError: the process of the models is not running.
        """
        if not self.available:
            raise RestartingError(_RESTARTING)
        return self._loaded.find(name, version)

    def use(self, name: str, version: str = "", key: str = "") -> AbstractContextManager[ServedModel]:
        """Look up the model for a request, as `ServedModels.use` has it.

        Raises:
            UnknownModelError: as `find`.
            RestartingError: as `find`.
        """
        if version or not self._loaded.routes:
            return self.find(name, version).in_use()
        model, shadow = self._loaded.choose(name, key)
        return model.in_use() if shadow is None else SampledModel(model, model.classify_sampled).in_use()

    def are_busy(self) -> bool:
        """Check whether requests may have to be rejected."""
        return not self.available or self._loaded.are_busy()

    def check_capacity(self, deadline: float | None) -> None:
        """Check that at least one model can accept a request of a single image now.

        Raises:
            RestartingError: the process of the models is not running.
            QueueFullError: all queues are full.
            DeadlineError: no model can meet the deadline.
        """
        if not self.available:
            raise RestartingError(_RESTARTING)
        self._loaded.check_capacity(deadline)

    def states(self) -> tuple[VersionState, ...]:
        """Return the state of every version, as of the last `synchronize`."""
        return self._states

    async def synchronize(self) -> None:
        """Get the states and the counters of all processes."""
        if self._link is not None:
            self._link.send(Record(Kind.COUNTS), self._counts())
        await self._call("status", "")

    async def refresh(self) -> None:
        """Do nothing: the process of the models watches the repository."""

    async def load(self, name: str) -> None:
        """Load the newest versions of a model, as `ModelRegistry.load` does."""
        await self._call("load", name)

    async def unload(self, name: str) -> None:
        """Stop serving a model, as `ModelRegistry.unload` does."""
        await self._call("unload", name)

    async def traffic(self, name: str) -> dict[str, Any]:
        """Describe the traffic of a model, as `ModelRegistry.traffic` does."""
        if self._link is not None:
            self._link.send(Record(Kind.COUNTS), self._counts())
        answer: dict[str, Any] = (await self._call("traffic", name))["traffic"]
        return answer

    async def set_traffic(self, name: str, settings: TrafficSettings) -> None:
        """Divide the requests of a model among its versions, as `ModelRegistry.set_traffic` does."""
        await self._call("set_traffic", name, settings=settings.to_document())

    async def request(self, record: Record, document: Any = None) -> Any:
        """Send a record and wait for the answer to it.

        Args:
            record: with the number of the request left open.
            document: follows it.

        Raises:
            RestartingError: the process of the models ended.
            UnfreezeError: whatever it answered.
        """
        link = self._link
        if link is None:
            raise RestartingError(_RESTARTING)
        number = next(self._numbers) & 0xFFFFFFFF
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        link.send(record._replace(number=number), document)
        try:
            return await waiting
        except asyncio.CancelledError:
            link.send(Record(Kind.CANCEL, number=number))
            raise
        finally:
            self._waiting.pop(number, None)
            del waiting  # an error that it holds refers to this frame, and the frame of the caller to the images

    def release(self, model: "RemoteModel") -> None:
        """Tell the process of the models that a version is no longer used here."""
        if self._link is not None:
            self._link.send(Record(Kind.RELEASE, handle=model.handle))

    def on_connected(self, link: Link) -> None:
        """Keep the link."""
        self._link = link
        self._disconnected.clear()

    def on_record(self, record: Record, document: Any) -> None:
        """Take an answer, or the loaded versions."""
        if record.kind == Kind.MODELS:
            self._update(document)
            return
        waiting = self._waiting.get(record.number)
        if waiting is None or waiting.done():
            return
        if record.kind == Kind.ANSWER:
            waiting.set_result(RemoteAnswer(record.started, record.infer_s))
        elif record.kind == Kind.RESULT:
            waiting.set_result(document)
        else:
            waiting.set_exception(error_from(document))

    def on_closed(self) -> None:
        """Fail the requests that wait for the process of the models, which has ended."""
        self._link = None
        self._disconnected.set()
        self._connected.clear()
        self.board.set_connected(False)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(RestartingError(_RESTARTING))
        self._loaded.by_name.clear()
        self._loaded.routes.clear()
        if not self._closing:
            self._on_change()

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connected = socket.socket(socket.AF_UNIX)
            connected.setblocking(False)  # noqa: FBT003
            try:
                await loop.sock_connect(connected, os.fspath(self._address))
                socket.send_fds(connected, [b"\0"], [self.region.descriptor])
                await loop.create_unix_connection(partial(Link, self), sock=connected)
            except OSError:
                connected.close()
            else:
                await self._disconnected.wait()
            await asyncio.sleep(_RETRY_S)

    async def _send_counts(self) -> None:
        last: dict[str, Any] = {}
        while True:
            await asyncio.sleep(_COUNTS_S)
            if self._link is not None and (counts := self._counts()) != last:
                self._link.send(Record(Kind.COUNTS), counts)
                last = counts

    def _counts(self) -> dict[str, Any]:
        models = {
            str(model.handle): {str(encoded): counts.document() for encoded, counts in model.own_statistics.items()}
            for model in self
        }
        return {"models": models, "errors": dict(ERRORS_BY_STATUS), "recorded": dict(RECORDED)}

    async def _call(self, call: str, name: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self.request(Record(Kind.CALL), {"call": call, "name": name, **more})
        self._states = tuple(VersionState(**state) for state in answer["states"])
        for model in self:
            model.statistics = statistics_from(answer["counts"]["models"].get(str(model.handle), {}))
            if (drift := answer["drift"].get(str(model.handle))) is not None:
                model.drift = drift_from(drift)
        return answer

    def _update(self, document: dict[str, Any]) -> None:
        """Take the loaded versions; those that are gone are released when their last request has been answered."""
        before = {model.handle: model for model in self}
        self._loaded.by_name.clear()
        for version in document["versions"]:
            model = before.pop(version["handle"], None) or RemoteModel(self, version)
            self._loaded.by_name.setdefault(model.name, {})[int(model.version)] = model
        self._loaded.routes = _routes(document["traffic"], self._loaded)
        self._states = tuple(VersionState(**state) for state in document["states"])
        for model in before.values():
            task = asyncio.create_task(model.retire())
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)
        self._connected.set()
        self.board.set_connected(True)
        self._on_change()


def _routes(traffic: dict[str, Any], loaded: LoadedVersions[Any]) -> dict[str, Route]:
    """Divide the requests of each model among its loaded versions, as the process of the models does."""
    routes = {
        name: Route.create(name, traffic_from(document), loaded.by_name[name])
        for name, document in traffic.items()
        if name in loaded.by_name
    }
    return {name: route for name, route in routes.items() if route is not None}
