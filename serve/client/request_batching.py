"""Ask about many images: which go together in a request, and what is asked again after a refusal.

Nothing here calls anybody: `rounds` says what to ask, and each client asks it in its own way.
"""

import os
import random
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.errors import ImageError, InvalidRequestError, QueueFullError, ServingError
from unfreeze.contract.files import visible_files
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.serve.client.messages import Classification, Question, predictions_of

Encoded = bytes | str | os.PathLike[str]
Reply = pb.PredictResponse | ServingError
IMAGES_A_REQUEST = 32
_BYTES_A_REQUEST = 32 * 2**20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_NUMBERED = re.compile(r"image (\d+) of \d+: ")
_TOO_MUCH = re.compile(r"takes no message of this size|send fewer at a time")


@dataclass(frozen=True, kw_only=True)
class LabeledImage:
    """One image, read.

    Args:
        name: as in `Classification`.
        is_file: whether that is a path.
        data: encoded.
        error: why it could not be read, if it could not.
    """

    name: str
    is_file: bool
    data: bytes = b""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Round:
    """What to ask at the same time.

    Args:
        requests: in their order.
        pause_s: to wait before, in seconds.
    """

    requests: list[pb.PredictRequest]
    pause_s: float = 0.0


Rounds = Generator[Round, Sequence[Reply], list[Classification]]


def listed(images: Encoded | Iterable[Encoded]) -> Iterable[Encoded]:
    """Find what is meant: a folder stands for its files, one image for itself."""
    if isinstance(images, str | os.PathLike) and Path(images).is_dir():
        return visible_files(Path(images))
    return [images] if isinstance(images, bytes | str | os.PathLike) else images


def batches(images: Iterable[Encoded], max_message_bytes: int) -> Iterator[list[LabeledImage]]:
    """Read images, each when its turn comes, and put together those of one request.

    Args:
        images: encoded ones (bytes), or files' paths.
        max_message_bytes: the largest request; larger images are not read.
    """
    batch: list[LabeledImage] = []
    size, most = 0, min(_BYTES_A_REQUEST, max_message_bytes // 2)
    for number, image in enumerate(images, start=1):
        read = _read(number, image, max_message_bytes)
        if batch and (len(batch) == IMAGES_A_REQUEST or size + len(read.data) > most):
            yield batch
            batch, size = [], 0
        batch.append(read)
        size += len(read.data)
    if batch:
        yield batch


def _read(number: int, image: Encoded, most: int) -> LabeledImage:
    if isinstance(image, bytes):
        name, is_file = f"image {number}", False
    else:
        name, is_file = str(image), True
    try:
        size = len(image) if isinstance(image, bytes) else Path(image).stat().st_size
        if size > most:
            problem = f"{name}: {size / 2**20:,.1f} MiB are more than a request of {most / 2**20:.0f} MiB holds"
            return LabeledImage(name=name, is_file=is_file, error=problem)
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
    except OSError as error:
        return LabeledImage(name=name, is_file=is_file, error=f"{name} cannot be read: {error.strerror}")
    return LabeledImage(name=name, is_file=is_file, data=data)


def rounds(batch: Sequence[LabeledImage], question: Question, *, attempts: int, strict: bool) -> Rounds:
    """Say what to ask about the images of one request until each has its answer.

    Where a server refuses one of them, the others are asked again without it, in two halves; where it takes less at a
    time, in halves as well; where it is busy, all again after a pause, which is no shorter than its hint.

    Args:
        batch: the images.
        question: what is asked of them.
        attempts: how often a busy server is asked.
        strict: raise where an image cannot be used.

    Yields:
        What to ask next, which may be nothing. Send back a reply to each request.

    Returns:
        An answer for each image.

    Raises:
        ImageError: a file could not be read, and `strict`.
        InvalidRequestError: an image cannot be used, and `strict`; or the request itself is wrong.
        ServingError: the server refused.
    """
    ledger = _Ledger(batch, strict=strict)
    parts, refused, pause_s = ledger.readable(), 0, 0.0
    while True:
        requests = [question.of([batch[place].data for place in part]) for part in parts]
        replies = yield Round(requests=requests, pause_s=pause_s)
        busy = [reply for reply in replies if isinstance(reply, QueueFullError)]
        refused += bool(busy)
        if refused == attempts:
            raise busy[0]
        pause_s = _pause_s(refused, busy)
        parts = [again for part, reply in zip(parts, replies, strict=True) for again in ledger.settle(part, reply)]
        if not parts:
            return ledger.answers()


def _pause_s(refused: int, busy: Sequence[QueueFullError]) -> float:
    """Wait twice as long after every refusal, never less than the server said, and not all clients in step."""
    if not busy:
        return 0.0
    backoff = min(_FIRST_PAUSE_S * 2.0 ** (refused - 1), _LONGEST_PAUSE_S)
    return max(backoff, *(reply.retry_s for reply in busy)) * random.uniform(1.0, 1.2)  # noqa: S311 - no secret


class _Ledger:
    """Which images of a batch have their answers."""

    def __init__(self, batch: Sequence[LabeledImage], *, strict: bool) -> None:
        self._batch, self._strict = batch, strict
        self._answers: dict[int, Classification] = {}

    def readable(self) -> list[list[int]]:
        """Give the places of those that were read, as one part, if there are any."""
        for place, image in enumerate(self._batch):
            if image.error is not None:
                if self._strict:
                    raise ImageError(image.error)
                self._answers[place] = Classification(name=image.name, error=image.error)
        part = [place for place in range(len(self._batch)) if place not in self._answers]
        return [part] if part else []

    def answers(self) -> list[Classification]:
        """Give all answers, in the order of the images."""
        return [self._answers[place] for place in range(len(self._batch))]

    def settle(self, part: list[int], reply: Reply) -> list[list[int]]:
        """Note what a reply says of a part, and give the parts that are to be asked again."""
        if isinstance(reply, pb.PredictResponse):
            for place, prediction in zip(part, reply.predictions, strict=True):
                self._answers[place] = Classification(
                    name=self._batch[place].name, predictions=predictions_of(prediction)
                )
            return []
        if isinstance(reply, QueueFullError):
            return [part]
        blamed = self._blamed(part, str(reply)) if isinstance(reply, InvalidRequestError) else None
        if blamed is not None:
            self._refuse(blamed, reply)
            part = [place for place in part if place != blamed]
        elif not (_TOO_MUCH.search(str(reply)) and len(part) > 1):
            raise reply
        middle = (len(part) + 1) // 2
        return [half for half in (part[:middle], part[middle:]) if half]

    def _blamed(self, part: list[int], message: str) -> int | None:
        """Find the image that a refusal speaks of; None where it speaks of the request."""
        named = _NUMBERED.match(message)
        if named and 1 <= int(named[1]) <= len(part):
            return part[int(named[1]) - 1]
        return part[0] if len(part) == 1 and _TOO_MUCH.search(message) else None

    def _refuse(self, place: int, reply: ServingError) -> None:
        image, message = self._batch[place], str(reply)
        if self._strict:
            raise type(reply)(f"{image.name}: {message}" if image.is_file else message) from reply
        self._answers[place] = Classification(
            name=image.name, error=f"{image.name}: {_NUMBERED.sub('', message, count=1)}"
        )
