"""The process of the models: takes prepared images from front-end processes, and gives probabilities back."""

import asyncio
import dataclasses
import math
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from unfreeze.contract.drift.window import WindowDrift
from unfreeze.contract.errors import InvalidRequestError, UnfreezeError
from unfreeze.contract.traffic import traffic_from
from unfreeze.serve.frontends.board import MAX_MODELS, Board
from unfreeze.serve.frontends.bridged_traffic import BridgedTraffic
from unfreeze.serve.frontends.link import Kind, Link, Record, error_document
from unfreeze.serve.frontends.region import map_region
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.scheduling.request import InferenceRequest
from unfreeze.serve.scheduling.statistics import Statistics, merge_documents, statistics_from

_ANSWER_ALIGNMENT = 64


def answers_begin(images_end: int) -> int:
    """Return where the probabilities of a request begin that follow its images."""
    return -(-images_end // _ANSWER_ALIGNMENT) * _ANSWER_ALIGNMENT


class Bridge:
    """Connects the loaded models with the front-end processes.

    Args:
        options: what to load, and how.
        board: counters of all processes.
    """

    def __init__(self, options: ServeOptions, board: Board) -> None:
        self.board = board
        self.models = ModelRegistry(options, self._announce)
        self.handles: dict[int, LoadedModel] = {}
        self.traffic = BridgedTraffic(self.models, lambda: self.handles, self.counts, board.accepted)
        self._connections: set[_Connection] = set()
        self._departed: dict[str, Any] = {}  # counters of front-end processes that have ended

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            connected, _ = await loop.sock_accept(listener)
            ready = loop.create_future()
            loop.add_reader(connected, ready.set_result, None)
            try:
                await ready
            finally:
                loop.remove_reader(connected)
            _, descriptors, *_ = socket.recv_fds(connected, 1, 1)
            if not descriptors:  # the process ended before it sent its region
                connected.close()
                continue
            connection = _Connection(self, map_region(descriptors[0]))
            await loop.connect_accepted_socket(partial(Link, connection), connected)

    def join(self, connection: "_Connection") -> None:
        """Add a connection, and tell it the loaded versions."""
        self._connections.add(connection)
        connection.announce(self._document())

    def leave(self, connection: "_Connection") -> None:
        """Remove a connection; its counters stay."""
        self._connections.discard(connection)
        self._departed = merge_documents([self._departed, connection.counts])
        self.forget_closed()

    def counts(self) -> dict[str, Any]:
        """Sum the counters of all processes, by number of the loaded version, and the failed requests by status."""
        own: dict[str, Any] = {
            str(handle): {str(encoded): counts.document() for encoded, counts in model.statistics.items()}
            for handle, model in self.handles.items()
        }
        merged: dict[str, Any] = merge_documents([{"models": own}, self._departed, *self._counts()])
        return merged

    def _counts(self) -> list[dict[str, Any]]:
        return [connection.counts for connection in tuple(self._connections)]

    def close(self) -> None:
        """Disconnect all front-end processes."""
        for connection in tuple(self._connections):
            connection.close()

    def states(self) -> list[dict[str, str]]:
        """Describe the state of every version in the repository."""
        return [dataclasses.asdict(state) for state in self.models.states()]

    def drift(self) -> dict[str, dict[str, Any]]:
        """Describe how far the latest images are from the validation images, by number of the loaded version."""
        return {str(handle): dataclasses.asdict(model.drift) for handle, model in self.handles.items()}

    def forget_closed(self) -> None:
        """Forget versions that are not loaded any more and that no front-end process uses."""
        loaded = set(self.models)
        used = {handle for connection in self._connections for handle in connection.used}
        for handle in [handle for handle, model in self.handles.items() if model not in loaded]:
            if handle not in used:
                del self.handles[handle]
                for counts in (self._departed, *self._counts()):
                    counts.get("models", {}).pop(str(handle), None)

    def _announce(self) -> None:
        known = set(self.handles.values())
        for model in self.models:
            if model not in known:
                free = next((number for number in range(MAX_MODELS) if number not in self.handles), None)
                if free is None:
                    raise InvalidRequestError(f"at most {MAX_MODELS} versions can be loaded with --frontends")
                self.handles[free] = model
        document = self._document()
        for connection in self._connections:
            connection.announce(document)
        self.forget_closed()

    def _document(self) -> dict[str, Any]:
        loaded = set(self.models)
        versions = [
            {
                "handle": handle,
                "name": model.name,
                "version": model.version,
                "manifest": model.manifest.to_json(),
                "plan": str(model.plan),
                "max_batch": model.max_batch,
            }
            for handle, model in self.handles.items()
            if model in loaded
        ]
        return {"versions": versions, "states": self.states(), "traffic": self.traffic.document()}


class _Connection:
    """A connected front-end process.

    Args:
        bridge: whose process this is.
        region: shared memory of the front-end process.
    """

    def __init__(self, bridge: Bridge, region: np.ndarray) -> None:
        self.counts: dict[str, Any] = {}
        self.used: dict[int, AbstractContextManager[LoadedModel]] = {}
        self.link: Link | None = None
        self._bridge, self._region = bridge, region
        self._pending: dict[int, tuple[LoadedModel, InferenceRequest]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def on_connected(self, link: Link) -> None:
        """Tell the process the loaded versions."""
        self.link = link
        self._bridge.join(self)

    def announce(self, document: dict[str, Any]) -> None:
        """Tell the process the loaded versions, which stay loaded until it releases them."""
        for version in document["versions"]:
            if version["handle"] not in self.used:
                use = self._bridge.handles[version["handle"]].in_use()
                use.__enter__()
                self.used[version["handle"]] = use
        self._send(Record(Kind.MODELS), document)

    def on_record(self, record: Record, document: Any) -> None:
        """Do what the process asks for."""
        if record.kind == Kind.CLASSIFY:
            self._classify(record)
        elif record.kind == Kind.CANCEL:
            if (pending := self._pending.pop(record.number, None)) is not None:
                pending[0].cancel(pending[1])
        elif record.kind == Kind.RELEASE:
            self._release(record.handle)
            self._bridge.forget_closed()
        elif record.kind == Kind.COUNTS:
            self.counts = document
        elif record.kind == Kind.CALL:
            task = asyncio.create_task(self._call(record.number, document))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def on_closed(self) -> None:
        """Drop the requests of the process, and give its memory back."""
        for model, request in self._pending.values():
            model.cancel(request)
        self._pending.clear()
        for handle in tuple(self.used):
            self._release(handle)
        self._region = np.empty(0, np.uint8)
        self._bridge.leave(self)

    def close(self) -> None:
        """Disconnect after what was sent."""
        if self.link is not None:
            self.link.close()

    def _classify(self, record: Record) -> None:
        model = self._bridge.handles[record.handle]
        shape = record.size, *model.manifest.preprocess.shape
        end = record.begin + math.prod(shape)
        request = InferenceRequest(
            self._region[record.begin : end].reshape(shape),
            model.answer_width,
            deadline=None if math.isinf(record.deadline) else record.deadline,
            priority=record.priority,
        )
        request.sent_encoded = record.encoded
        try:
            model.enqueue(request)
        except UnfreezeError as error:
            self._send(Record(Kind.FAILURE, number=record.number), error_document(error))
            return
        self._pending[record.number] = model, request
        request.future.add_done_callback(partial(self._answer, record, answers_begin(end)))

    def _answer(self, record: Record, begin: int, future: "asyncio.Future[np.ndarray]") -> None:
        pending = self._pending.pop(record.number, None)
        error = None if future.cancelled() else future.exception()
        if pending is None or future.cancelled():
            return
        model, request = pending
        if error is not None:
            self._send(Record(Kind.FAILURE, number=record.number), error_document(error))
            return
        probabilities = future.result()
        if record.sampled:
            self._bridge.traffic.offer(model, np.asarray(request.images), probabilities)
        self._region[begin : begin + probabilities.nbytes].view(np.float32)[:] = probabilities.reshape(-1)
        self._bridge.board.set_speed(record.handle, model.image_s)
        timing = request.timing
        self._send(Record(Kind.ANSWER, number=record.number, started=timing.started, infer_s=timing.infer_s))

    async def _call(self, number: int, document: dict[str, Any]) -> None:
        bridge, result = self._bridge, dict[str, Any]()
        try:
            if document["call"] == "load":
                await bridge.models.load(document["name"])
            elif document["call"] == "unload":
                await bridge.models.unload(document["name"])
            elif document["call"] == "set_traffic":
                await bridge.models.set_traffic(document["name"], traffic_from(document["settings"]))
            elif document["call"] == "traffic":
                result["traffic"] = await bridge.models.traffic(document["name"])
        except Exception as error:  # noqa: BLE001 - raised in the front-end process
            self._send(Record(Kind.FAILURE, number=number), error_document(error))
            return
        result |= {"states": bridge.states(), "counts": bridge.counts(), "drift": bridge.drift()}
        self._send(Record(Kind.RESULT, number=number), result)

    def _release(self, handle: int) -> None:
        if (use := self.used.pop(handle, None)) is not None:
            use.__exit__(None, None, None)

    def _send(self, record: Record, document: Any = None) -> None:
        if self.link is not None:
            self.link.send(record, document)


class CollectedModels:
    """The loaded models with the counters of all processes, for metrics.

    Args:
        bridge: of the process of the models.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def __iter__(self) -> Iterator["CollectedModel"]:
        """Iterate over all loaded versions."""
        counts = self._bridge.counts()["models"]
        for handle, model in tuple(self._bridge.handles.items()):
            yield CollectedModel(
                name=model.name,
                version=model.version,
                pending=self._bridge.board.accepted(handle),
                statistics=statistics_from(counts.get(str(handle), {})),
                drift=model.drift,
            )

    def states(self) -> Any:
        """Return the state of every version in the repository."""
        return self._bridge.models.states()

    def errors(self) -> dict[str, int]:
        """Count failed requests by the name of their status."""
        return dict(self._bridge.counts().get("errors", {}))

    def recorded(self) -> dict[str, int]:
        """Count images that were to be recorded by what became of them."""
        return dict(self._bridge.counts().get("recorded", {}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectedModel:
    """A loaded version and its counters.

    Args:
        name: name in the repository.
        version: version number.
        pending: images of accepted requests.
        statistics: its counters, separately for preprocessed (False) and encoded images (True).
        drift: how far the latest images are from the validation images.
    """

    name: str
    version: str
    pending: int
    statistics: dict[bool, Statistics]
    drift: WindowDrift
