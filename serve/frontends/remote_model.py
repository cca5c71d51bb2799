"""A version of a model as a front-end process sees it: it decodes, and another process executes."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.drift.window import WindowDrift
from unfreeze.contract.errors import DeadlineError, QueueFullError
from unfreeze.contract.images.preprocess import prepare
from unfreeze.contract.model.manifest import Manifest
from unfreeze.serve.frontends.board import Board
from unfreeze.serve.frontends.bridge import answers_begin
from unfreeze.serve.frontends.decode_pool import DecodePool
from unfreeze.serve.frontends.link import Kind, Record
from unfreeze.serve.frontends.region import Region
from unfreeze.serve.models.use_count import UseCount
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.scheduling.admission import Admission
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY, EncodedImage, RequestTiming
from unfreeze.serve.scheduling.statistics import Statistics, counted


class RemoteAnswer(NamedTuple):
    """When the request was started, on the clock of `time.monotonic`, and the seconds in the runtime."""

    started: float
    infer_s: float


@runtime_checkable
class ModelProcess(Protocol):
    """The connection to the process that executes the models."""

    options: ServeOptions
    board: Board
    pool: DecodePool
    region: Region

    async def request(self, record: Record, document: Any = None) -> Any:
        """Send a record and wait for the answer to it."""

    def release(self, model: "RemoteModel") -> None:
        """Tell the process that a version is no longer used here."""


class RemoteModel:
    """A version that another process executes; has the methods of `LoadedModel` that services use.

    Args:
        models: the models of that process.
        version: its description.
    """

    def __init__(self, models: ModelProcess, version: dict[str, Any]) -> None:
        self.handle: int = version["handle"]
        self.name: str = version["name"]
        self.version: str = version["version"]
        self.manifest = Manifest.from_json(version["manifest"])
        self.plan: str = version["plan"]
        self.max_batch: int = version["max_batch"]
        self.own_statistics = {False: Statistics(), True: Statistics()}
        self.statistics = {False: Statistics(), True: Statistics()}  # of all processes, as of the last `synchronize`
        self.drift = WindowDrift()  # as of the last `synchronize`
        self._models, self._board = models, models.board
        self._image_bytes = math.prod(self.manifest.preprocess.shape)
        self._answer_bytes = 4 * self.manifest.answer_width
        self._preprocess = partial(prepare, spec=self.manifest.preprocess, max_pixels=models.options.max_pixels)
        self._uses = UseCount()
        options = models.options
        self._admission = Admission(
            self.name,
            options.max_queue,
            options.max_queue_mib * 2**20,
            lambda: self._estimate_s(0),
            accepted_elsewhere=lambda: self._board.accepted_elsewhere(self.handle),
            on_change=lambda images, size: self._board.set_accepted(self.handle, images, size),
        )

    @property
    def pending(self) -> int:
        """Number of images of requests that any process has accepted."""
        return self._board.accepted(self.handle)

    def in_use(self) -> AbstractContextManager["RemoteModel"]:
        """Keep the model loaded while the body runs."""
        return self._uses.counted(self)

    async def retire(self) -> None:
        """Wait for its users, then let the other process close it."""
        await self._uses.wait_until_idle()
        self._models.release(self)

    def check_size(self, images: int) -> None:
        """Check that a request could be accepted by an empty queue, as `LoadedModel.check_size` does."""
        self._admission.check_size(images)

    def check_capacity(self, deadline: float | None) -> None:
        """Check that a request of a single image can be accepted now, as `LoadedModel.check_capacity` does."""
        self._admission.check_capacity(1, self._image_bytes)
        self._check_deadline(1, deadline)

    async def classify(
        self,
        images: Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"],
        deadline: float | None = None,
        priority: int = DEFAULT_PRIORITY,
        *,
        sampled: bool = False,
    ) -> Float32[np.ndarray, "n c"]:
        """Classify images, as `LoadedModel.classify` does; if they are sampled, a shadow gets a copy.

        Raises:
            RestartingError: the process of the models ended.
            InvalidRequestError: an image cannot be decoded.
            ServingError: the queue is full, the deadline cannot be met, or the server is shutting down.
        """
        timing, encoded = RequestTiming(), not isinstance(images, np.ndarray)
        with counted(self.own_statistics[encoded], len(images), timing):
            size = len(images) * self._image_bytes
            with self._admission.admit(len(images), size + (sum(map(len, images)) if encoded else 0)):
                self._check_deadline(len(images), deadline)
                return await self._classify(images, deadline, priority, timing, sampled=sampled)

    async def classify_sampled(
        self,
        images: Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"],
        deadline: float | None,
        priority: int,
    ) -> Float32[np.ndarray, "n c"]:
        """Classify images, and let the shadow in the process of the models have a copy."""
        return await self.classify(images, deadline, priority, sampled=True)

    async def _classify(
        self,
        images: Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"],
        deadline: float | None,
        priority: int,
        timing: RequestTiming,
        *,
        sampled: bool,
    ) -> Float32[np.ndarray, "n c"]:
        region, count = self._models.region, len(images)
        size, answer_size = count * self._image_bytes, count * self._answer_bytes
        begin = region.allocate(answers_begin(size) + answer_size)
        if begin is None:
            raise QueueFullError(f"the queue of model {self.name} is full: its shared memory is in use; retry later")
        try:
            rows = region.view(begin, size).reshape(count, *self.manifest.preprocess.shape)
            if isinstance(images, np.ndarray):
                rows[:] = images
            else:
                timing.decode_s = await self._models.pool.decode(images, rows, self._preprocess, deadline, priority)
            record = Record(
                Kind.CLASSIFY,
                encoded=not isinstance(images, np.ndarray),
                sampled=sampled,
                handle=self.handle,
                size=count,
                begin=begin,
                priority=priority,
                deadline=math.inf if deadline is None else deadline,
            )
            answer: RemoteAnswer = await self._models.request(record)
            timing.started, timing.infer_s = answer
            found = region.view(begin + answers_begin(size), answer_size)
            return found.view(np.float32).reshape(count, -1).copy()
        finally:
            region.release(begin)

    def _estimate_s(self, images: int) -> float:
        """Estimate the latency of a request: decoding and inference overlap, so the slower one counts."""
        inference_s = (self.pending + images) * self._board.speed(self.handle)
        return max(inference_s, self._models.pool.estimate_s(images))

    def _check_deadline(self, images: int, deadline: float | None) -> None:
        if deadline is None or self.pending <= images:
            return
        seconds = self._estimate_s(images)
        if time.monotonic() + seconds > deadline:
            raise DeadlineError(f"the request would take about {1000 * seconds:.0f} ms, which is after its deadline")
