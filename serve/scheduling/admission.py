"""Admission: how much may be inside a model at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unfreeze.contract.errors import InvalidRequestError, QueueFullError

_AGAIN_S, _LEAST_S, _MOST_S = 0.1, 0.01, 5.0


class Admission:
    """Counts the images and the bytes that are inside, from their request's arrival to its answer.

    Args:
        name: of the model, for messages.
        max_images: more are refused.
        max_bytes: of encoded images and of prepared ones; more are refused.
        seconds: estimates when what is inside will be done, as a hint to those who are refused.
    """

    def __init__(
        self, name: str, max_images: int, max_bytes: int, seconds: Callable[[], float] = lambda: _AGAIN_S
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._images = 0
        self._bytes = 0

    def check(self, images: int) -> None:
        """Refuse what can never be taken.

        Args:
            images: of one request.

        Raises:
            InvalidRequestError: more than may wait altogether.
        """
        if images > self._max_images:
            raise InvalidRequestError(
                f"the request holds {images:,} images; no more than {self._max_images:,} may wait for "
                f"{self._name}: send fewer at a time"
            )

    def _hint(self) -> float:
        """Say when about a half of what is inside will be done."""
        return min(max(self._seconds() / 2, _LEAST_S), _MOST_S)

    @property
    def images(self) -> int:
        """How many are inside."""
        return self._images

    @contextmanager
    def admit(self, images: int, size: int) -> Iterator[None]:
        """Take a request in for as long as the body runs.

        Args:
            images: of the request, at least one.
            size: in bytes, of what it keeps in memory.

        Raises:
            InvalidRequestError: the request holds no image, or more than can ever be taken.
            QueueFullError: too much is inside already.
        """
        if images == 0:
            raise InvalidRequestError("the request holds no image")
        self.check(images)
        self.check_room(images, size)
        self._images += images
        self._bytes += size
        try:
            yield
        finally:
            self._images -= images
            self._bytes -= size

    def check_room(self, images: int, size: int) -> None:
        """Refuse what does not fit beside what is inside.

        Args:
            images: of the request.
            size: in bytes.

        Raises:
            QueueFullError: too much is inside already.
        """
        if self._images + images > self._max_images:
            raise QueueFullError(
                f"{self._images} images are waiting for {self._name}; no more than {self._max_images} may: try later",
                self._hint(),
            )
        if self._images and self._bytes + size > self._max_bytes:
            raise QueueFullError(
                f"{self._bytes / 2**20:.0f} MiB of images are waiting for {self._name}; no more than "
                f"{self._max_bytes / 2**20:.0f} may: try later",
                self._hint(),
            )
