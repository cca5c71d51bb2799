"""Admission: how much may be inside a model at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contract.errors import InvalidRequestError, QueueFullError

_AGAIN_S, _LEAST_S, _MOST_S = 0.1, 0.01, 5.0


class Admission:
    """Counts the pictures and the bytes that are inside, from their request's arrival to its answer.

    Args:
        name: of the model, for messages.
        max_pictures: more are refused.
        max_bytes: of encoded pictures and of prepared ones; more are refused.
        seconds: estimates when what is inside will be done, as a hint to those who are refused.
    """

    def __init__(
        self, name: str, max_pictures: int, max_bytes: int, seconds: Callable[[], float] = lambda: _AGAIN_S
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._max_pictures = max_pictures
        self._max_bytes = max_bytes
        self._pictures = 0
        self._bytes = 0

    def check(self, pictures: int) -> None:
        """Refuse what can never be taken.

        Args:
            pictures: of one request.

        Raises:
            InvalidRequestError: more than may wait altogether.
        """
        if pictures > self._max_pictures:
            raise InvalidRequestError(
                f"the request holds {pictures:,} pictures; no more than {self._max_pictures:,} may wait for "
                f"{self._name}: send fewer at a time"
            )

    def _hint(self) -> float:
        """Say when about a half of what is inside will be done."""
        return min(max(self._seconds() / 2, _LEAST_S), _MOST_S)

    @property
    def pictures(self) -> int:
        """How many are inside."""
        return self._pictures

    @contextmanager
    def admit(self, pictures: int, size: int) -> Iterator[None]:
        """Take a request in for as long as the body runs.

        Args:
            pictures: of the request, at least one.
            size: in bytes, of what it keeps in memory.

        Raises:
            InvalidRequestError: the request holds no picture, or more than can ever be taken.
            QueueFullError: too much is inside already.
        """
        if pictures == 0:
            raise InvalidRequestError("the request holds no picture")
        self.check(pictures)
        self.check_room(pictures, size)
        self._pictures += pictures
        self._bytes += size
        try:
            yield
        finally:
            self._pictures -= pictures
            self._bytes -= size

    def check_room(self, pictures: int, size: int) -> None:
        """Refuse what does not fit beside what is inside.

        Args:
            pictures: of the request.
            size: in bytes.

        Raises:
            QueueFullError: too much is inside already.
        """
        if self._pictures + pictures > self._max_pictures:
            raise QueueFullError(
                f"{self._pictures} pictures are waiting for {self._name}; no more than {self._max_pictures} may: "
                "try later",
                self._hint(),
            )
        if self._pictures and self._bytes + size > self._max_bytes:
            raise QueueFullError(
                f"{self._bytes / 2**20:.0f} MiB of pictures are waiting for {self._name}; no more than "
                f"{self._max_bytes / 2**20:.0f} may: try later",
                self._hint(),
            )
