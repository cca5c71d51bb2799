"""The models that a server has loaded, and the way of a picture through one of them."""

import asyncio
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from contract.arrays import Float32, UInt8
from contract.errors import (
    DeadlineError,
    InvalidRequestError,
    ModelError,
    PictureError,
    RepositoryError,
    UnknownModelError,
)
from contract.manifest import Manifest
from contract.preprocess import prepare
from contract.repository import ModelRepository
from serve.batcher import Batcher
from serve.options import ServeOptions
from serve.queue import Queue
from serve.runtime import OnnxRuntime

_log = logging.getLogger(__name__)


class ServedModel:
    """One version of a model, ready to answer.

    Args:
        name: in the repository.
        version: its number.
        runtime: executes it.
        decoders: decode pictures, off the event loop.
        options: sizes and limits.
    """

    def __init__(
        self, name: str, version: int, runtime: OnnxRuntime, decoders: ThreadPoolExecutor, options: ServeOptions
    ) -> None:
        self.name = name
        self.version = str(version)
        self.max_batch = options.max_batch or runtime.manifest.max_batch
        self._runtime = runtime
        self._decoders = decoders
        self._max_pixels = options.max_pixels
        self._queue = Queue(name, options.max_queue, options.max_queue_mib * 2**20)
        self._batcher = Batcher(runtime.run, max_batch=self.max_batch, max_delay_ms=options.max_delay_ms)

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""
        return self._runtime.manifest

    def start(self) -> None:
        """Run once, so that the first caller does not pay for the runtime's first time, and begin to take work."""
        self._runtime.run(np.zeros((1, *self.manifest.preprocess.shape), np.uint8))
        self._batcher.start()

    async def close(self) -> None:
        """Finish what is waiting and let go of the runtime."""
        await self._batcher.close()
        self._runtime.close()

    async def classify_pixels(
        self, pixels: UInt8[np.ndarray, "n h w 3"], deadline: float | None
    ) -> Float32[np.ndarray, "n c"]:
        """Classify prepared pictures.

        Args:
            pixels: RGB, of the manifest's crop size.
            deadline: on `time.monotonic`'s clock, if there is one.

        Returns:
            Probabilities, in the order of the manifest's labels.

        Raises:
            ServingError: the queue is full, the deadline passed, or the server is going down.
        """
        with self._queue.admit(len(pixels), pixels.nbytes):
            return await self._batcher.submit(pixels, deadline=deadline)

    def check_size(self, pictures: int) -> None:
        """Refuse a request that can never be taken, however empty the queue is.

        Args:
            pictures: how many the request says that it holds.

        Raises:
            InvalidRequestError: more than may wait.
        """
        self._queue.check(pictures)

    async def classify_encoded(self, pictures: Sequence[bytes], deadline: float | None) -> Float32[np.ndarray, "n c"]:
        """Decode, prepare and classify pictures.

        Args:
            pictures: encoded ones, of any size.
            deadline: on `time.monotonic`'s clock, if there is one.

        Returns:
            Probabilities, in the order of the manifest's labels.

        Raises:
            InvalidRequestError: a picture cannot be used; the message says which and why.
            ServingError: as for `classify_pixels`.
        """
        prepared = len(pictures) * math.prod(self.manifest.preprocess.shape)
        with self._queue.admit(len(pictures), prepared + sum(map(len, pictures))):
            return await self._batcher.submit(await self._prepare_all(pictures, deadline), deadline=deadline)

    async def _prepare_all(self, pictures: Sequence[bytes], deadline: float | None) -> UInt8[np.ndarray, "n h w 3"]:
        """Decode in the pool, a core's worth at a time, so that other requests' pictures come in between."""
        prepared = np.empty((len(pictures), *self.manifest.preprocess.shape), np.uint8)
        numbers = iter(range(len(pictures)))

        async def work() -> None:
            for number in numbers:
                if deadline is not None and time.monotonic() > deadline:
                    raise DeadlineError("the deadline passed while the request's pictures were being decoded")
                await asyncio.get_running_loop().run_in_executor(
                    self._decoders, self._prepare, pictures, number, prepared
                )

        workers = [asyncio.ensure_future(work()) for _ in range(min(len(pictures), os.cpu_count() or 1))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return prepared

    def _prepare(self, pictures: Sequence[bytes], number: int, prepared: UInt8[np.ndarray, "n h w 3"]) -> None:
        try:
            prepared[number] = prepare(pictures[number], self.manifest.preprocess, max_pixels=self._max_pixels)
        except PictureError as error:
            raise InvalidRequestError(f"picture {number + 1} of {len(pictures)}: {error}") from error


class ModelSet:
    """Every model of a repository, in its newest version.

    Args:
        options: what to load, and how.

    Raises:
        RepositoryError: the repository is no folder, or holds no model.
        ModelError: a model cannot be loaded.
    """

    def __init__(self, options: ServeOptions) -> None:
        found = ModelRepository(options.repository).models()
        if not found:
            raise RepositoryError(f"{options.repository} holds no model; publish one with `unfreeze export`")
        self._decoders = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        self._models: dict[str, ServedModel] = {}
        for name, versions in found.items():
            path = ModelRepository(options.repository).path(name, versions[-1])
            runtime = OnnxRuntime(path, device=options.device)
            self._models[name] = ServedModel(name, versions[-1], runtime, self._decoders, options)
            _log.info("loaded %s version %d (%s)", name, versions[-1], options.device)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def find(self, name: str, version: str = "") -> ServedModel:
        """Look a model up.

        Args:
            name: in the repository; may be empty where there is only one.
            version: empty for the one that is loaded.

        Raises:
            UnknownModelError: there is no such model or version; the message lists those there are.
        """
        only = next(iter(self._models)) if len(self._models) == 1 else ""
        model = self._models.get(name or only)
        if model is None:
            raise UnknownModelError(f"there is no model {name!r:.200}; there are: {', '.join(self._models)}")
        if version not in ("", model.version):
            raise UnknownModelError(f"{model.name} has version {model.version} loaded, not {version!r:.50}")
        return model

    def start(self) -> None:
        """Warm every model up and begin to take work.

        Raises:
            ModelError: a model fails on its first picture.
        """
        for model in self:
            try:
                model.start()
            except Exception as error:
                raise ModelError(f"{model.name} version {model.version} fails on its first picture: {error}") from error

    async def close(self) -> None:
        """Finish what is waiting and let go of everything."""
        await asyncio.gather(*(model.close() for model in self))
        self._decoders.shutdown()
