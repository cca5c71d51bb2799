"""Copies of requests that another version classifies as well, behind everything else that the machine has to do."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.model.manifest import Manifest
from unfreeze.serve.scheduling.request import EncodedImage
from unfreeze.serve.traffic.counts import ShadowCounts
from unfreeze.serve.traffic.side_thread import SideThread

Images = Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"]
_MAX_IMAGES, _MAX_BYTES = 64, 2**25  # of copies that wait
# Keeps an encoded image of the current request, to which a shadow gave another label; None keeps none.
KEEP_DIFFERENT: ContextVar[Callable[[Any, EncodedImage, np.ndarray], None] | None] = ContextVar(
    "KEEP_DIFFERENT", default=None
)
_MAX_WAIT_S, _POLL_S, _MAX_RUN_S = 2.0, 0.005, 30.0
_CONTENDED, _PAUSE = 0.25, 20.0  # share of an image's time spent waiting for a core, and the pause after it
_log = logging.getLogger(__name__)


@runtime_checkable
class ShadowedModel(Protocol):
    """A loaded version, as far as a shadow needs it."""

    name: str
    version: str

    @property
    def manifest(self) -> Manifest:
        """Its metadata."""

    def in_use(self) -> AbstractContextManager[Any]:
        """Keep it loaded while the body runs."""

    def run_image(self, image: EncodedImage | UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " c"]:
        """Classify an image in this thread, beside the queue."""


@dataclass(frozen=True, eq=False)
class _Copy:
    """A request that was answered: what was asked, what was answered, and what keeps the shadow loaded."""

    shadow: ShadowedModel
    labels: tuple[str, ...]
    images: Images
    answers: np.ndarray
    use: AbstractContextManager[Any]
    at: float
    on_different: Callable[[int], None] | None


class Shadows:
    """Classifies copies one image at a time, in one thread of low priority, while the machine has cores to spare.

    Where it has to wait for a core, because other programs take them, it pauses for 20 times as long as the image took.
    A copy is dropped, and counted, when too many wait or when it has waited for two seconds. Use it in one event loop.

    Args:
        pending: returns the number of accepted images of callers, of all models.
        cores: with half as many accepted images, the machine is busy: the protocols and decoding need cores too.

    Attributes:
        counts: by name of the model and version of the shadow, since the start.
    """

    def __init__(self, pending: Callable[[], int], cores: int | None = None) -> None:
        self.pending, self.counts = pending, dict[tuple[str, str], ShadowCounts]()
        self._cores = cores or usable_cores()
        self._waiting: deque[_Copy] = deque()
        self._images = self._bytes = 0
        self._resume_at = 0.0
        self._stuck: set[ShadowedModel] = set()
        self._thread: SideThread | None = None
        self._task: asyncio.Task[None] | None = None

    def offer(
        self,
        stable: ShadowedModel,
        shadow: ShadowedModel,
        images: Images,
        answers: Float32[np.ndarray, "n a"],
        *,
        overwritten: bool = False,
    ) -> None:
        """Take a copy of an answered request, or drop it; never raises, and never waits.

        Args:
            stable: the version that answered.
            shadow: the version to compare it with.
            images: what the caller sent.
            answers: rows of the output of the stable version.
            overwritten: the memory of preprocessed images is used again after this call.
        """
        counts = self.of(shadow)
        size = images.nbytes if isinstance(images, np.ndarray) else sum(map(len, images))
        is_full = self._images + len(images) > _MAX_IMAGES or self._bytes + size > _MAX_BYTES
        if is_full or shadow in self._stuck:
            counts.dropped += len(images)
            return
        if overwritten and isinstance(images, np.ndarray):
            images, answers = images.copy(), answers.copy()
        use = shadow.in_use()
        use.__enter__()
        self._images += len(images)
        self._bytes += size
        on_different = _on_different(stable, images, answers)
        copy = _Copy(shadow, stable.manifest.labels, images, answers, use, time.monotonic(), on_different)
        self._waiting.append(copy)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="shadow")

    def of(self, shadow: ShadowedModel) -> ShadowCounts:
        """Return the counts of a version."""
        return self.counts.setdefault((shadow.name, shadow.version), ShadowCounts())

    async def close(self) -> None:
        """Drop what waits, so that the versions can be closed."""
        for copy in self._waiting:
            self.of(copy.shadow).dropped += len(copy.images)
            copy.use.__exit__(None, None, None)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._thread is not None:
            self._thread.close()

    async def _work(self) -> None:
        """Classify what waits, until nothing does."""
        while self._waiting:
            copy = self._waiting.popleft()
            try:
                await self._compare(copy)
            except Exception:  # noqa: BLE001 - a shadow harms nobody
                _log.exception("the shadow %s version %s failed", copy.shadow.name, copy.shadow.version)
            finally:
                copy.use.__exit__(None, None, None)
                images = copy.images
                self._images -= len(images)
                self._bytes -= images.nbytes if isinstance(images, np.ndarray) else sum(map(len, images))

    async def _compare(self, copy: _Copy) -> None:
        counts, done = self.of(copy.shadow), 0
        try:
            for index, expected in enumerate(copy.answers):
                if copy.shadow in self._stuck or not await self._has_time(copy.at):
                    break
                found = await self._classify(copy.shadow, copy.images[index])
                done += 1
                if found is None:
                    counts.failed += 1
                    continue
                same = _count(counts, copy.labels, expected, copy.shadow.manifest.labels, found)
                if not same and copy.on_different is not None:
                    copy.on_different(index)
        finally:
            counts.dropped += len(copy.images) - done

    async def _has_time(self, since: float) -> bool:
        while 2 * self.pending() >= self._cores or time.monotonic() < self._resume_at:
            if time.monotonic() - since > _MAX_WAIT_S:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def _classify(self, shadow: ShadowedModel, image: Any) -> np.ndarray | None:
        if self._thread is None:
            self._thread = SideThread()
        started = time.monotonic()
        try:
            async with asyncio.timeout(_MAX_RUN_S):
                found: np.ndarray = await self._thread.run(lambda: shadow.run_image(image))
        except TimeoutError:
            _log.error("the shadow %s version %s hangs, and gets no more images", shadow.name, shadow.version)
            self._stuck.add(shadow)
            self._thread.close()
            self._thread = None
        except Exception as error:  # noqa: BLE001 - whatever the runtime raises harms nobody
            if not self.of(shadow).failed:
                about = shadow.name, shadow.version, error
                _log.warning("the shadow %s version %s cannot classify an image: %s", *about)
        else:
            if self._thread.contention > _CONTENDED:
                now = time.monotonic()
                self._resume_at = now + _PAUSE * (now - started)
            return found
        return None


def _count(
    counts: ShadowCounts,
    labels: tuple[str, ...],
    expected: Float32[np.ndarray, " c"],
    shadow_labels: tuple[str, ...],
    found: Float32[np.ndarray, " d"],
) -> bool:
    """Compare two answers, of versions with other labels by label; return whether their top labels are equal."""
    expected, found = expected[: len(labels)], found[: len(shadow_labels)]
    same = labels[int(expected.argmax())] == shadow_labels[int(found.argmax())]
    counts.same += same
    counts.different += not same
    if labels == shadow_labels:
        counts.difference += float(np.abs(expected - found).mean())
        return same
    first, second = (dict(zip(*pair, strict=True)) for pair in ((labels, expected), (shadow_labels, found)))
    names = first.keys() | second.keys()
    counts.difference += float(sum(abs(first.get(one, 0.0) - second.get(one, 0.0)) for one in names)) / len(names)
    return same


def _on_different(stable: ShadowedModel, images: Images, answers: np.ndarray) -> Callable[[int], None] | None:
    """Return what keeps an image of a request whose answers differ; None if its images may not be kept."""
    keep = KEEP_DIFFERENT.get()
    if keep is None or isinstance(images, np.ndarray):
        return None
    context = copy_context()  # with the ID of the request
    return lambda index: context.run(keep, stable, images[index], answers[index])
