"""A loaded version of a model: admission, batching and the runtime behind one call."""

import asyncio
import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.drift.window import Window, WindowDrift
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare, prepare_sized
from unfreeze.contract.model.manifest import Manifest
from unfreeze.serve.models.use_count import UseCount
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes.base import Runtime
from unfreeze.serve.scheduling.admission import Admission
from unfreeze.serve.scheduling.batcher import Batcher
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY, EncodedImage, InferenceRequest
from unfreeze.serve.scheduling.statistics import Statistics, counted


class LoadedModel:
    """A version of a model that is ready to classify images.

    Args:
        name: name in the repository.
        version: version number.
        runtime: executes the model; closed with this object.
        plan: instances, threads and batch size.
        decoders: thread pool that decodes images if the plan is not fused.
        options: batch size and limits.
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
        # Statistics are reported separately for NAME (False) and NAME.encoded (True).
        self.statistics = self.own_statistics = {False: Statistics(), True: Statistics()}
        self._runtime = runtime
        self.answer_width = self.manifest.answer_width
        self._image_bytes = math.prod(self.manifest.preprocess.shape)
        self._uses = UseCount()
        self._window = _window(self.manifest, options)
        self._prepare = partial(prepare, spec=self.manifest.preprocess, max_pixels=options.max_pixels)
        self._batcher = Batcher(
            runtime.run if self._window is None else partial(_watched, runtime, self._window),
            self._prepare if self._window is None else partial(_sized, self._window, self.manifest.preprocess, options),
            runtime.buffer,
            plan,
            decoders,
            max_delay_ms=options.max_delay_ms,
            on_batch=self._add_batch,
        )
        self._admission = Admission(
            name, options.max_queue, options.max_queue_mib * 2**20, lambda: self._batcher.estimate_s(0)
        )

    @property
    def manifest(self) -> Manifest:
        """The model's metadata."""
        return self._runtime.manifest

    @property
    def drift(self) -> WindowDrift:
        """How far the latest images are from the validation images; empty if that is not measured."""
        return WindowDrift() if self._window is None else self._window.drift()

    @property
    def pending(self) -> int:
        """Number of images of accepted requests."""
        return self._admission.images

    def start(self) -> None:
        """Start the instances."""
        self._batcher.start()

    def in_use(self) -> AbstractContextManager["LoadedModel"]:
        """Keep the model loaded while the body runs."""
        return self._uses.counted(self)

    async def close(self) -> None:
        """Wait for its users, execute the queued requests and close the runtime."""
        await self._uses.wait_until_idle()
        await asyncio.to_thread(self._batcher.close)
        self._runtime.close()

    def check_size(self, images: int) -> None:
        """Check that a request could be accepted by an empty queue.

        Args:
            images: number of images in the request.

        Raises:
            InvalidRequestError: the request has more images than the queue may hold.
        """
        self._admission.check_size(images)

    def check_capacity(self, deadline: float | None) -> None:
        """Check that a request of a single image can be accepted now.

        Args:
            deadline: on the clock of `time.monotonic`; None for none.

        Raises:
            QueueFullError: the queue is full.
            DeadlineError: the estimated completion is after the deadline.
        """
        self._admission.check_capacity(1, self._image_bytes)
        self._batcher.check_deadline(1, deadline)

    async def classify(
        self,
        images: Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"],
        deadline: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> Float32[np.ndarray, "n c"]:
        """Classify images.

        Args:
            images: encoded images of any size, or preprocessed ones of the manifest's crop size.
            deadline: on the clock of `time.monotonic`; None for none.
            priority: requests with lower numbers are executed first.

        Returns:
            Rows of the manifest's `answer_output`; `unfreeze.contract.answers` reads them.

        Raises:
            InvalidRequestError: an image cannot be decoded; the message says which one and why.
            ServingError: the queue is full, the deadline cannot be met, or the server is shutting down.
        """
        request = InferenceRequest(images, self.answer_width, deadline=deadline, priority=priority)
        with (
            counted(self.statistics[request.encoded], len(images), request.timing),
            self._admission.admit(len(images), self._memory(images)),
        ):
            return await self._batcher.submit(request)

    def run_image(self, image: EncodedImage | UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " c"]:
        """Classify an image in this thread, beside the queue and the counters: for copies of requests; blocks.

        Args:
            image: encoded, or preprocessed and of the manifest's crop size.

        Raises:
            ImageError: it cannot be decoded.
        """
        pixels = image if isinstance(image, np.ndarray) else self._prepare(bytes(image))
        row: np.ndarray = self._runtime.run(pixels[np.newaxis])[0]
        return row

    def enqueue(self, request: InferenceRequest) -> None:
        """Add a request that another process has accepted and counted.

        Raises:
            ServingError: the deadline cannot be met, or the server is shutting down.
        """
        self._batcher.enqueue(request)

    def cancel(self, request: InferenceRequest) -> None:
        """Skip the images of such a request, because its caller has stopped waiting."""
        self._batcher.cancel(request)

    @property
    def image_s(self) -> float:
        """Seconds per image, as measured lately; 0 if not measured."""
        return self._batcher.image_s

    def _add_batch(self, kinds: AbstractSet[bool], images: int, seconds: float) -> None:
        for encoded in kinds:
            self.statistics[encoded].add_batch(images, seconds)

    def _memory(self, images: Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"]) -> int:
        """Compute the bytes that a request's images need, encoded and preprocessed."""
        preprocessed = len(images) * self._image_bytes
        return preprocessed if isinstance(images, np.ndarray) else preprocessed + sum(map(len, images))


def _window(manifest: Manifest, options: ServeOptions) -> Window | None:
    if manifest.drift is None or not options.drift_window:
        return None
    return Window(manifest.drift, options.drift_window, manifest.projected)


def _sized(window: Window, spec: PreprocessSpec, options: ServeOptions, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Prepare an image, and count its size."""
    pixels, size = prepare_sized(data, spec, max_pixels=options.max_pixels)
    window.add_size(size)
    return pixels


def _watched(runtime: Runtime, window: Window, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
    """Classify a batch, and count its images."""
    rows = runtime.run(pixels)
    window.add(pixels, rows)
    return rows
