"""One version of a model, loaded: the way of an image through it."""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.images.preprocess import prepare
from unfreeze.contract.model.manifest import Manifest
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes import Runtime
from unfreeze.serve.scheduling.admission import Admission
from unfreeze.serve.scheduling.batcher import Batcher
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY, InferenceRequest
from unfreeze.serve.scheduling.statistics import Statistics


class LoadedModel:
    """One version of a model, ready to answer.

    Args:
        name: in the repository.
        version: its number.
        runtime: executes it; closed with this.
        plan: how.
        decoders: decode images where the plan does not let instances do that.
        options: sizes and limits.
    """

    def __init__(
        self,
        name: str,
        version: int,
        runtime: Runtime,
        plan: ExecutionPlan,
        decoders: ThreadPoolExecutor,
        options: ServeOptions,
    ) -> None:
        self.name, self.plan = name, plan
        self.version = str(version)
        self.max_batch = min(options.max_batch or runtime.manifest.max_batch, options.max_queue)
        # NAME and NAME.encoded are two models to those who ask for statistics.
        self.statistics = {False: Statistics(), True: Statistics()}
        self._runtime = runtime
        self._classes = len(self.manifest.labels)
        self._image_bytes = math.prod(self.manifest.preprocess.shape)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._batcher = Batcher(
            runtime.run,
            partial(prepare, spec=self.manifest.preprocess, max_pixels=options.max_pixels),
            runtime.buffer,
            plan,
            decoders,
            max_delay_ms=options.max_delay_ms,
            on_batch=self._add_batch,
        )
        self._admission = Admission(
            name, options.max_queue, options.max_queue_mib * 2**20, lambda: self._batcher.seconds_until(0)
        )

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""
        return self._runtime.manifest

    @property
    def pending(self) -> int:
        """How many images are inside."""
        return self._admission.images

    def start(self) -> None:
        """Begin to take work."""
        self._batcher.start()

    @contextmanager
    def used(self) -> Iterator["LoadedModel"]:
        """Keep it loaded for as long as the body runs."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if self._users == 0:
                self._unused.set()

    async def close(self) -> None:
        """Wait for those who use it, finish what is waiting and let go of the runtime."""
        await self._unused.wait()
        await asyncio.to_thread(self._batcher.close)
        self._runtime.close()

    def check_size(self, images: int) -> None:
        """Refuse a request that can never be taken, however empty the queue is.

        Args:
            images: how many the request says that it holds.

        Raises:
            InvalidRequestError: more than may wait.
        """
        self._admission.check(images)

    def check_room(self, deadline: float | None) -> None:
        """Refuse a request of which nothing is known but that it would add an image.

        Args:
            deadline: on `time.monotonic`'s clock, if there is one.

        Raises:
            QueueFullError: too much is waiting.
            DeadlineError: the answer would come too late.
        """
        self._admission.check_room(1, self._image_bytes)
        self._batcher.check_time(1, deadline)

    async def classify(
        self,
        images: Sequence[bytes] | UInt8[np.ndarray, "n h w 3"],
        deadline: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> Float32[np.ndarray, "n c"]:
        """Classify images.

        Args:
            images: encoded ones, of any size, or prepared ones, of the manifest's crop size.
            deadline: on `time.monotonic`'s clock, if there is one.
            priority: lower numbers go first.

        Returns:
            Probabilities, in the order of the manifest's labels.

        Raises:
            InvalidRequestError: an image cannot be used; the message says which and why.
            ServingError: the queue is full, the deadline passed, or the server is going down.
        """
        arrived = time.monotonic()
        statistics = self.statistics[not isinstance(images, np.ndarray)]
        try:
            with self._admission.admit(len(images), self._size(images)):
                work = InferenceRequest(images, self._classes, deadline=deadline, priority=priority)
                answers = await self._batcher.submit(work)
        except asyncio.CancelledError:
            statistics.add_failure("CANCELED", time.monotonic() - arrived)
            raise
        except UnfreezeError as error:
            statistics.add_failure(type(error).__name__, time.monotonic() - arrived)
            raise
        except Exception:
            statistics.add_failure("BACKEND", time.monotonic() - arrived)
            raise
        statistics.add_success(work)
        return answers

    def _add_batch(self, kinds: AbstractSet[bool], images: int, seconds: float) -> None:
        for encoded in kinds:
            self.statistics[encoded].add_batch(images, seconds)

    def _size(self, images: Sequence[bytes] | UInt8[np.ndarray, "n h w 3"]) -> int:
        prepared = len(images) * self._image_bytes
        return prepared if isinstance(images, np.ndarray) else prepared + sum(map(len, images))
