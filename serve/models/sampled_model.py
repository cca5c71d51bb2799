"""A version whose next request is copied for a shadow."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.drift.window import WindowDrift
from unfreeze.contract.model.manifest import Manifest
from unfreeze.serve.models.served import ServedModel
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY, EncodedImage

Classify = Callable[[Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"], float | None, int], Awaitable[np.ndarray]]


class SampledModel:
    """Implements `ServedModel`: a version, of which one request is classified in another way.

    Args:
        model: the version.
        classify: does what its `classify` does, and copies the request.
    """

    def __init__(self, model: ServedModel, classify: Classify) -> None:
        self._model, self._classify = model, classify
        self.name, self.version, self.max_batch = model.name, model.version, model.max_batch
        self.statistics, self.own_statistics = model.statistics, model.own_statistics

    @property
    def manifest(self) -> Manifest:
        """Its metadata."""
        return self._model.manifest

    @property
    def plan(self) -> object:
        """Its execution plan."""
        return self._model.plan

    @property
    def pending(self) -> int:
        """Number of images of accepted requests."""
        return self._model.pending

    @property
    def drift(self) -> WindowDrift:
        """How far the latest images are from the validation images."""
        return self._model.drift

    @contextmanager
    def in_use(self) -> Iterator["SampledModel"]:
        """Keep it loaded while the body runs."""
        with self._model.in_use():
            yield self

    def check_size(self, images: int) -> None:
        """Check that a request of so many images could be accepted by an empty queue."""
        self._model.check_size(images)

    def check_capacity(self, deadline: float | None) -> None:
        """Check that a request of a single image can be accepted now."""
        self._model.check_capacity(deadline)

    async def classify(
        self,
        images: Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"],
        deadline: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> Float32[np.ndarray, "n c"]:
        """Classify images, and let a shadow have a copy."""
        return await self._classify(images, deadline, priority)
