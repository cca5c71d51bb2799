"""A pool of drawn images on disk: a sliding window over an endless, seeded sequence of shards.

The content of the pool depends on the step only, so a resumed run sees the same images as an uninterrupted one.
"""

import dataclasses
import multiprocessing
import os
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from bench.pretrain.catalog import draw_image, draw_labels

WORKERS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """Growth of the pool: `first` shards at step 0, one more every `steps_per_shard` steps, at most `window` kept."""

    folder: Path
    seed: int
    images_per_shard: int = 1024
    first: int = 23
    window: int = 30
    steps_per_shard: int = 48

    def shards_at(self, step: int) -> range:
        """List the shards in the pool.

        Args:
            step: Training step, from 0.

        Returns:
            The numbers of the shards.
        """
        stop = self.first + step // self.steps_per_shard
        return range(max(0, stop - self.window), stop)


class Pool:
    """Shards on disk, drawn in advance by worker processes; a context manager that stops the workers."""

    def __init__(self, plan: PoolPlan) -> None:
        self.plan = plan
        self._images: dict[int, np.ndarray] = {}
        self._labels: dict[int, np.ndarray] = {}
        self._pending: dict[int, Future[None]] = {}
        spawn = multiprocessing.get_context("spawn")
        self._workers = ProcessPoolExecutor(WORKERS, spawn, initializer=_end_with_parent)

    def __enter__(self) -> "Pool":  # noqa: PYI034  beartype knows no Self in undecorated classes
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.shutdown(cancel_futures=True)

    def sample(self, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the batch of a training step.

        Args:
            step: Training step, from 0.
            count: Batch size.

        Returns:
            Images, [count, h, w, 3], uint8, and their classes, [count], int64.
        """
        shards = self.plan.shards_at(step)
        self._update(shards)
        rng = np.random.default_rng((self.plan.seed, 1, step))
        picks = np.stack([rng.choice(shards, count), rng.integers(self.plan.images_per_shard, size=count)], -1)
        images = np.stack([self._images[shard][at] for shard, at in picks])
        return images, np.array([self._labels[shard][at] for shard, at in picks])

    def _update(self, shards: range) -> None:
        """Open the shards in the window, start drawing the next one, and delete those that have left the window."""
        for shard in (*shards, shards.stop):
            if shard not in self._images and shard not in self._pending:
                self._pending[shard] = self._workers.submit(draw_shard, self.plan, shard)
        for shard in shards:
            if shard not in self._images:
                self._pending.pop(shard).result()
                self._images[shard] = np.load(_path(self.plan, shard), mmap_mode="r")
                self._labels[shard] = np.load(_labels_path(self.plan, shard))
        for shard in [held for held in self._images if held not in shards]:
            del self._images[shard], self._labels[shard]
            for path in (_path(self.plan, shard), _labels_path(self.plan, shard)):
                path.unlink(missing_ok=True)


def draw_shard(plan: PoolPlan, shard: int) -> None:
    """Draw the images of a shard to disk unless they are there.

    Args:
        plan: Plan of the pool.
        shard: Number of the shard.
    """
    path = _path(plan, shard)
    if path.exists():
        return
    labels = draw_labels(plan.seed, shard, plan.images_per_shard)
    images = np.stack([draw_image(int(label), plan.seed, shard, at) for at, label in enumerate(labels)])
    np.save(_labels_path(plan, shard), labels)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.save(file, images)
    unfinished.replace(path)


def _end_with_parent() -> None:
    """Stop a worker when its parent process has ended, even if the parent was killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
            os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _path(plan: PoolPlan, shard: int) -> Path:
    size = plan.images_per_shard
    return plan.folder / f"seed{plan.seed}-size{size}-shard{shard:05d}.npy"


def _labels_path(plan: PoolPlan, shard: int) -> Path:
    return _path(plan, shard).with_suffix(".labels.npy")
