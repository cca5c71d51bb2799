"""Admission control: limits how many images and bytes a model holds at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unfreeze.contract.errors import InvalidRequestError, QueueFullError

_DEFAULT_DRAIN_S, _MIN_RETRY_S, _MAX_RETRY_S = 0.1, 0.01, 5.0


class Admission:
    """Counts the images and bytes of accepted requests, from arrival to response.

    Args:
        name: name of the model, for messages.
        max_images: limit of images.
        max_bytes: limit of bytes of encoded and preprocessed images.
        drain_s: estimates the seconds until all accepted images are classified, for the retry hint.
        accepted_elsewhere: returns the images and bytes that other processes of the same server have accepted.
        on_change: called with the images and bytes that are accepted here, after each change.
    """

    def __init__(
        self,
        name: str,
        max_images: int,
        max_bytes: int,
        drain_s: Callable[[], float] = lambda: _DEFAULT_DRAIN_S,
        accepted_elsewhere: Callable[[], tuple[int, int]] = lambda: (0, 0),
        on_change: Callable[[int, int], None] = lambda _images, _size: None,
    ) -> None:
        self._name = name
        self._drain_s, self._accepted_elsewhere, self._on_change = drain_s, accepted_elsewhere, on_change
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._images = 0
        self._bytes = 0

    @property
    def images(self) -> int:
        """Number of images of accepted requests."""
        return self._images

    def check_size(self, images: int) -> None:
        """Check that a request could be accepted by an empty queue.

        Args:
            images: number of images in the request.

        Raises:
            InvalidRequestError: the request has more images than the queue may hold.
        """
        if images > self._max_images:
            raise InvalidRequestError(
                f"the request has {images:,} images, but at most {self._max_images:,} may wait for model "
                f"{self._name}; send fewer images per request"
            )

    def check_capacity(self, images: int, size: int) -> None:
        """Check that a request can be accepted now.

        Args:
            images: number of images in the request.
            size: memory that the request needs, in bytes.

        Raises:
            QueueFullError: a limit would be exceeded.
        """
        self._check(images, size, self._images, self._bytes)

    @contextmanager
    def admit(self, images: int, size: int) -> Iterator[None]:
        """Accept a request and count it while the body runs.

        Args:
            images: number of images in the request, at least 1.
            size: memory that the request needs, in bytes.

        Raises:
            InvalidRequestError: the request has no images, or more than the queue may hold.
            QueueFullError: a limit would be exceeded.
        """
        if images == 0:
            raise InvalidRequestError("the request has no images")
        self.check_size(images)
        own_images, own_bytes = self._images, self._bytes
        # Counted before the check, so that of two processes that accept at the same time, neither misses the other.
        self._change(images, size)
        try:
            self._check(images, size, own_images, own_bytes)
            yield
        finally:
            self._change(-images, -size)

    def _check(self, images: int, size: int, own_images: int, own_bytes: int) -> None:
        more_images, more_bytes = self._accepted_elsewhere()
        accepted_images, accepted_bytes = own_images + more_images, own_bytes + more_bytes
        if accepted_images + images > self._max_images:
            raise QueueFullError(
                f"the queue of model {self._name} is full: {accepted_images} of at most {self._max_images} images are "
                "waiting; retry later",
                self._retry_s(),
            )
        if accepted_images and accepted_bytes + size > self._max_bytes:
            raise QueueFullError(
                f"the queue of model {self._name} is full: {accepted_bytes / 2**20:.0f} of at most "
                f"{self._max_bytes / 2**20:.0f} MiB of images are waiting; retry later",
                self._retry_s(),
            )

    def _change(self, images: int, size: int) -> None:
        self._images += images
        self._bytes += size
        self._on_change(self._images, self._bytes)

    def _retry_s(self) -> float:
        """Estimate when about half of the accepted images will be classified."""
        return min(max(self._drain_s() / 2, _MIN_RETRY_S), _MAX_RETRY_S)
